"""Token buckets that all processes of a shared database draw from: one row a bucket, in the database server's time.

A row is the time at which its bucket will be full again (GCRA), so a full bucket needs no row.
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
    # A conflict changes nothing, but locks the row and returns it as it is now.
    rows = connection.execute(
        "INSERT INTO shared_limits (name, full_us) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET full_us = shared_limits.full_us RETURNING full_us",
        (name, now_us),
    )
    full_us = max(int(rows[0][0]), now_us)
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
