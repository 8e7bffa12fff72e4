"""Read archived days: an account's statement, requests and usage, merged with the rows of the database.

The object store may be slow or unreachable, so it is never read in a thread that reads the database: a report first
looks up in the database which files it needs, then fetches them, and then merges.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence

import msgspec

from minitoolai.core.catalog.prices import APART, decode_parts, nano_of
from minitoolai.core.clock import ID_SLACK_MS, MS_PER_DAY, created_ms
from minitoolai.core.errors import ObjectMissing, Overloaded, ServiceError, StoreError
from minitoolai.core.models import Buckets, Generation, RecentRequest, StatementRow, UsageCell, sum_cells
from minitoolai.core.threads import ARCHIVE
from minitoolai.storage.archive import rows
from minitoolai.storage.archive.files import ArchivedRow, Part
from minitoolai.storage.archive.rows import AccountPart
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.insight.requests import LogFilter, LogPlace, list_requests
from minitoolai.storage.object_store import ObjectStore
from minitoolai.storage.selling.purses import Purse
from minitoolai.storage.tables import refunds, reports
from minitoolai.storage.tables.reports import ALWAYS_MS, STATEMENT_PART, StatementPlace

#: Files fetched in parallel for one report.
PARTS_AT_ONCE = 8
#: Files that stay in memory, about half a megabyte each: the next page of a statement reads the same ones.
KEPT_PARTS = 8


class ArchiveReader:
    """Rows of archived days, for reports of one account."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self._database = database
        self._store = store
        self._kept: OrderedDict[str, Part] = OrderedDict()

    # ── statement ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def statement_page(
        self, account_id: int, *, below: int | None, before_ms: int, rows_wanted: int
    ) -> list[StatementRow]:
        """Return one page of transfers with versions under `below` (None: the newest), newest first."""
        _, _, found = await self._statement(account_id, below, before_ms, rows_wanted)
        return [found[version] for version in sorted(found, reverse=True)]

    async def statement_part(
        self, account_id: int, place: StatementPlace
    ) -> tuple[list[StatementRow], StatementPlace | None]:
        """Return the next transfers of a whole statement, newest first, and the place of the part after them."""
        lowest, below, found = await self._statement(account_id, place.below, place.before_ms, STATEMENT_PART)
        if len(found) < below - lowest:
            # Processes with different clocks number transfers against the order of time. Search without a bound.
            lowest, below, found = await self._statement(account_id, below, ALWAYS_MS, STATEMENT_PART)
        part = [found[version] for version in sorted(found, reverse=True)]
        if lowest <= 1:
            return part, None
        return part, StatementPlace(lowest, part[-1].at_ms if part else place.before_ms)

    async def _statement(
        self, account_id: int, below: int | None, before_ms: int, wanted: int
    ) -> tuple[int, int, dict[int, StatementRow]]:
        """Return the lowest version wanted, the version above the highest, and the transfers found, by version."""
        lowest, above, found = await self._database.report(
            account_id, _statement_rows, account_id, below, before_ms, wanted
        )
        first = lowest
        while len(found) < above - lowest:
            parts = await self._database.report(
                account_id, rows.parts_with_versions, account_id, first, above, PARTS_AT_ONCE
            )
            for row in await self._rows(account_id, parts):
                transfer = row.transfer
                # What a purse paid is in the purse's own statement.
                if transfer is None or transfer["debit"] != account_id:
                    continue
                if lowest <= transfer["account_version"] < above:
                    found[transfer["account_version"]] = _statement_row(row)
            if len(parts) < PARTS_AT_ONCE:
                break
            first = (parts[-1].last_version or 0) + 1
        return lowest, above, found

    async def purse_statement(self, purse: Purse, below: int | None, rows_wanted: int) -> list[StatementRow]:
        """Return one page of the transfers of a purse with versions under `below` (None: the newest), newest first."""
        owner_id, last_ms = purse.owner_id, purse.ends_ms + ID_SLACK_MS
        lowest, above, found = await self._database.report(
            owner_id, _statement_rows, purse.id, below, last_ms, rows_wanted, owner_id
        )
        if len(found) < above - lowest:
            async for part in self._parts(owner_id, purse.begins_ms - ID_SLACK_MS, last_ms):
                for row in await self._rows(owner_id, [part]):
                    transfer = row.transfer
                    if transfer is not None and transfer["debit"] == purse.id:
                        version = transfer["account_version"]
                        if lowest <= version < above:
                            found[version] = _statement_row(row)
        return [found[version] for version in sorted(found, reverse=True)]

    async def paid_by_plans(self, account_id: int, from_ms: int, until_ms: int) -> int:
        """Return what purses paid of the requests of an account that began in this time."""
        archived_ms = await self._database.report(account_id, rows.archived_until_ms)
        paid = await self._database.report(
            account_id, reports.paid_by_plans, account_id, max(from_ms, archived_ms), until_ms
        )
        if from_ms < archived_ms:
            async for part in self._parts(account_id, from_ms, min(until_ms, archived_ms) - 1):
                for row in await self._rows(account_id, [part]):
                    begun_ms = row.generation["created_ms"]
                    if row.hold["purse_id"] is not None and from_ms <= begun_ms < min(until_ms, archived_ms):
                        paid += row.hold["settled"]
        return paid

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def recent_requests(
        self, account_id: int, limit: int, before: tuple[int, int] | None = None
    ) -> list[RecentRequest]:
        """Return the last requests of an account, newest first, before one of them: its time and ID."""
        until_ms, found = await self._database.report(account_id, _live_requests, account_id, limit, before)
        place = (until_ms, 0) if before is None else min(before, (until_ms, 0))
        key = (place[0] // MS_PER_DAY + 1, 0)
        while len(found) < limit:
            parts = await self._database.report(account_id, rows.parts_before, account_id, key, 1)
            if not parts:
                break
            key = parts[0].day, parts[0].part
            if parts[0].first_ms <= place[0]:
                own = [row for row in await self._rows(account_id, parts) if row.place < place]
                wanted = own[-(limit - len(found)) :]
                ids = [row.generation["id"] for row in wanted]
                given = await self._database.report(account_id, refunds.refunded_each, ids)
                found += [_recent_request(row, given) for row in reversed(wanted)]
        return found

    async def matching_requests(
        self, only: LogFilter, limit: int, before: LogPlace | None = None
    ) -> tuple[list[RecentRequest], LogPlace | None]:
        """Return requests of one account that fit the filters, newest first, and the place where the next page begins.

        A page looks through a limited number of requests: WINDOW live ones, or `limit` archived ones.
        """
        assert only.account_id is not None, "the log of all accounts has no archived days"
        place = before
        if only.until_ms is not None:
            place = (only.until_ms, 0) if before is None else min(before, (only.until_ms, 0))
        until_ms, found, older = await self._database.report(only.account_id, _matching_live, only, limit, before)
        end = (until_ms, 0)
        if place is None or place[0] > until_ms:
            if older is None or older <= end:
                # Go on with the archived days, if the filters reach them.
                archived = end if place is None else min(place, end)
                older = archived if (only.from_ms or 0) < until_ms else None
            return found, older
        looked = await self.recent_requests(only.account_id, limit, place)
        last = looked[-1] if len(looked) == limit else None
        is_over = last is None or last.created_ms < (only.from_ms or 0)
        found = [row for row in looked if only.fits(row)]
        return found, None if is_over or last is None else (last.created_ms, last.id)

    async def find_generation(self, generation_id: int, account_id: int) -> Generation | None:
        """Return an archived generation, or None if this account does not own it."""
        from_ms = created_ms(generation_id)
        async for part in self._parts(account_id, from_ms, from_ms + ID_SLACK_MS):
            for row in await self._rows(account_id, [part]):
                if row.generation["id"] == generation_id:
                    return _generation(row, await self._database.report(account_id, refunds.refunded, generation_id))
        return None

    async def usage_cells(self, account_id: int, from_ms: int, until_ms: int) -> list[UsageCell]:
        """Return archived usage by day, kind, model and key, from `from_ms` up to but not including `until_ms`."""
        cells: dict[tuple[int, str, str, str], UsageCell] = {}
        async for part in self._parts(account_id, from_ms, until_ms - 1):
            for row in await self._rows(account_id, [part]):
                g, begun_ms = row.generation, row.generation["created_ms"]
                if from_ms <= begun_ms < until_ms:
                    key = (begun_ms // MS_PER_DAY, g["kind"], g["model"], g["key_id"])
                    units = g["input_units"], g["output_units"]
                    cell = UsageCell(*key, 1, *units, row.hold["settled"], _buckets(row))
                    cells[key] = sum_cells([cells[key], cell]) if key in cells else cell
        return [cells[key] for key in sorted(cells)]

    async def _parts(self, account_id: int, from_ms: int, to_ms: int) -> AsyncIterator[AccountPart]:
        """Yield the files with generations of an account that began in this time, oldest first."""
        key = (from_ms // MS_PER_DAY, 0)
        while parts := await self._database.report(account_id, rows.parts_after, account_id, key, PARTS_AT_ONCE):
            for part in parts:
                if part.day > to_ms // MS_PER_DAY:
                    return
                if part.last_ms >= from_ms and part.first_ms <= to_ms:
                    yield part
            key = parts[-1].day, parts[-1].part

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _rows(self, account_id: int, parts: Sequence[AccountPart]) -> list[ArchivedRow]:
        """Return the rows of an account in some files, in the order of the files."""
        found: list[ArchivedRow] = []
        for begin in range(0, len(parts), PARTS_AT_ONCE):
            read = await asyncio.gather(*map(self._part, parts[begin : begin + PARTS_AT_ONCE]))
            for part in read:
                found += await ARCHIVE.run(part.rows, account_id)
        return found

    async def _part(self, wanted: AccountPart) -> Part:
        """Return a file. Raise Overloaded if the store is unreachable, ServiceError for a missing or damaged file."""
        path = wanted.path
        part = self._kept.get(path)
        if part is None:
            try:
                data = await self._store.get_file(path)
            except ObjectMissing as error:
                raise ServiceError(f"the archived file {path} is missing; the operator has to restore it") from error
            except StoreError as error:
                raise Overloaded("the storage of old usage does not respond; try again", retry_after_s=5) from error
            part = await ARCHIVE.run(Part, path, data, wanted.sha256)
        self._kept[path] = part
        self._kept.move_to_end(path)
        while len(self._kept) > KEPT_PARTS:
            self._kept.popitem(last=False)
        return part


def _statement_rows(
    connection: Connection,
    account_id: int,
    below: int | None,
    before_ms: int,
    wanted: int,
    owner_id: int | None = None,
) -> tuple[int, int, dict[int, StatementRow]]:
    """Return the bounds of the versions that are wanted, and those transfers that are in the database.

    `owner_id`: the account is a purse of this owner.
    """
    above = reports.newest_version(connection, account_id) + 1
    below = above if below is None else min(below, above)
    found = reports.statement_page(
        connection, account_id, below=below, before_ms=before_ms, rows=wanted, owner_id=owner_id
    )
    return max(below - wanted, 1), below, {row.version: row for row in found}


def _matching_live(
    connection: Connection, only: LogFilter, limit: int, before: LogPlace | None
) -> tuple[int, list[RecentRequest], LogPlace | None]:
    """Return the time before which all is archived, the requests since then, and the place of the next page."""
    page = list_requests(connection, only, limit, before)
    # Read last, as in `_live_requests`.
    until_ms = rows.archived_until_ms(connection)
    given = refunds.refunded_each(connection, [row.id for row in page.rows])
    found = [
        RecentRequest(
            row.id, row.created_ms, row.finished_ms, row.kind, row.model, row.key_id, row.state, row.error_code,
            row.input_units, row.output_units, row.cached_units, row.cost or 0, row.cost is None, row.engine,
            given.get(row.id, 0), row.purse_id,
        )
        for row in page.rows
        if row.created_ms >= until_ms
    ]  # fmt: skip
    return until_ms, found, page.older


def _live_requests(
    connection: Connection, account_id: int, limit: int, before: tuple[int, int] | None
) -> tuple[int, list[RecentRequest]]:
    """Return the time before which all is archived, and the requests since then."""
    found = reports.recent_requests(connection, account_id, limit, before)
    # Read last: rows that were deleted in between are taken from their files.
    until_ms = rows.archived_until_ms(connection)
    return until_ms, [row for row in found if row.created_ms >= until_ms]


def _statement_row(row: ArchivedRow) -> StatementRow:
    g, t = row.generation, row.transfer
    assert t is not None, "the caller has left out generations without a transfer"
    return StatementRow(
        version=t["account_version"],
        at_ms=t["created_ms"],
        kind="usage",
        amount=-t["amount"],
        balance_after=t["balance_after"],
        generation_id=g["id"],
        work=g["kind"],
        model=g["model"],
        key_id=g["key_id"],
        input_units=g["input_units"],
        output_units=g["output_units"],
        estimated=bool(g["estimated"]),
        cached_units=g["cached_units"],
        engine=g["engine"],
    )


def _recent_request(row: ArchivedRow, given: dict[int, int]) -> RecentRequest:
    hold = row.hold
    money = {
        "cost": hold["settled"], "refunded": given.get(row.generation["id"], 0), "purse_id": hold["purse_id"]
    }  # fmt: skip
    return msgspec.convert(row.generation | money | {"is_pending": False}, RecentRequest)


def _buckets(row: ArchivedRow) -> Buckets:
    split = row.generation["price_split"]
    parts = () if split is None else decode_parts(split)
    return {part.bucket: (part.units, nano_of(part)) for part in parts if part.bucket in APART}


def _generation(row: ArchivedRow, refunded: int) -> Generation:
    g, h = row.generation, row.hold
    money = {"cost": h["settled"], "shortfall": h["shortfall"], "held": h["amount"], "refunded": refunded}
    return msgspec.convert(g | money | {"estimated": bool(g["estimated"])}, Generation)
