"""Cache usage per account and revenue of all accounts, for fast pages.

A generation never changes once its hold is settled. So the cells of each account up to its oldest unfinished generation
are final and cached in memory, and each request reads only what began later. A page's time depends on recent activity,
not on the whole history.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.models import RevenueRow, UsageCell
from minitoolai.ledger.types import REVENUE
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.reports import oldest_pending_ms, oldest_unfinished_ms, revenue_by_day, usage_cells

MAX_DAYS = 90
#: Treat nothing younger as final: generations are inserted shortly after they begin, by processes with different
#: clocks.
SETTLING_MS = 10 * 60_000
MAX_CACHED_ACCOUNTS = 1000
MAX_CACHED_CELLS = 20_000

CellKey = tuple[int, str, str, str]


class _CachedCells(msgspec.Struct):
    """Sum of everything that began before `until_ms`. It is final."""

    until_ms: int
    cells: dict[CellKey, UsageCell]


class UsageCache:
    """Usage of each account by day, kind, model and key."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._cache: OrderedDict[int, _CachedCells] = OrderedDict()

    async def cells(self, account_id: int, days: int) -> list[UsageCell]:
        """Return the usage of the last `days` days (at most 90), oldest first."""
        now_ms = self._clock.now_ms()
        today = now_ms // MS_PER_DAY
        cached = self._cache.get(account_id) or _CachedCells((today - MAX_DAYS + 1) * MS_PER_DAY, {})
        final_ms, final, fresh = await self._database.report(account_id, _read, account_id, cached.until_ms, now_ms)
        cells = {key: cell for key, cell in cached.cells.items() if key[0] > today - MAX_DAYS}
        _add(cells, final)
        self._store(account_id, _CachedCells(final_ms, cells))
        merged = dict(cells)
        _add(merged, fresh)
        return [merged[key] for key in sorted(merged) if key[0] > today - days]

    def _store(self, account_id: int, cached: _CachedCells) -> None:
        self._cache.pop(account_id, None)
        if len(cached.cells) <= MAX_CACHED_CELLS:
            self._cache[account_id] = cached
        if len(self._cache) > MAX_CACHED_ACCOUNTS:
            self._cache.popitem(last=False)


def final_until_ms(from_ms: int, now_ms: int, unfinished_ms: int | None) -> int:
    """Return the time before which usage is final. `unfinished_ms` is when the oldest unfinished generation began."""
    settled_ms = now_ms - SETTLING_MS
    return max(from_ms, settled_ms if unfinished_ms is None else min(settled_ms, unfinished_ms))


def _read(
    connection: Connection, account_id: int, from_ms: int, now_ms: int
) -> tuple[int, list[UsageCell], list[UsageCell]]:
    with connection.snapshot():
        final_ms = final_until_ms(from_ms, now_ms, oldest_unfinished_ms(connection, account_id, from_ms))
        final = usage_cells(connection, account_id, from_ms, final_ms)
        return final_ms, final, usage_cells(connection, account_id, final_ms, 2**62)


def _add(cells: dict[CellKey, UsageCell], more: list[UsageCell]) -> None:
    for cell in more:
        key = (cell.day, cell.kind, cell.model, cell.key_id)
        old = cells.get(key)
        cells[key] = cell if old is None else sum_cells([old, cell])


def sum_cells(cells: list[UsageCell]) -> UsageCell:
    """Sum one or more cells. The day, kind, model and key are those of the first."""
    return msgspec.structs.replace(
        cells[0],
        requests=sum(cell.requests for cell in cells),
        input_units=sum(cell.input_units for cell in cells),
        output_units=sum(cell.output_units for cell in cells),
        cost=sum(cell.cost for cell in cells),
    )


REVENUE_DAYS = 14
RevenueKey = tuple[int, str]


class _CachedRevenue(msgspec.Struct):
    """Sum of everything that began before `until_ms`. It is final."""

    until_ms: int
    rows: dict[RevenueKey, RevenueRow]


class RevenueCache:
    """Revenue of all accounts by day and kind, for the last days.

    What began before the oldest pending hold is final, so it is summed once and cached.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._cache: _CachedRevenue | None = None

    async def rows(self) -> list[RevenueRow]:
        """Return the last REVENUE_DAYS days including today, newest first."""
        now_ms = self._clock.now_ms()
        first = now_ms // MS_PER_DAY - REVENUE_DAYS + 1
        cached = self._cache or _CachedRevenue(first * MS_PER_DAY, {})
        final_ms, final, fresh = await self._database.report(REVENUE, _read_revenue, cached.until_ms, now_ms)
        rows = {key: row for key, row in cached.rows.items() if key[0] >= first}
        _add_revenue(rows, final)
        self._cache = _CachedRevenue(final_ms, rows)
        merged = dict(rows)
        _add_revenue(merged, fresh)
        return [merged[key] for key in sorted(merged, key=lambda key: (-key[0], key[1])) if key[0] >= first]


def _read_revenue(connection: Connection, from_ms: int, now_ms: int) -> tuple[int, list[RevenueRow], list[RevenueRow]]:
    with connection.snapshot():
        final_ms = final_until_ms(from_ms, now_ms, oldest_pending_ms(connection))
        return final_ms, revenue_by_day(connection, from_ms, final_ms), revenue_by_day(connection, final_ms, 2**62)


def _add_revenue(rows: dict[RevenueKey, RevenueRow], more: list[RevenueRow]) -> None:
    for row in more:
        old = rows.get((row.day, row.kind))
        rows[row.day, row.kind] = row if old is None else _sum_rows(old, row)


def _sum_rows(one: RevenueRow, other: RevenueRow) -> RevenueRow:
    return RevenueRow(
        one.day, one.kind, one.requests + other.requests, one.sold + other.sold, one.upstream_cost + other.upstream_cost
    )
