"""Connection protocol that both databases implement, and the pools of connections that read.

The other modules of this package hold plain functions of a `Connection`, written once with `?` placeholders.
Everything in which SQLite and PostgreSQL differ (placeholders, lists, locks) stays in sqlite.py and postgres/.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import Any, NamedTuple, Protocol, TypeVar

from minitoolai.core.errors import ConnectionLost, Overloaded, QueryTimeout, ReportTooLarge, StoreError
from minitoolai.ledger.types import OpenPurses

T = TypeVar("T")
Row = tuple[Any, ...]
#: Publish/subscribe callback: (channel, payload), or (None, None) when notifications may have been lost.
OnNotify = Callable[[str | None, str | None], None]
#: Called with the server's time in milliseconds since 1970, and the monotonic time just before it was read.
OnServerTime = Callable[[int, float], None]
#: A process is not ready if its machine's clock differs by more: records and expiry times would be wrong.
CLOCK_LIMIT_MS = 2000


class ClockOffset(NamedTuple):
    """This machine's wall clock minus the database server's, and how inexact that is: half of the round trip."""

    ms: int
    inexact_ms: int

    @property
    def is_wrong(self) -> bool:
        """Return True if the difference is certainly too large."""
        return abs(self.ms) - self.inexact_ms > CLOCK_LIMIT_MS

    def describe(self) -> str:
        """Say how far this machine's clock is off."""
        direction = "ahead of" if self.ms > 0 else "behind"
        return f"this machine's clock is {abs(self.ms) / 1000:.1f} s {direction} the database server's"


def offset_of(server_ms: int, before_s: float, round_trip_s: float) -> ClockOffset:
    """Return the offset from the server's time and our wall clock before it was asked."""
    return ClockOffset(round((before_s + round_trip_s / 2) * 1000) - server_ms, round(round_trip_s * 500))


class Membership(Protocol):
    """Registration of this process among those that share a database: holds its number and receives notifications."""

    number: int
    #: The server's process ID of the session, 0 if there is none now.
    session_pid: int
    #: This machine's clock minus the server's, once it is known.
    clock_offset: ClockOffset | None

    def session_age_s(self) -> float:
        """Return the seconds since the session was opened, 0 if there is none now."""

    def listen(self, wanted: bool) -> None:
        """Receive notifications or not."""

    def why_not_ready(self) -> str | None:
        """Return why requests cannot be served, as far as the database tells, or None if they can."""

    def start(self) -> int:
        """Register and return the process number. Raise StoreError if the server is away or no number is free."""

    def stop(self) -> None:
        """Release the process number."""


class SelectByIds(NamedTuple):
    """A SELECT in which `IN (…)` stands for these ids.

    With `lock`, the rows are locked against other transactions, in ascending order of their ids.
    """

    sql: str
    ids: Sequence[int | str]
    lock: bool = False


class PriceParts(NamedTuple):
    """SQL that splits `g.price_split`, a list of lists (core/catalog/prices.py), into rows: table and columns."""

    source: str
    bucket: str
    units: str
    price: str

    @property
    def nano(self) -> str:
        """SQL for the cost in whole nano-dollars, as `nano_of` rounds it, without overflow of its steps."""
        thousandths = f"({self.price} - {self.price} / 1000 * 1000)"
        return f"({self.units} * ({self.price} / 1000) + {self.units} * {thousandths} / 1000)"


class Connection(Protocol):
    """One database session, used by one thread at a time."""

    #: Splits the prices of generations by bucket.
    price_parts: PriceParts
    #: Suffix of a SELECT that claims work: rows locked by another process are skipped, so no two claim the same row.
    skip_locked: str
    #: Purses that a writer has written on this connection, by owner: see storage/selling/purses.py.
    open_purses: dict[int, OpenPurses]

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return its rows, or an empty list."""

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        """Run one statement for each row and return how many rows changed."""

    def queue_write(self, sql: str, rows: Sequence[Sequence[object]], *, conflict_error: str = "") -> None:
        """Do what `execute_many` does, but at any time before the COMMIT of this transaction, in order.

        With `conflict_error`, raise a StoreError with this message, and write nothing, unless every given row
        changed a row (optimistic locking).
        """

    def select_by_ids(self, sql: str, ids: Iterable[int | str], *, lock: bool = False) -> list[Row]:
        """Return the rows of one `SelectByIds`."""

    def select_many(self, *selects: SelectByIds) -> list[list[Row]]:
        """Run several SELECTs in this order and return the rows of each. PostgreSQL does it in one round trip."""

    def notify(self, channel: str, payload: str) -> None:
        """Publish to the subscribers in other processes, once this transaction is committed."""

    def transaction(self) -> AbstractContextManager[None]:
        """Open a write transaction: COMMIT at the end, ROLLBACK on any exception."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Open a read transaction in which every SELECT sees the same moment."""

    def limit_time(self, limit_s: float) -> None:
        """Interrupt statements with QueryTimeout once this time has passed; on PostgreSQL each on its own."""

    def follow_time(self, follow: OnServerTime) -> None:
        """Report the server's time now and with each transaction. Does nothing for a file, which has no clock."""

    def server_ms(self) -> int:
        """Return the server's time in milliseconds since 1970. Only for a shared database."""

    def free_pages(self, limit: int) -> bool:
        """Give up to this many free pages back to the disk, in a transaction. Return whether there may be more.

        Only for a SQLite file that was created with `auto_vacuum = INCREMENTAL`; else do nothing.
        """

    def close(self) -> None:
        """Close the session."""


