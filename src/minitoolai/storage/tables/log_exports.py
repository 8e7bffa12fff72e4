"""Rows of accounts whose request log is sent to a bucket or a webhook each day."""

from __future__ import annotations

from typing import Literal, NamedTuple

from minitoolai.storage.database import Connection, Row

_COLUMNS = "account_id, kind, format, target, secret, next_day, next_ms, failures, error, done_day, done_ms, changed_ms"


class LogExport(NamedTuple):
    """Where the request log of an account goes, and the day that is sent next."""

    account_id: int
    kind: Literal["s3", "webhook"]
    format: Literal["csv", "jsonl"]
    #: A URL, or a bucket as JSON.
    target: str
    #: The encrypted secret access key of the bucket.
    secret: bytes | None
    #: Number of the day since 1970 that is sent next, and when.
    next_day: int
    next_ms: int
    #: Attempts of that day that failed, and why the last one did.
    failures: int
    error: str | None
    done_day: int | None
    done_ms: int | None
    changed_ms: int


def _export(row: Row) -> LogExport:
    export = LogExport(*row)
    return export if export.secret is None else export._replace(secret=bytes(export.secret))


def find(connection: Connection, account_id: int) -> LogExport | None:
    """Return the export of an account, or None."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM log_exports WHERE account_id = ?", (account_id,))
    return _export(rows[0]) if rows else None


def replace(connection: Connection, export: LogExport) -> None:
    """Insert an export in place of the one that the account may have."""
    delete(connection, export.account_id)
    connection.execute(
        f"INSERT INTO log_exports ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", tuple(export)
    )


def delete(connection: Connection, account_id: int) -> bool:
    """Delete the export of an account. Return False if there is none."""
    return bool(connection.execute_many("DELETE FROM log_exports WHERE account_id = ?", [(account_id,)]))


def due(connection: Connection, now_ms: int, limit: int) -> list[LogExport]:
    """Return exports that are due, the longest waiting first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM log_exports WHERE next_ms <= ? ORDER BY next_ms LIMIT ?", (now_ms, limit)
    )
    return [_export(row) for row in rows]


def claim(connection: Connection, seen: LogExport, until_ms: int) -> bool:
    """Let other processes wait until this time. Return False if the row changed since it was read."""
    return bool(
        connection.execute_many(
            "UPDATE log_exports SET next_ms = ? WHERE account_id = ? AND next_ms = ? AND changed_ms = ?",
            [(until_ms, seen.account_id, seen.next_ms, seen.changed_ms)],
        )
    )


def record(connection: Connection, seen: LogExport, result: LogExport) -> bool:
    """Store how an attempt ended. Return False if the customer changed the export meanwhile."""
    return bool(
        connection.execute_many(
            "UPDATE log_exports SET next_day = ?, next_ms = ?, failures = ?, error = ?, done_day = ?, done_ms = ?"
            " WHERE account_id = ? AND changed_ms = ? AND next_day = ?",
            [
                (
                    result.next_day, result.next_ms, result.failures, result.error, result.done_day, result.done_ms,
                    seen.account_id, seen.changed_ms, seen.next_day,
                )
            ],
        )
    )  # fmt: skip


def all_secrets(connection: Connection) -> list[tuple[int, bytes]]:
    """Return account and encrypted secret of every export to a bucket."""
    rows = connection.execute("SELECT account_id, secret FROM log_exports WHERE secret IS NOT NULL")
    return [(row[0], bytes(row[1])) for row in rows]


def replace_secret(connection: Connection, account_id: int, old: bytes, new: bytes) -> None:
    """Store the same secret under another encryption, unless the row changed since it was read."""
    connection.execute("UPDATE log_exports SET secret = ? WHERE account_id = ? AND secret = ?", (new, account_id, old))
