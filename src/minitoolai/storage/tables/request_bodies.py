"""Rows of stored requests and responses, and of the accounts that have them stored. Both are encrypted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from minitoolai.storage.database import Connection

_COLUMNS = "id, account_id, request, response, request_bytes, response_bytes, expires_ms"


class BodySettings(NamedTuple):
    """For how many days the bodies of an account are stored, and the encrypted key that encrypts them."""

    account_id: int
    #: 0: they are not stored.
    days: int
    #: None: they are not stored, and those from before are unreadable.
    wrapped_key: bytes | None
    changed_ms: int


class BodyRow(NamedTuple):
    """Request and response of a generation, encrypted, with their sizes before they were cut."""

    id: int
    account_id: int
    request: bytes | None
    response: bytes | None
    request_bytes: int
    response_bytes: int
    expires_ms: int


def find_settings(connection: Connection, account_id: int) -> BodySettings | None:
    """Return the settings of an account, or None if it never had bodies stored."""
    rows = connection.execute(
        "SELECT account_id, days, wrapped_key, changed_ms FROM body_settings WHERE account_id = ?", (account_id,)
    )
    return None if not rows else BodySettings(rows[0][0], rows[0][1], _bytes(rows[0][2]), rows[0][3])


def _bytes(value: object) -> bytes | None:
    return None if value is None else bytes(value)  # type: ignore[call-overload]


def save_settings(connection: Connection, settings: BodySettings) -> None:
    """Replace the settings of an account."""
    connection.execute("DELETE FROM body_settings WHERE account_id = ?", (settings.account_id,))
    connection.execute(
        "INSERT INTO body_settings (account_id, days, wrapped_key, changed_ms) VALUES (?, ?, ?, ?)", tuple(settings)
    )


def wrapped_keys(connection: Connection, account_ids: Iterable[int]) -> dict[int, bytes]:
    """Return account → encrypted key, of these accounts that have bodies stored."""
    rows = connection.select_by_ids(
        "SELECT account_id, wrapped_key FROM body_settings WHERE account_id IN (…)", account_ids
    )
    return {row[0]: bytes(row[1]) for row in rows if row[1] is not None}


def all_keys(connection: Connection) -> list[tuple[int, bytes]]:
    """Return account and encrypted key of every account that has bodies stored."""
    rows = connection.execute("SELECT account_id, wrapped_key FROM body_settings WHERE wrapped_key IS NOT NULL")
    return [(row[0], bytes(row[1])) for row in rows]


def replace_key(connection: Connection, account_id: int, old: bytes, new: bytes) -> None:
    """Store the same key under another encryption, unless the row changed since it was read."""
    connection.execute(
        "UPDATE body_settings SET wrapped_key = ? WHERE account_id = ? AND wrapped_key = ?", (new, account_id, old)
    )


def insert(connection: Connection, rows: Sequence[BodyRow]) -> int:
    """Insert rows, except those of generations that have one, and return how many."""
    return connection.execute_many(
        f"INSERT INTO request_bodies ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [tuple(row) for row in rows],
    )


def find(connection: Connection, generation_id: int, account_id: int, now_ms: int) -> BodyRow | None:
    """Return the stored bodies of a generation of this account, or None if there are none or they have expired."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM request_bodies WHERE id = ? AND account_id = ? AND expires_ms > ?",
        (generation_id, account_id, now_ms),
    )
    if not rows:
        return None
    row = rows[0]
    return BodyRow(row[0], row[1], _bytes(row[2]), _bytes(row[3]), row[4], row[5], row[6])


def delete_expired(connection: Connection, now_ms: int, limit: int) -> int:
    """Delete rows that have expired, and return how many."""
    rows = connection.execute(
        "SELECT id FROM request_bodies WHERE expires_ms < ? LIMIT ?" + connection.skip_locked, (now_ms, limit)
    )
    return connection.execute_many("DELETE FROM request_bodies WHERE id = ?", rows) if rows else 0


def delete_unreadable(connection: Connection, limit: int) -> int:
    """Delete rows of accounts that have turned the storage off, and return how many. Their key is gone already."""
    for (account_id,) in connection.execute("SELECT account_id FROM body_settings WHERE wrapped_key IS NULL LIMIT 1"):
        rows = connection.execute(
            "SELECT id FROM request_bodies WHERE account_id = ? ORDER BY id LIMIT ?", (account_id, limit)
        )
        if rows:
            return connection.execute_many("DELETE FROM request_bodies WHERE id = ?", rows)
        connection.execute("DELETE FROM body_settings WHERE account_id = ? AND wrapped_key IS NULL", (account_id,))
        return 1
    return 0


def erase(connection: Connection, account_id: int) -> None:
    """Delete the key of an account, which makes every copy of its bodies unreadable, and the rows."""
    connection.execute("DELETE FROM body_settings WHERE account_id = ?", (account_id,))
    connection.execute("DELETE FROM request_bodies WHERE account_id = ?", (account_id,))
