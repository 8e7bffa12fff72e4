"""Usage of each account and revenue of all accounts, from the table of usage by day.

The table also keeps the days that are archived. Only the parts of days at the ends of a report's period are added up
from generations, or from the files of an archived day. Whole hours and ten minutes in them that are before the oldest
unfinished generation are final, because a generation never changes once its hold is settled: each is added up once and
kept in memory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from minitoolai.billing.archive.reader import ArchiveReader
from minitoolai.core.catalog.prices import APART
from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import ReportTooLarge
from minitoolai.core.models import RevenueRow, UsageCell, UsageRow, sum_cells
from minitoolai.core.money import format_dollars
from minitoolai.ledger.types import REVENUE
from minitoolai.storage.archive.rows import archived_until_ms
from minitoolai.storage.database import REPORT_LIMIT_S, Connection, Database
from minitoolai.storage.tables.refunds import refund_cells, refunds_by_day
from minitoolai.storage.tables.reports import GroupBy, oldest_pending_ms, oldest_unfinished_ms, usage_cells
from minitoolai.storage.tables.usage_days import day_cells, revenue_by_day

#: Treat nothing younger as final: generations are inserted shortly after they begin, by processes with different
#: clocks.
SETTLING_MS = 10 * 60_000
#: Lengths of the periods that have kept sums. Each divides the one before it, and a period begins at a multiple.
LENGTHS_MS = (3_600_000, 600_000)
#: Cells kept in memory for all accounts together, about 250 bytes each. A period without usage counts as one.
MAX_CACHED_CELLS = 100_000
#: Read missing sums for this long at a time, then give the thread to others.
READ_S = 0.2

CellKey = tuple[int, str, str, str]
#: Begin and length of a period of which the sums are final.
Period = tuple[int, int]
Sums = tuple[UsageCell, ...]


class UsageCache:
    """Usage of each account by day, kind, model and key. It keeps the sums of parts of days."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        archive: ArchiveReader,
        *,
        max_cells: int = MAX_CACHED_CELLS,
        limit_s: float = REPORT_LIMIT_S,
        read_s: float = READ_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._archive = archive
        self._max_cells = max_cells
        self._limit_s = limit_s
        self._read_s = read_s
        #: Sums by account, the least recently used account first.
        self._kept: OrderedDict[int, dict[Period, Sums]] = OrderedDict()
        #: Cells kept now.
        self.size = 0

    async def cells(self, account_id: int, days: int) -> list[UsageCell]:
        """Return the usage of the last `days` days, oldest first. Raise ReportTooLarge if it takes too long."""
        today = self._clock.now_ms() // MS_PER_DAY
        return await self._read(account_id, (today - days + 1) * MS_PER_DAY, 2**62)

    async def report(self, account_id: int, from_ms: int, until_ms: int, group_by: GroupBy) -> list[UsageRow]:
        """Return usage by group, from `from_ms` up to but not including `until_ms`. Raise ReportTooLarge."""
        groups: dict[tuple[int | str, str], list[UsageCell]] = {}
        for cell in await self._read(account_id, from_ms, until_ms):
            group = cell.day if group_by == "day" else cell.model if group_by == "model" else cell.key_id
            groups.setdefault((group, cell.kind), []).append(cell)
        sums = ((key[0], sum_cells(groups[key])) for key in sorted(groups))
        return [
            UsageRow(
                str(group),
                cell.kind,
                cell.requests,
                cell.input_units,
                cell.output_units,
                cell.cost,
                cell.buckets,
                cell.refunded,
            )
            for group, cell in sums
        ]

    async def _read(self, account_id: int, from_ms: int, until_ms: int) -> list[UsageCell]:
        """Return the cells of this time, sorted: parts of archived days from their files."""
        cells, archived_ms = await self._read_database(account_id, from_ms, until_ms)
        for begin_ms, end_ms in day_parts(from_ms, until_ms):
            if begin_ms < archived_ms:
                cells += await self._archive.usage_cells(account_id, begin_ms, min(end_ms, archived_ms))
        sums: dict[CellKey, UsageCell] = {}
        _add(sums, cells)
        return sorted(sums.values(), key=_key)

    async def _read_database(self, account_id: int, from_ms: int, until_ms: int) -> tuple[list[UsageCell], int]:
        """Return the cells of the table and the rows, and the time before which parts of days are archived.

        All sums are kept, so a report that failed goes on next time.
        """
        give_up_s = time.monotonic() + self._limit_s
        # A copy, because a thread reads it, and because others may push sums out of the cache meanwhile.
        known, now_ms = dict(self._kept.get(account_id, {})), self._clock.now_ms()
        while True:
            found, cells, archived_ms = await self._database.report(
                account_id, _read_usage, account_id, from_ms, until_ms, now_ms, known, self._read_s
            )
            known |= found
            self._keep(account_id, found)
            if cells is not None:
                return cells, archived_ms
            if time.monotonic() > give_up_s:
                raise ReportTooLarge("This report takes too long. Ask for a shorter period, such as one day.")

    def _keep(self, account_id: int, found: Mapping[Period, Sums]) -> None:
        kept = self._kept.setdefault(account_id, {})
        self._kept.move_to_end(account_id)
        for period, sums in found.items():
            self._drop(kept, period)
            kept[period] = sums
            self.size += _weight(sums)
            for part in list(_parts(period)):
                self._drop(kept, part)
        while self.size > self._max_cells:
            oldest = next(iter(self._kept))
            if oldest == account_id:
                self._drop(kept, next(iter(kept)))
            else:
                self.size -= sum(map(_weight, self._kept.pop(oldest).values()))

    def _drop(self, kept: dict[Period, Sums], period: Period) -> None:
        sums = kept.pop(period, None)
        if sums is not None:
            self.size -= _weight(sums)


