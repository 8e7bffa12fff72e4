"""Move whole closed days of usage from the database to compressed files in the object store.

For each day, oldest first: write its files, read them back, complete the day in one small commit, and delete its rows a
few at a time. A process that is killed at any point loses nothing and counts nothing twice: a day without a row in
`archived_days` is written again from the start; of a day with one, the remaining rows are deleted. Money that came from
outside (payments, vouchers, grants, refunds) stays in the database permanently, and so does usage by day.

Only days that the audit has closed are archived, and only if their files give the hash that it kept. So only audited
rows leave the database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Protocol

import msgspec

from minitoolai.billing.audit_archive import audit_rows
from minitoolai.billing.audit_days import DayReader
from minitoolai.core.clock import MS_PER_DAY, Clock, date_of
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.core.threads import ARCHIVE
from minitoolai.storage.archive import files, rows
from minitoolai.storage.archive.files import Line, Part, PartEntry, Sums
from minitoolai.storage.archive.lock import archive_lock
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.object_store import ObjectStore
from minitoolai.storage.selling import purses
from minitoolai.storage.tables import audit, idempotency, outbox
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

#: No younger day is archived: images, prompts and delivered webhooks, which refer to its rows, are kept for 30 days.
LEAST_DAYS = 35
#: Delivered webhooks are deleted after this time, as images/webhooks.py does.
MESSAGES_MS = 30 * MS_PER_DAY
#: Generations in a file, so that a page of a statement reads about a hundred kilobytes.
PART_ROWS = 1_000
#: Rows and accounts read by one query.
PAGE_ROWS, PAGE_ACCOUNTS = 200, 500
#: Target duration of a transaction that deletes, about twice that of its COMMIT on a slow disk. A pause of the same
#: length follows, so that the requests of a server come first.
DELETE_S = 0.02
LEAST_PAUSE_S = 0.01
LEAST_ROWS, MOST_ROWS = 20, 200
#: Pages of SQLite's file that are given back to the disk in one transaction.
FREED_PAGES = 128


class Access(Protocol):
    """How the archiver reads and writes the database: beside a server, or inside it through its writer."""

    async def read(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run `function(connection, *arguments)` on a connection that only reads."""

    async def write(self, function: Callable[[Connection], Any]) -> Any:
        """Run `function(connection)` in a transaction of its own."""


class ArchiveProgress(msgspec.Struct, frozen=True):
    """Progress of the archiver: the step and the day it works on, and how many of the day's generations are done."""

    step: str
    day: int
    done: int
    total: int


class DayPlan(msgspec.Struct, frozen=True):
    """A day to archive, or the reason why it cannot be archived. Then no later day is archived either."""

    day: int
    requests: int
    why_not: str | None = None


OnProgress = Callable[[ArchiveProgress], None]


