"""Which uploaded images belong to which job: a row is written before the object, and deleted after it.

So an upload can always be found and deleted, whenever the process was killed. The objects are in the object store.
"""

from __future__ import annotations

from collections.abc import Sequence

from minitoolai.storage.database import Connection


def add(connection: Connection, job_id: int, keys: Sequence[str], now_ms: int) -> None:
    """Record the object keys that a job is about to upload."""
    connection.execute_many(
        "INSERT INTO job_inputs (object_key, job_id, created_ms) VALUES (?, ?, ?)",
        [(key, job_id, now_ms) for key in dict.fromkeys(keys)],
    )


def keys_of(connection: Connection, job_id: int) -> list[str]:
    """Return the object keys of a job's uploads."""
    return [row[0] for row in connection.execute("SELECT object_key FROM job_inputs WHERE job_id = ?", (job_id,))]


def unneeded(connection: Connection, submitted_before_ms: int, limit: int) -> list[str]:
    """Return object keys of jobs that have ended, and of those submitted before this time that were refused."""
    rows = connection.execute(
        "SELECT i.object_key FROM job_inputs i LEFT JOIN generations g ON g.id = i.job_id"
        " WHERE (g.id IS NULL AND i.created_ms < ?) OR (g.state <> 'queued' AND g.state <> 'running') LIMIT ?",
        (submitted_before_ms, limit),
    )
    return [row[0] for row in rows]


def remove(connection: Connection, keys: Sequence[str]) -> None:
    """Forget object keys, once the objects are deleted."""
    connection.execute_many("DELETE FROM job_inputs WHERE object_key = ?", [(key,) for key in keys])
