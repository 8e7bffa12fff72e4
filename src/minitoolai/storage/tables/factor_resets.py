"""Rows of removals of second factors that users without device and recovery codes have asked for."""

from __future__ import annotations

from typing import NamedTuple

from minitoolai.storage.database import Connection, Row

_COLUMNS = "user_id, id, created_ms, confirmed_ms, ready_ms, next_mail_ms, expires_ms"


class FactorReset(NamedTuple):
    """A removal: asked for with the password, confirmed by the mailbox, ready after a waiting period."""

    user_id: int
    #: What links in e-mails name.
    id: int
    created_ms: int
    confirmed_ms: int | None
    ready_ms: int | None
    next_mail_ms: int | None
    expires_ms: int


def _reset(row: Row) -> FactorReset:
    return FactorReset(*row)


def replace(connection: Connection, reset: FactorReset) -> None:
    """Insert a removal in place of the one that the user may have."""
    delete(connection, reset.user_id)
    connection.execute(f"INSERT INTO factor_resets ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", tuple(reset))


def of_user(connection: Connection, user_id: int, now_ms: int) -> FactorReset | None:
    """Return the removal of this user, or None if there is none or it has expired."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM factor_resets WHERE user_id = ? AND expires_ms > ?", (user_id, now_ms)
    )
    return _reset(rows[0]) if rows else None


def find(connection: Connection, reset_id: int, now_ms: int) -> FactorReset | None:
    """Return the removal with this ID, or None if it is unknown or has expired."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM factor_resets WHERE id = ? AND expires_ms > ?", (reset_id, now_ms)
    )
    return _reset(rows[0]) if rows else None


def set_times(connection: Connection, reset: FactorReset) -> None:
    """Store the times of a removal."""
    connection.execute(
        "UPDATE factor_resets SET confirmed_ms = ?, ready_ms = ?, next_mail_ms = ?, expires_ms = ? WHERE id = ?",
        (reset.confirmed_ms, reset.ready_ms, reset.next_mail_ms, reset.expires_ms, reset.id),
    )


def has_due(connection: Connection, now_ms: int) -> bool:
    """Return True if an e-mail about a removal is due."""
    return bool(
        connection.execute(
            "SELECT 1 FROM factor_resets WHERE next_mail_ms IS NOT NULL AND next_mail_ms <= ? LIMIT 1", (now_ms,)
        )
    )


def due(connection: Connection, now_ms: int, limit: int) -> list[FactorReset]:
    """Return removals with an e-mail that is due, locked so that one process sends it."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM factor_resets WHERE next_mail_ms IS NOT NULL AND next_mail_ms <= ?"
        " ORDER BY next_mail_ms LIMIT ?" + connection.skip_locked,
        (now_ms, limit),
    )
    return [_reset(row) for row in rows]


def delete(connection: Connection, user_id: int) -> bool:
    """Delete the removal of this user. Return False if there is none."""
    return bool(connection.execute_many("DELETE FROM factor_resets WHERE user_id = ?", [(user_id,)]))