def _weight(sums: Sums) -> int:
    return max(len(sums), 1)


def _parts(period: Period) -> Iterator[Period]:
    """Yield all shorter periods inside this one."""
    begin_ms, length_ms = period
    for shorter_ms in LENGTHS_MS:
        if shorter_ms < length_ms:
            yield from ((start_ms, shorter_ms) for start_ms in range(begin_ms, begin_ms + length_ms, shorter_ms))


def split(from_ms: int, until_ms: int) -> tuple[list[Period], list[tuple[int, int]]]:
    """Return the longest whole periods inside a time, and the pieces left at its ends as (from, until)."""
    periods: list[Period] = []
    rest: list[tuple[int, int]] = []
    shortest_ms = LENGTHS_MS[-1]
    at_ms = from_ms
    while at_ms < until_ms:
        for length_ms in LENGTHS_MS:
            if at_ms % length_ms == 0 and at_ms + length_ms <= until_ms:
                periods.append((at_ms, length_ms))
                at_ms += length_ms
                break
        else:
            end_ms = min(until_ms, (at_ms // shortest_ms + 1) * shortest_ms)
            rest.append((at_ms, end_ms))
            at_ms = end_ms
    return periods, rest


def _read_usage(
    connection: Connection,
    account_id: int,
    from_ms: int,
    until_ms: int,
    now_ms: int,
    known: Mapping[Period, Sums],
    read_s: float,
) -> tuple[dict[Period, Sums], list[UsageCell] | None, int]:
    """Return the sums that were missing in `known`, the cells of this time, and until when all is archived.

    Parts of archived days are left out. The cells are None after `read_s` of reading, or if a day was archived
    meanwhile.
    """
    pause_s = time.monotonic() + read_s
    archived_ms = archived_until_ms(connection)
    first_day, end_day = -(-from_ms // MS_PER_DAY), until_ms // MS_PER_DAY
    cells: dict[CellKey, UsageCell] = {}
    # Of all days, also of archived ones, and never kept: a refund may come at any time.
    _add(cells, refund_cells(connection, account_id, from_ms, until_ms))
    if first_day < end_day:
        _add(cells, day_cells(connection, account_id, first_day, end_day))
    # Read before the sums: a generation that ends in between is then read from its row, as an unfinished one.
    final_ms = final_until_ms(0, now_ms, oldest_unfinished_ms(connection, account_id))
    found: dict[Period, Sums] = {}
    for part_ms, end_ms in day_parts(from_ms, until_ms):
        begin_ms = max(part_ms, archived_ms)
        closed_ms = max(begin_ms, min(end_ms, final_ms))
        periods, rest = split(begin_ms, closed_ms)
        for period in periods:
            sums = known.get(period)
            if sums is None:
                if found and time.monotonic() > pause_s:
                    return found, None, archived_ms
                sums = found[period] = _add_up(connection, account_id, period, known)
            _add(cells, sums)
        for start_ms, stop_ms in (*rest, (closed_ms, end_ms)):
            if start_ms < stop_ms:
                _add(cells, usage_cells(connection, account_id, start_ms, stop_ms))
    # Rows that were deleted while they were read are taken from their files: read again.
    if archived_until_ms(connection) != archived_ms:
        return {}, None, archived_ms
    return found, list(cells.values()), archived_ms


def day_parts(from_ms: int, until_ms: int) -> list[tuple[int, int]]:
    """Return the parts of a time outside its whole days, as (from, until)."""
    first_ms, end_ms = -(-from_ms // MS_PER_DAY) * MS_PER_DAY, until_ms // MS_PER_DAY * MS_PER_DAY
    parts = [(from_ms, first_ms), (end_ms, until_ms)] if first_ms < end_ms else [(from_ms, until_ms)]
    return [(begin, end) for begin, end in parts if begin < end]


def _add_up(connection: Connection, account_id: int, period: Period, known: Mapping[Period, Sums]) -> Sums:
    """Return the sums of a period: from those of shorter periods if all are known, otherwise from the rows."""
    begin_ms, length_ms = period
    shorter_ms = max((length for length in LENGTHS_MS if length < length_ms), default=0)
    if shorter_ms:
        parts = [known.get((start, shorter_ms)) for start in range(begin_ms, begin_ms + length_ms, shorter_ms)]
        if all(part is not None for part in parts):
            cells: dict[CellKey, UsageCell] = {}
            for part in parts:
                _add(cells, part or ())
            return tuple(cells.values())
    return tuple(usage_cells(connection, account_id, begin_ms, begin_ms + length_ms))


def final_until_ms(from_ms: int, now_ms: int, unfinished_ms: int | None) -> int:
    """Return the time before which usage is final. `unfinished_ms` is when the oldest unfinished generation began."""
    settled_ms = now_ms - SETTLING_MS
    return max(from_ms, settled_ms if unfinished_ms is None else min(settled_ms, unfinished_ms))


def _add(cells: dict[CellKey, UsageCell], more: Iterable[UsageCell]) -> None:
    for cell in more:
        key = _key(cell)
        old = cells.get(key)
        cells[key] = cell if old is None else sum_cells([old, cell])


def _key(cell: UsageCell) -> CellKey:
    return cell.day, cell.kind, cell.model, cell.key_id


#: Last columns of a CSV report: units and cost of each bucket with a price of its own, which are part of the other
#: sums, and refunds.
LAST_COLUMNS = (*(f"{name}_{what}" for name in APART for what in ("units", "cost")), "refunded")
_NOTHING_APART = (0, format_dollars(0)) * len(APART)


def last_values(row: UsageRow | UsageCell) -> list[object]:
    """Return the values of LAST_COLUMNS. Most rows have no such bucket, and a report has thousands of rows."""
    if not row.buckets:
        return [*_NOTHING_APART, format_dollars(row.refunded)]
    found = (row.buckets.get(name, (0, 0)) for name in APART)
    return [*(value for units, cost in found for value in (units, format_dollars(cost))), format_dollars(row.refunded)]


REVENUE_DAYS = 14
RevenueKey = tuple[int, str]


class RevenueCache:
    """Revenue of all accounts by day and kind, for the last days. It keeps the days that are final."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._kept: dict[RevenueKey, RevenueRow] = {}
        #: Days before this one are kept.
        self._kept_until = 0

    async def rows(self) -> list[RevenueRow]:
        """Return the last REVENUE_DAYS days including today, newest first."""
        now_ms = self._clock.now_ms()
        first = now_ms // MS_PER_DAY - REVENUE_DAYS + 1
        final_day, fresh, refunds = await self._database.report(
            REVENUE, _read_revenue, max(first, self._kept_until), first, now_ms
        )
        rows = {key: row for key, row in self._kept.items() if key[0] >= first}
        rows |= {(row.day, row.kind): row for row in fresh}
        self._kept = {key: row for key, row in rows.items() if key[0] < final_day}
        self._kept_until = final_day
        # A refund may come at any time, so it is not cached.
        return [
            msgspec.structs.replace(rows[key], refunded=refunds.get(key, 0))
            for key in sorted(rows, key=lambda key: (-key[0], key[1]))
        ]


def _read_revenue(
    connection: Connection, from_day: int, first_day: int, now_ms: int
) -> tuple[int, list[RevenueRow], dict[tuple[int, str], int]]:
    """Return the first day that may still change, the revenue since a day, and the refunds since the first one."""
    # Read before the sums: what ends in between is in the sums of a day that is not final.
    final_ms = final_until_ms(0, now_ms, oldest_pending_ms(connection))
    revenue = revenue_by_day(connection, from_day)
    return max(from_day, final_ms // MS_PER_DAY), revenue, refunds_by_day(connection, first_day)
