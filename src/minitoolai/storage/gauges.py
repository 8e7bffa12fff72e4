"""What stands in the database just now: holds and jobs that wait. Each query reads a partial index, never a table."""

from __future__ import annotations

import msgspec

from minitoolai.storage.database import Connection


class Standing(msgspec.Struct, frozen=True):
    """Counts of one moment, the same whichever process asks. Ages are milliseconds."""

    holds: dict[str, int]
    held: int
    queued: dict[str, int]
    oldest_ms: int
    drawing: int
    webhooks: int


def standing(connection: Connection, now_ms: int) -> Standing:
    """Read on one snapshot."""
    with connection.snapshot():
        holds = connection.execute(
            "SELECT kind, count(*), sum(amount) FROM holds WHERE state = 'pending' GROUP BY kind"
        )
        queued = connection.execute(
            "SELECT model, count(*), min(created_ms) FROM generations WHERE state = 'queued' GROUP BY model"
        )
        drawing = connection.execute("SELECT count(*) FROM generations WHERE kind = 'image' AND state = 'running'")
        webhooks = connection.execute("SELECT count(*) FROM outbox WHERE state = 'pending'")
    return Standing(
        holds={row[0]: row[1] for row in holds},
        held=sum(row[2] for row in holds),
        queued={row[0]: row[1] for row in queued},
        oldest_ms=max((now_ms - row[2] for row in queued), default=0),
        drawing=drawing[0][0],
        webhooks=webhooks[0][0],
    )