class Archiver:
    """Archive days through an `Access`. Only one process at a time may, see `exclusive`."""

    def __init__(
        self,
        access: Access,
        store: ObjectStore,
        clock: Clock,
        *,
        on_progress: OnProgress = lambda progress: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        part_rows: int = PART_ROWS,
    ) -> None:
        self._access = access
        self._store = store
        self._clock = clock
        self._on_progress = on_progress
        self._pause = pause
        self._part_rows = part_rows

    def latest_ms(self) -> int:
        """Return the time before which days may be archived at all."""
        return (self._clock.now_ms() // MS_PER_DAY - LEAST_DAYS) * MS_PER_DAY

    async def plan(self, before_ms: int) -> AsyncIterator[DayPlan]:
        """Yield the days that `archive` would archive, oldest first. The last may be a day that cannot be archived."""
        day = await self._first_day()
        while day is not None and (day + 1) * MS_PER_DAY <= min(before_ms, self.latest_ms()):
            plan = await self._plan_day(day)
            if plan.requests:
                yield plan
            if plan.why_not is not None:
                return
            day = await self._first_day(day + 1)

    async def archive(self, before_ms: int) -> tuple[int, DayPlan | None]:
        """Archive every whole day before this time. Return how many generations, and a day that could not be.

        First deletes the rows that an interrupted run has left.
        """
        count = await self._finish_removals()
        await self._delete_expired()
        async for plan in self.plan(before_ms):
            if plan.why_not is not None:
                return count, plan
            await self._write_day(plan)
            count += await self._remove_day(plan.day)
        return count, None

    # ── which days ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _first_day(self, least: int = 0) -> int | None:
        """Return the first day, from this one on, that has generations and is not archived."""
        from_ms = max(await self._access.read(rows.archived_until_ms), least * MS_PER_DAY)
        oldest: int | None = None
        after = 0
        while page := await self._access.read(rows.first_times, after, from_ms, PAGE_ACCOUNTS):
            after = page[-1][0]
            oldest = min((ms for _, ms in [(0, oldest), *page] if ms is not None), default=None)
        return None if oldest is None else oldest // MS_PER_DAY

    async def _accounts(self, day: int) -> list[int]:
        """Return the accounts with generations in a day."""
        found: list[int] = []
        after = 0
        bounds = day * MS_PER_DAY, (day + 1) * MS_PER_DAY
        while page := await self._access.read(rows.activity, after, *bounds, PAGE_ACCOUNTS):
            after = page[-1][0]
            found += [account for account, is_active in page if is_active]
        return found

    async def _plan_day(self, day: int) -> DayPlan:
        state = rows.DayState()
        bounds = day * MS_PER_DAY, (day + 1) * MS_PER_DAY
        for account in await self._accounts(day):
            state += await self._access.read(rows.day_state, account, *bounds)
        has_claims = await self._access.read(rows.has_older_claims, bounds[1])
        is_closed = await self._access.read(audit.closed_day, day) is not None
        return DayPlan(day, state.requests, _why_not(state, has_claims, is_closed=is_closed))

    async def _delete_expired(self) -> None:
        """Delete expired rows that refer to old generations. A running server does the same."""
        now_ms = self._clock.now_ms()
        while await self._access.write(lambda connection: idempotency.delete_expired(connection, now_ms)):
            await self._pause(LEAST_PAUSE_S)
        before_ms = now_ms - MESSAGES_MS
        while await self._access.write(lambda connection: outbox.delete_finished(connection, before_ms, PAGE_ROWS)):
            await self._pause(LEAST_PAUSE_S)

    # ── write ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _write_day(self, plan: DayPlan) -> None:
        """Write the files of a day, read them back, and complete the day."""
        day = plan.day
        for entry in await self._access.read(rows.parts_of, day):
            await self._access.write(partial(rows.delete_part, day=day, part=entry.part))
        entries: list[PartEntry] = []
        owners = await self._access.read(purses.purse_owners)
        sums, done, reader = Sums(), 0, DayReader(day, owners=owners)
        async for lines in self._parts(day):
            entry, part_sums = await self._write_part(reader, len(entries) + 1, lines)
            entries.append(entry)
            sums, done = sums + part_sums, done + entry.requests
            self._on_progress(ArchiveProgress("write", day, done, plan.requests))
        if sums.requests != plan.requests or sums.cost != sums.amount + sums.shortfall:
            raise StoreError(
                f"{date_of(day)} was not archived: its costs differ from its transfers, or rows appeared while "
                "it was read; run minitoolai audit"
            )
        reader.take_external(await self._access.read(audit.external_of_day, day))
        before = await self._access.read(audit.closed_before, day)
        if await ARCHIVE.run(reader.closed, before) != await self._access.read(audit.closed_day, day):
            raise StoreError(
                f"{date_of(day)} was not archived: its rows differ from those that the audit has closed; "
                "run minitoolai audit --full"
            )
        archived = await self._access.read(rows.archived_days)
        manifest = files.encode_manifest(day, archived[-1].manifest if archived else "", sums, entries)
        digest = files.sha256(manifest)
        await self._store.put_file(files.manifest_path(day, digest), manifest)
        now_ms = self._clock.now_ms()
        await self._access.write(lambda connection: rows.insert_day(connection, day, sums, digest, now_ms))

    async def _parts(self, day: int) -> AsyncIterator[list[Line]]:
        """Yield the lines of each part of a day: by account, then by time."""
        pending: list[Line] = []
        for account in await self._accounts(day):
            place = (day * MS_PER_DAY, -1)
            while page := await self._access.read(rows.read_lines, account, place, (day + 1) * MS_PER_DAY, PAGE_ROWS):
                place = rows.place_of(page[-1])
                pending += page
                while len(pending) >= self._part_rows:
                    yield pending[: self._part_rows]
                    pending = pending[self._part_rows :]
        if pending:
            yield pending

    async def _write_part(self, reader: DayReader, number: int, lines: list[Line]) -> tuple[PartEntry, Sums]:
        day = reader.day
        data = await ARCHIVE.run(_encode, day, number, lines)
        digest = files.sha256(data)
        path = files.part_path(day, number, digest)
        await self._store.put_file(path, data)
        part = await ARCHIVE.run(Part, path, await self._store.get_file(path), digest)
        found = await ARCHIVE.run(part.rows)
        await ARCHIVE.run(lambda: reader.take_unordered(audit_rows(found)))
        entry = PartEntry(number, digest, len(data), len(found))
        accounts = _accounts_in(found)
        await self._access.write(lambda connection: rows.insert_part(connection, day, entry, accounts))
        return entry, files.sums_of(found)

    # ── delete ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _finish_removals(self) -> int:
        count = 0
        for day in await self._access.read(rows.archived_days):
            if day.removed_ms is None:
                count += await self._remove_day(day.day)
        return count

    async def _remove_day(self, day: int) -> int:
        """Delete the rows of a day, in the order of their IDs, which is how they lie on the disk."""
        archived: list[tuple[int, bytes]] = []
        for entry in await self._access.read(rows.parts_of, day):
            path = files.part_path(day, entry.part, entry.sha256)
            part = await ARCHIVE.run(Part, path, await self._store.get_file(path), entry.sha256)
            archived += await ARCHIVE.run(_ids_of, part)
        archived.sort()
        count, begin, size = 0, 0, LEAST_ROWS
        while begin < len(archived):
            piece = dict(archived[begin : begin + size])
            began_s = time.monotonic()
            count += await self._access.write(partial(rows.remove, archived=piece))
            took_s = time.monotonic() - began_s
            begin += len(piece)
            self._on_progress(ArchiveProgress("delete", day, begin, len(archived)))
            size = max(LEAST_ROWS, min(MOST_ROWS, size * 2, int(size * DELETE_S / max(took_s, 1e-6))))
            await self._pause(max(LEAST_PAUSE_S, took_s))
        now_ms = self._clock.now_ms()
        await self._access.write(lambda connection: rows.mark_removed(connection, day, now_ms))
        await self.free_pages()
        return count

    async def free_pages(self) -> None:
        """Give free pages of a new SQLite file back to the disk, a few at a time. Other files keep theirs."""
        while await self._access.write(lambda connection: connection.free_pages(FREED_PAGES)):
            await self._pause(LEAST_PAUSE_S)


def _why_not(state: rows.DayState, has_claims: bool, *, is_closed: bool) -> str | None:
    """Return the reason why a day cannot be archived, or None."""
    reasons = {
        "unfinished requests": state.pending,
        "prompts that are kept (MINITOOLAI_PROMPT_RETENTION_DAYS)": state.prompts,
        "images that are kept (MINITOOLAI_IMAGE_RETENTION_DAYS)": state.images,
        "webhooks that are kept for their log": state.messages,
    }
    found = [f"{count} {name}" for name, count in reasons.items() if count]
    if has_claims:
        found.append("stored Idempotency-Keys")
    if not is_closed and not state.pending:
        found.append("not closed by the audit yet; a running server closes it, or logs why it cannot")
    return ", ".join(found) or None


def _encode(day: int, part: int, lines: list[Line]) -> bytes:
    return files.encode_part(day, part, rows.COLUMNS, [files.encode_line(line) for line in lines])


def _ids_of(part: Part) -> list[tuple[int, bytes]]:
    return list(part.ids())


def _accounts_in(found: list[files.ArchivedRow]) -> list[tuple[Any, ...]]:
    """Return account, first and last time, first and last version of each account in a part."""
    by_account: dict[int, list[files.ArchivedRow]] = {}
    for row in found:
        by_account.setdefault(row.generation["account_id"], []).append(row)
    listed: list[tuple[Any, ...]] = []
    for account, own in by_account.items():
        # Transfers of purses are numbered apart.
        transfers = [row.transfer for row in own if row.transfer is not None and row.transfer["debit"] == account]
        versions = [transfer["account_version"] for transfer in transfers]
        times = own[0].generation["created_ms"], own[-1].generation["created_ms"]
        listed.append((account, *times, min(versions, default=None), max(versions, default=None)))
    return listed


# ── in a server ───────────────────────────────────────────────────────────────────────────────────────────────────


class ServerAccess:
    """Read in the thread for upkeep, and write through the server's writer."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def read(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Run `function(connection, *arguments)`."""
        return await self._database.upkeep(function, *arguments)

    async def write(self, function: Callable[[Connection], Any]) -> Any:
        """Run `function(connection)` in the next batch of the writer."""
        return await self._writer.run(function)


EVERY_S = 3600.0
DAYS_PER_MONTH = 30.5


class ArchiveKeeper:
    """Background task of the server: once an hour, archive the days that are older than the setting."""

    def __init__(self, database: Database, archiver: Archiver, clock: Clock, *, after_months: int) -> None:
        """`after_months`: 0 for never."""
        self._database = database
        self._archiver = archiver
        self._clock = clock
        self._after_months = after_months

    async def run(self) -> None:
        """Archive until cancelled. Errors are logged and the next run retries."""
        while self._after_months:
            try:
                await self.archive()
            except (StoreError, ServiceError) as error:
                log.warning("archiving failed, will retry: %s", error)
            await asyncio.sleep(EVERY_S)

    async def archive(self) -> int:
        """Archive once, unless another process is archiving. Return the number of generations."""
        async with AsyncExitStack() as stack:
            if not await stack.enter_async_context(archive_lock(self._database)):
                return 0
            before_ms = self._clock.now_ms() - int(self._after_months * DAYS_PER_MONTH * MS_PER_DAY)
            count, stopped = await self._archiver.archive(before_ms)
        if count:
            log.info("archived %d generations", count)
        if stopped is not None:
            log.warning("%s is not archived yet: %s", date_of(stopped.day), stopped.why_not)
        return count
