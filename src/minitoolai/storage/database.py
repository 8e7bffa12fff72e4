"""Connection protocol that both databases implement, and the pool of connections that read.

The other modules of this package hold plain functions of a `Connection`, written once with `?` placeholders.
Everything in which SQLite and PostgreSQL differ (placeholders, lists, locks) stays in sqlite.py and postgres/.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar

from minitoolai.core.errors import ConnectionLost, Overloaded, StoreError

T = TypeVar("T")
Row = tuple[Any, ...]
#: Publish/subscribe callback: (channel, payload), or (None, None) when notifications may have been lost.
OnNotify = Callable[[str | None, str | None], None]
#: Called with the server's time in milliseconds since 1970, and the monotonic time just before it was read.
OnServerTime = Callable[[int, float], None]


class Membership(Protocol):
    """Registration of this process among those that share a database: holds its number and receives notifications."""

    number: int

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


class Connection(Protocol):
    """One database session, used by one thread at a time."""

    #: Suffix of a SELECT that claims work: rows locked by another process are skipped, so no two claim the same row.
    skip_locked: str

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

    def follow_time(self, follow: OnServerTime) -> None:
        """Report the server's time now and with each transaction. Does nothing for a file, which has no clock."""

    def server_ms(self) -> int:
        """Return the server's time in milliseconds since 1970. Only for a shared database."""

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


class Database:
    """Open connections, and run reads on a pool of connections and threads so that they never wait for the writer."""

    def __init__(
        self,
        connect: Callable[[bool], Connection],
        *,
        name: str,
        where: str = "",
        is_shared: bool = False,
        register: Callable[[Sequence[str], OnNotify], Membership] | None = None,
        why_gone: Callable[[], str | None] = lambda: None,
        readers: int = 2,
    ) -> None:
        self.name = name
        #: Location for messages: the file, or the server without user and password.
        self.where = where
        #: True if other processes write to this database as well.
        self.is_shared = is_shared
        #: Returns what happened to the file that this process opened, or None if it is still there.
        self.why_gone = why_gone
        self._connect = connect
        #: Receives the server's time, if the database is shared.
        self._follow: OnServerTime | None = None
        self._register = register
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")

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

    def membership(self, channels: Sequence[str], on_notify: OnNotify) -> Membership | None:
        """Return the registration of this process, not yet started, or None if the database is not shared.

        `on_notify` is called in a separate thread for every notification on these channels.
        """
        return self._register(channels, on_notify) if self._register else None

    def read(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function(connection, *arguments)` in this thread, on a pooled connection that cannot write."""
        while True:
            try:
                connection, is_new = self._idle.get_nowait(), False
            except queue.Empty:
                connection, is_new = self._connect(True), True
            try:
                result = function(connection, *arguments)
            except ConnectionLost:
                connection.close()
                # A pooled connection does not survive a restart of the server; only a new one tells that it is away.
                if is_new:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                self._idle.put(connection)
                return result

    async def read_async(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `read` in a reader thread, for the event loop. Raise Overloaded if the database is unavailable."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, lambda: self.read(function, *arguments))
        except ConnectionLost as error:
            raise Overloaded("the database is temporarily unavailable; try again", retry_after_s=2) from error

    def close(self) -> None:
        """Wait for running reads, then close the idle connections."""
        self._pool.shutdown(wait=True)
        while not self._idle.empty():
            self._idle.get().close()
