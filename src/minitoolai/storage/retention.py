"""Which pictures are still promised: `result` of a succeeded image is its object's key until retention takes it."""

from __future__ import annotations

from collections.abc import Sequence

from minitoolai.storage.database import Connection
from minitoolai.storage.objects import job_of


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