class ImmediateWrites:
    """Mixin: `queue_write` and `select_many` without batching, for databases without network and server."""

    def queue_write(self: Connection, sql: str, rows: Sequence[Sequence[object]], *, conflict_error: str = "") -> None:
        if self.execute_many(sql, rows) < len(rows) and conflict_error:
            raise StoreError(conflict_error)

    def select_many(self: Connection, *selects: SelectByIds) -> list[list[Row]]:
        return [self.select_by_ids(one.sql, one.ids) if one.ids else [] for one in selects]

    def follow_time(self, follow: OnServerTime) -> None:
        """Do nothing: a file has no clock."""

    def server_ms(self) -> int:
        raise StoreError("a file has no clock")


#: A report that reads longer is interrupted. SQLite cannot shorten its write-ahead log past an open read.
REPORT_LIMIT_S = 10.0
#: A read that finds its session lost only after this long is not repeated: its caller has waited enough.
SILENT_LOSS_S = 1.0
#: Threads for the reports of all accounts together: reports may wait for each other, requests never for a report.
REPORT_THREADS = 2
#: Reports of one account that may wait for their turn, and for how long.
MAX_WAITING_REPORTS = 16
MAX_REPORT_WAIT_S = 20.0
#: After a report, its account pauses for this many times as long as the report took.
PAUSE = 1.0
#: Accounts with a remembered pause, before pauses that are over are forgotten.
MAX_PAUSING = 1000


