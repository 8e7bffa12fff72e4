"""What an account used, quickly: whatever is over and done is added up once, only what came since is read again.

A generation never changes once its hold is settled. So each account's cells up to a moment before which nothing is
under way are kept in memory, and a look reads what was begun after that moment: a page's time depends on what
happened lately, not on how much there ever was.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.models import RevenueRow, UsageCell
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.reports import oldest_pending_ms, oldest_unfinished_ms, revenue_by_day, usage_cells

LONGEST_DAYS = 90
#: Work is written down a moment after it began, by processes whose clocks may differ: so long nothing is final.
SETTLING_MS = 10 * 60_000
MOST_ACCOUNTS = 1000
MOST_CELLS = 20_000

Place = tuple[int, str, str, str]


class _Kept(msgspec.Struct):
    """Everything begun before `until_ms`, added up; it is final."""

    until_ms: int
    cells: dict[Place, UsageCell]


class UsageCache:
    """Usage of accounts by day, kind, model and key."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    async def cells(self, account_id: int, days: int) -> list[UsageCell]:
        """What was used today and on the days before it, `days` in all (at most 90), oldest first."""
        now_ms = self._clock.now_ms()
        today = now_ms // MS_PER_DAY
        kept = self._kept.get(account_id) or _Kept((today - LONGEST_DAYS + 1) * MS_PER_DAY, {})
        final_ms, final, fresh = await self._database.read_async(_read, account_id, kept.until_ms, now_ms)
        cells = {place: cell for place, cell in kept.cells.items() if place[0] > today - LONGEST_DAYS}
        _add(cells, final)
        self._keep(account_id, _Kept(final_ms, cells))
        shown = dict(cells)
        _add(shown, fresh)
        return [shown[place] for place in sorted(shown) if place[0] > today - days]

    def _keep(self, account_id: int, kept: _Kept) -> None:
        self._kept.pop(account_id, None)
        if len(kept.cells) <= MOST_CELLS:
            self._kept[account_id] = kept
        if len(self._kept) > MOST_ACCOUNTS:
            self._kept.popitem(last=False)


def final_until_ms(from_ms: int, now_ms: int, unfinished_ms: int | None) -> int:
    """Before when nothing changes any more; `unfinished_ms`: when the oldest work that is under way was begun."""
    settled_ms = now_ms - SETTLING_MS
    return max(from_ms, settled_ms if unfinished_ms is None else min(settled_ms, unfinished_ms))


def _read(
    connection: Connection, account_id: int, from_ms: int, now_ms: int
) -> tuple[int, list[UsageCell], list[UsageCell]]:
    with connection.snapshot():
        final_ms = final_until_ms(from_ms, now_ms, oldest_unfinished_ms(connection, account_id, from_ms))
        final = usage_cells(connection, account_id, from_ms, final_ms)
        return final_ms, final, usage_cells(connection, account_id, final_ms, 2**62)


def _add(cells: dict[Place, UsageCell], more: list[UsageCell]) -> None:
    for cell in more:
        place = (cell.day, cell.kind, cell.model, cell.key_id)
        old = cells.get(place)
        cells[place] = cell if old is None else together([old, cell])


def together(cells: list[UsageCell]) -> UsageCell:
    """All of them, one at least, under the first one's names."""
    return msgspec.structs.replace(
        cells[0],
        requests=sum(cell.requests for cell in cells),
        input_units=sum(cell.input_units for cell in cells),
        output_units=sum(cell.output_units for cell in cells),
        cost=sum(cell.cost for cell in cells),
    )


# (merged from revenue) What all accounts used, by day and kind, quickly: like services/usage.py, over everybody.
# (merged from revenue)
# (merged from revenue) What was begun before the oldest hold that is still pending is final; it is added up once and kept in memory.

REVENUE_DAYS = 14
RevenuePlace = tuple[int, str]


class _KeptRevenue(msgspec.Struct):
    """Everything begun before `until_ms`, added up; it is final."""

    until_ms: int
    rows: dict[RevenuePlace, RevenueRow]


class RevenueCache:
    """Revenue of the last days."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._kept: _KeptRevenue | None = None

    async def rows(self) -> list[RevenueRow]:
        """Today and the days before it, LONGEST_DAYS in all, the newest first."""
        now_ms = self._clock.now_ms()
        first = now_ms // MS_PER_DAY - REVENUE_DAYS + 1
        kept = self._kept or _KeptRevenue(first * MS_PER_DAY, {})
        final_ms, final, fresh = await self._database.read_async(_read_revenue, kept.until_ms, now_ms)
        rows = {place: row for place, row in kept.rows.items() if place[0] >= first}
        _add_revenue(rows, final)
        self._kept = _KeptRevenue(final_ms, rows)
        shown = dict(rows)
        _add_revenue(shown, fresh)
        return [shown[place] for place in sorted(shown, key=lambda place: (-place[0], place[1])) if place[0] >= first]


def _read_revenue(connection: Connection, from_ms: int, now_ms: int) -> tuple[int, list[RevenueRow], list[RevenueRow]]:
    with connection.snapshot():
        final_ms = final_until_ms(from_ms, now_ms, oldest_pending_ms(connection))
        return final_ms, revenue_by_day(connection, from_ms, final_ms), revenue_by_day(connection, final_ms, 2**62)


def _add_revenue(rows: dict[RevenuePlace, RevenueRow], more: list[RevenueRow]) -> None:
    for row in more:
        old = rows.get((row.day, row.kind))
        rows[row.day, row.kind] = row if old is None else _merged(old, row)


def _merged(one: RevenueRow, other: RevenueRow) -> RevenueRow:
    return RevenueRow(
        one.day, one.kind, one.requests + other.requests, one.sold + other.sold, one.upstream_cost + other.upstream_cost
    )
