"""Results that came after their hold was recovered: whole at the engine, and interrupted in the books.

The books stay as they are: the caller was told that the response was interrupted, and was charged its last checkpoint.
Such results are a sign that leases end too early, for example because a clock is wrong or a process pauses.
"""

from __future__ import annotations

from typing import NamedTuple

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.ledger.types import Settle
from minitoolai.storage.database import Connection

KEPT_MS = 7 * MS_PER_DAY


class LateResults(NamedTuple):
    """How many results came late, what they would have cost beyond the charge, and the ID of the last one."""

    number: int
    uncharged: int
    last_id: int


def record(connection: Connection, settle: Settle) -> None:
    """Keep that this settle came too late, if its response was whole and the books say that it was interrupted."""
    if settle.outcome.state != "succeeded":
        return
    rows = connection.execute("SELECT state, error_code, cost FROM generations WHERE id = ?", (settle.hold_id,))
    if not rows or rows[0][:2] != ("failed", "interrupted"):
        return
    connection.execute(
        "INSERT INTO late_results (generation_id, cost, charged, came_ms) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (generation_id) DO NOTHING",
        (settle.hold_id, settle.cost, rows[0][2], settle.now_ms),
    )
    connection.execute("DELETE FROM late_results WHERE came_ms < ?", (settle.now_ms - KEPT_MS,))


def late_results(connection: Connection, since_ms: int) -> LateResults:
    """Return the results that came late since then."""
    rows = connection.execute(
        "SELECT count(*), coalesce(sum(cost - charged), 0), coalesce(max(generation_id), 0) FROM late_results"
        " WHERE came_ms >= ?",
        (since_ms,),
    )
    return LateResults(*map(int, rows[0]))