class ReaderPool:
    """Threads that read, on connections of their own that cannot write."""

    def __init__(
        self, connect: Callable[[bool], Connection], size: int, name: str, *, limit_s: float | None = None
    ) -> None:
        self._connect = connect
        self.limit_s = limit_s
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=name)

    def read(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function(connection, *arguments)` in this thread, on a pooled connection."""
        while True:
            try:
                connection, is_new = self._idle.get_nowait(), False
            except queue.Empty:
                connection, is_new = self._connect(True), True
            began_s = time.monotonic()
            try:
                if self.limit_s is not None:
                    connection.limit_time(self.limit_s)
                result = function(connection, *arguments)
            except ConnectionLost:
                connection.close()
                # A pooled connection does not survive a restart of the server; only a new one tells that it is away.
                # Neither does it survive a silent loss, and then the others have not, either.
                self._close_idle()
                if is_new or time.monotonic() - began_s > SILENT_LOSS_S:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                self._idle.put(connection)
                return result

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `read` in a thread of the pool. Raise Overloaded if the database is unavailable."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: self.read(function, *arguments))
        except ConnectionLost as error:
            raise Overloaded("the database is temporarily unavailable; try again", retry_after_s=2) from error

    def close(self) -> None:
        """Wait for running reads, then close the idle connections."""
        self._threads.shutdown(wait=True)
        self._close_idle()

    def _close_idle(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()


class Turns:
    """Let each account run one report at a time; others of the same account wait, in order.

    After each turn the account pauses. So one account occupies half a thread at most, and the event loop, which shares
    Python's interpreter lock with all threads, has it to itself half of the time.
    """

    def __init__(self) -> None:
        self._locks: dict[int, asyncio.Lock] = {}
        self._users: dict[int, int] = {}
        #: When the next turn of an account may begin, in the loop's time.
        self._free_at_s: dict[int, float] = {}

    @asynccontextmanager
    async def of(self, account_id: int) -> AsyncIterator[None]:
        """Wait for the turn of this account. Raise Overloaded if too many reports wait, or this one too long."""
        users = self._users.get(account_id, 0)
        if users > MAX_WAITING_REPORTS:
            raise _busy()
        lock = self._locks.setdefault(account_id, asyncio.Lock())
        self._users[account_id] = users + 1
        try:
            try:
                async with asyncio.timeout(MAX_REPORT_WAIT_S):
                    await lock.acquire()
            except TimeoutError:
                raise _busy() from None
            try:
                await self._pause(account_id)
                began_s = asyncio.get_running_loop().time()
                try:
                    yield
                finally:
                    now_s = asyncio.get_running_loop().time()
                    self._free_at_s[account_id] = now_s + PAUSE * (now_s - began_s)
            finally:
                lock.release()
        finally:
            self._users[account_id] -= 1
            if not self._users[account_id]:
                del self._users[account_id], self._locks[account_id]

    async def _pause(self, account_id: int) -> None:
        now_s = asyncio.get_running_loop().time()
        if len(self._free_at_s) > MAX_PAUSING:
            self._free_at_s = {account: at_s for account, at_s in self._free_at_s.items() if at_s > now_s}
        wait_s = self._free_at_s.pop(account_id, 0.0) - now_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)


def _busy() -> Overloaded:
    return Overloaded(
        "Other reports of this account are still running. Wait until they are finished, then try again.",
        retry_after_s=5,
    )


class Database:
    """Open connections, and run reads in three pools of threads, so that none waits for the writer or another pool.

    `read_async`: short look-ups that requests wait for. `report`: what adds up or lists the history of an account.
    `upkeep`: the audit and the deletion of old data; no request waits for them.
    """

    def __init__(
        self,
        connect: Callable[[bool], Connection],
        *,
        name: str,
        where: str = "",
        is_shared: bool = False,
        register: Callable[..., Membership] | None = None,
        why_gone: Callable[[], str | None] = lambda: None,
        vanished_workers: Callable[[Connection], set[str]] = lambda _: set(),
        readers: int = 2,
    ) -> None:
        self.name = name
        #: Location for messages: the file, or the server without user and password.
        self.where = where
        #: True if other processes write to this database as well.
        self.is_shared = is_shared
        #: Returns what happened to the file that this process opened, or None if it is still there.
        self.why_gone = why_gone
        #: Returns the registered workers that have no session any more. Only a shared database knows its sessions.
        self.vanished_workers = vanished_workers
        self._connect = connect
        #: Receives the server's time, if the database is shared.
        self._follow: OnServerTime | None = None
        self._register = register
        self._readers = ReaderPool(connect, readers, "reader")
        self._reports = ReaderPool(connect, REPORT_THREADS, "report", limit_s=REPORT_LIMIT_S)
        self._upkeep = ReaderPool(connect, 1, "upkeep")
        self._turns = Turns()

    def connect(self) -> Connection:
        """Open a connection that may write. The caller closes it."""
        connection = self._connect(False)
        if self._follow is not None:
            connection.follow_time(self._follow)
        return connection

    def follow_time(self, follow: OnServerTime) -> None:
        """Report the server's time with each transaction of the connections opened from now on."""
        if self.is_shared:
            self._follow = follow

    def sync_time(self, connection: Connection) -> None:
        """Report the server's time now, for a process without transactions."""
        if self._follow is not None:
            sent_s = time.monotonic()
            self._follow(connection.server_ms(), sent_s)

    def membership(
        self, channels: Sequence[str], on_notify: OnNotify, *, is_numbered: bool = True
    ) -> Membership | None:
        """Return the registration of this process, not yet started, or None if the database is not shared.

        `on_notify` is called in a separate thread for every notification on these channels.
        """
        return self._register(channels, on_notify, is_numbered=is_numbered) if self._register else None

    def read(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function(connection, *arguments)` in this thread, on a pooled connection that cannot write."""
        return self._readers.read(function, *arguments)

    async def read_async(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a short look-up in a reader thread. Raise Overloaded if the database is unavailable."""
        return await self._readers.run(function, *arguments)

    async def report(self, account_id: int, function: Callable[..., T], *arguments: object) -> T:
        """Run a report for this account in a thread for reports, one at a time for each account.

        Raise ReportTooLarge if it takes too long, and Overloaded if too many reports of the account wait.
        """
        async with self._turns.of(account_id):
            work = asyncio.ensure_future(self._reports.run(function, *arguments))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # The thread cannot be stopped. Keep the turn until it ends, or the account would run two together.
                await asyncio.wait([work])
                raise
            except QueryTimeout as error:
                raise ReportTooLarge(
                    "This report takes too long. Ask for a shorter period, such as one day.",
                ) from error

    def limit_reports(self, limit_s: float) -> None:
        """Change the time limit of reports."""
        self._reports.limit_s = limit_s

    async def upkeep(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a read that may take long and that no caller waits for, one at a time in this process."""
        return await self._upkeep.run(function, *arguments)

    def close(self) -> None:
        """Wait for running reads, then close the idle connections."""
        for pool in (self._readers, self._reports, self._upkeep):
            pool.close()
