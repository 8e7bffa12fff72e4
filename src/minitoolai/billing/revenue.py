"""What all accounts used, by day and kind, quickly: like services/usage.py, over everybody.

What was begun before the oldest hold that is still pending is final; it is added up once and kept in memory.
"""

from __future__ import annotations

import msgspec

from minitoolai.billing.usage import final_until_ms
from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.models import RevenueRow
from minitoolai.storage.admin import oldest_pending_ms, revenue
from minitoolai.storage.database import Connection, Database

LONGEST_DAYS = 14
Place = tuple[int, str]


class _Kept(msgspec.Struct):
    """Everything begun before `until_ms`, added up; it is final."""

    until_ms: int
    rows: dict[Place, RevenueRow]


class RevenueBooks:
    """Revenue of the last days."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._kept: _Kept | None = None

    async def rows(self) -> list[RevenueRow]:
        """Today and the days before it, LONGEST_DAYS in all, the newest first."""
        now_ms = self._clock.now_ms()
        first = now_ms // MS_PER_DAY - LONGEST_DAYS + 1
        kept = self._kept or _Kept(first * MS_PER_DAY, {})
        final_ms, final, fresh = await self._database.read_soon(_read, kept.until_ms, now_ms)
        rows = {place: row for place, row in kept.rows.items() if place[0] >= first}
        _add(rows, final)
        self._kept = _Kept(final_ms, rows)
        shown = dict(rows)
        _add(shown, fresh)
        return [shown[place] for place in sorted(shown, key=lambda place: (-place[0], place[1])) if place[0] >= first]


def _read(connection: Connection, from_ms: int, now_ms: int) -> tuple[int, list[RevenueRow], list[RevenueRow]]:
    with connection.snapshot():
        final_ms = final_until_ms(from_ms, now_ms, oldest_pending_ms(connection))
        return final_ms, revenue(connection, from_ms, final_ms), revenue(connection, final_ms, 2**62)


def _add(rows: dict[Place, RevenueRow], more: list[RevenueRow]) -> None:
    for row in more:
        old = rows.get((row.day, row.kind))
        rows[row.day, row.kind] = row if old is None else _merged(old, row)


def _merged(one: RevenueRow, other: RevenueRow) -> RevenueRow:
    return RevenueRow(
        one.day, one.kind, one.requests + other.requests, one.sold + other.sold, one.bought + other.bought
    )
