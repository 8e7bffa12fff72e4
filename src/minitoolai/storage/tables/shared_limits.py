"""Token buckets that all processes of a shared database draw from: one row a bucket, in the database server's time.

A row is the time at which its bucket will be full again (GCRA), so a full bucket needs no row.

Requests in progress are slots instead: they are held, not spent. A row is what one process holds of a limit, until its
lease ends. Processes that take slots of one limit take turns by the lock on its row in `shared_limits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minitoolai.storage.database import Connection

#: Rows of full buckets that one call deletes at most.
DELETE_ROWS = 1000


class Draw(NamedTuple):
    """Take `most` units from a bucket, or as many as there are, but nothing if there are less than `least`.

    With `least` = 0, take `most` even if there are fewer: a debt. A negative number gives units back. Times are in
    microseconds.
    """

    name: str
    most: int
    least: int
    #: The bucket's size, and the time in which it refills.
    limit: int
    period_us: int


class Drawn(NamedTuple):
    """Units that were taken and that are left, and the microseconds until `least` units are there (0: they were)."""

    units: int
    left: int
    wait_us: int


def draw(connection: Connection, wanted: Draw, now_us: int) -> Drawn:
    """Take units from a bucket. The row stays locked until the end of the transaction."""
    name, unit_us = wanted.name, wanted.period_us / wanted.limit
    full_us = max(_lock(connection, name, now_us), now_us)
    # One thousandth of a unit of tolerance, for times that are rounded to microseconds.
    available = int((now_us + wanted.period_us - full_us) / unit_us + 0.001)
    if wanted.least and available < wanted.least:
        return Drawn(
            0, max(available, 0), max(1, round(wanted.least * unit_us - (now_us + wanted.period_us - full_us)))
        )
    units = min(wanted.most, available) if wanted.least else wanted.most
    connection.execute(
        "UPDATE shared_limits SET full_us = ? WHERE name = ?", (max(now_us, full_us + round(units * unit_us)), name)
    )
    return Drawn(units, max(available - units, 0), 0)


def _lock(connection: Connection, name: str, now_us: int) -> int:
    """Lock the row of a limit, and return when its bucket will be full."""
    # A conflict changes nothing, but locks the row and returns it as it is now.
    rows = connection.execute(
        "INSERT INTO shared_limits (name, full_us) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET full_us = shared_limits.full_us RETURNING full_us",
        (name, now_us),
    )
    return int(rows[0][0])


def full_us_of(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Return when each of these buckets will be full again. Full buckets have no row."""
    listed = ", ".join("?" * len(names))
    return dict(connection.execute(f"SELECT name, full_us FROM shared_limits WHERE name IN ({listed})", tuple(names)))


def refill(connection: Connection, name: str) -> None:
    """Fill a bucket."""
    connection.execute("DELETE FROM shared_limits WHERE name = ?", (name,))


def delete_full(connection: Connection, now_us: int) -> None:
    """Delete rows of buckets that are full."""
    connection.execute(
        "DELETE FROM shared_limits WHERE name IN (SELECT name FROM shared_limits WHERE full_us < ? ORDER BY full_us"
        f" LIMIT {DELETE_ROWS}{connection.skip_locked})",
        (now_us,),
    )


# ── slots ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Slots(NamedTuple):
    """What a process holds, or would like to hold, of the limit with this name."""

    name: str
    process: str
    held: int


def take_slots(connection: Connection, wanted: Slots, least: int, limit: int, *, now_ms: int, lease_ms: int) -> int:
    """Hold as many slots as are wanted, or as others leave, but change nothing if those are less than `least`.

    Returns what the process holds now, 0 if it was refused.
    """
    _lock(connection, wanted.name, now_ms * 1000)
    rows = connection.execute(
        "SELECT coalesce(sum(held), 0) FROM shared_slots WHERE name = ? AND process <> ? AND until_ms > ?",
        (wanted.name, wanted.process, now_ms),
    )
    held = min(wanted.held, limit - int(rows[0][0]))
    if held < least:
        return 0
    keep_slots(connection, [wanted._replace(held=held)], until_ms=now_ms + lease_ms)
    return held


def keep_slots(connection: Connection, slots: Sequence[Slots], *, until_ms: int) -> None:
    """Write what a process holds: to renew its leases, or to give slots back."""
    connection.queue_write(
        "INSERT INTO shared_slots (name, process, held, until_ms) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name, process) DO UPDATE SET held = excluded.held, until_ms = excluded.until_ms",
        [(*one, until_ms) for one in sorted(slots)],
    )


def slots_of(connection: Connection, names: Sequence[str], now_ms: int) -> dict[str, int]:
    """Return how many slots of each of these limits are held."""
    listed = ", ".join("?" * len(names))
    rows = connection.execute(
        f"SELECT name, sum(held) FROM shared_slots WHERE name IN ({listed}) AND until_ms > ? GROUP BY name",
        (*names, now_ms),
    )
    return {name: int(held) for name, held in rows}


def delete_old_slots(connection: Connection, before_ms: int) -> None:
    """Delete rows with a lease that ended before this time."""
    connection.execute("DELETE FROM shared_slots WHERE until_ms < ?", (before_ms,))
