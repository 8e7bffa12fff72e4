"""Delete rows after their retention period: results and prompts of image jobs, sessions, links and events.

Every function handles a small batch of rows, so that no transaction is long.
"""

from __future__ import annotations

from collections.abc import Sequence

from minitoolai.storage.database import Connection
from minitoolai.storage.object_store import job_of


def find_image(connection: Connection, job_id: int) -> tuple[str, str | None] | None:
    """Return the state of an image job and the object key of its image, or None if there is no such job."""
    rows = connection.execute("SELECT state, result FROM generations WHERE id = ? AND kind = 'image'", (job_id,))
    return (rows[0][0], rows[0][1]) if rows else None


def expire_images(connection: Connection, before_ms: int, limit: int) -> list[str]:
    """Clear the results of image jobs that finished before this time, oldest first, and return their object keys."""
    rows = connection.execute(
        "SELECT id, result FROM generations WHERE kind = 'image' AND result IS NOT NULL AND finished_ms < ?"
        " ORDER BY finished_ms LIMIT ?",
        (before_ms, limit),
    )
    connection.execute_many("UPDATE generations SET result = NULL WHERE id = ?", [(row[0],) for row in rows])
    return [row[1] for row in rows]


def erase_prompts(connection: Connection, before_ms: int, limit: int) -> int:
    """Erase prompts, errors and webhook URLs of image jobs that finished before this time, and return how many."""
    rows = connection.execute(
        "SELECT id FROM generations WHERE kind = 'image' AND request IS NOT NULL AND finished_ms IS NOT NULL"
        " AND finished_ms < ? ORDER BY finished_ms LIMIT ?" + connection.skip_locked,
        (before_ms, limit),
    )
    if rows:
        connection.execute_many(
            "UPDATE generations SET request = NULL, error = NULL, webhook_url = NULL WHERE id = ?", rows
        )
    return len(rows)


#: Table → its key column and the column that says when a row expired. Regular deletion keeps each table small.
_EXPIRING = {
    "sessions": ("secret_hash", "expires_ms"),
    "mail_links": ("secret_hash", "expires_ms"),
    "email_changes": ("account_id", "expires_ms"),
    "passkey_challenges": ("challenge", "expires_ms"),
    "factor_resets": ("user_id", "expires_ms"),
    "webhook_events": ("event_id", "seen_ms"),
}


def delete_expired(connection: Connection, table: str, before_ms: int, limit: int) -> int:
    """Delete rows of one of these tables that expired before this time, and return how many."""
    key, expired_ms = _EXPIRING[table]
    rows = connection.execute(
        f"SELECT {key} FROM {table} WHERE {expired_ms} < ? LIMIT ?" + connection.skip_locked, (before_ms, limit)
    )
    if rows:
        connection.execute_many(f"DELETE FROM {table} WHERE {key} = ?", rows)
    return len(rows)


def orphaned_objects(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Return those of these object keys that their finished job does not refer to.

    An object of an unknown job may belong to another server on the same store, so it is never returned.
    """
    jobs = {job_of(key): key for key in keys}
    rows = connection.select_by_ids("SELECT id, state, result FROM generations WHERE id IN (…)", jobs)
    known = {row[0]: (row[1], row[2]) for row in rows}
    return [
        key
        for key in keys
        if job_of(key) in known and known[job_of(key)][0] not in ("queued", "running") and known[job_of(key)][1] != key
    ]
