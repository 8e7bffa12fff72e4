"""What time takes: the promise of a picture (`result`, its object's key), the words it was asked for with, and
sessions, links and events that are long over. Every function takes a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from minitoolai.storage.database import Connection
from minitoolai.storage.object_store import job_of


def picture_of(connection: Connection, job_id: int) -> tuple[str, str | None] | None:
    """State and key of a job's picture; None where there is no such job."""
    rows = connection.execute("SELECT state, result FROM generations WHERE id = ? AND kind = 'image'", (job_id,))
    return (rows[0][0], rows[0][1]) if rows else None


def expire_pictures(connection: Connection, before_ms: int, most: int) -> list[str]:
    """Take back the promise of pictures finished before this moment, the oldest first; their keys."""
    rows = connection.execute(
        "SELECT id, result FROM generations WHERE kind = 'image' AND result IS NOT NULL AND finished_ms < ?"
        " ORDER BY finished_ms LIMIT ?",
        (before_ms, most),
    )
    connection.execute_many("UPDATE generations SET result = NULL WHERE id = ?", [(row[0],) for row in rows])
    return [row[1] for row in rows]


def forget_words(connection: Connection, before_ms: int, most: int) -> int:
    """Forget what was asked for, and with which words it failed, of pictures over before this moment; of how many."""
    rows = connection.execute(
        "SELECT id FROM generations WHERE kind = 'image' AND request IS NOT NULL AND finished_ms IS NOT NULL"
        " AND finished_ms < ? ORDER BY finished_ms LIMIT ?" + connection.skip_locked,
        (before_ms, most),
    )
    if rows:
        connection.execute_many(
            "UPDATE generations SET request = NULL, error = NULL, webhook_url = NULL WHERE id = ?", rows
        )
    return len(rows)


#: Table → its key, and when a row of it was over. Each is a few pages for as long as it is swept.
_OVER = {
    "sessions": ("secret_hash", "expires_ms"),
    "mail_links": ("secret_hash", "expires_ms"),
    "webhook_events": ("event_id", "seen_ms"),
}


def sweep(connection: Connection, table: str, before_ms: int, most: int) -> int:
    """Delete rows of one of these tables that were over before this moment; how many."""
    key, over_ms = _OVER[table]
    rows = connection.execute(
        f"SELECT {key} FROM {table} WHERE {over_ms} < ? LIMIT ?" + connection.skip_locked, (before_ms, most)
    )
    if rows:
        connection.execute_many(f"DELETE FROM {table} WHERE {key} = ?", rows)
    return len(rows)


def unpromised(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Of these objects, those whose job says that it has, or will have, no use for them.

    An object of a job that is not in these books may be somebody else's: it is never among them.
    """
    jobs = {job_of(key): key for key in keys}
    rows = connection.select_by_ids("SELECT id, state, result FROM generations WHERE id IN (…)", jobs)
    known = {row[0]: (row[1], row[2]) for row in rows}
    return [
        key
        for key in keys
        if job_of(key) in known and known[job_of(key)][0] not in ("queued", "running") and known[job_of(key)][1] != key
    ]
