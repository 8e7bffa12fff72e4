"""What every database can do: the protocol of a connection, and the readers.

Functions of a connection elsewhere in this floor are written once, with `?` marks, against `Connection`. Where
SQLite and PostgreSQL differ (marks, lists, locks) is in sqlite.py and postgres.py, and nowhere else.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar

from minitoolai.core.errors import ConnectionLost, Overloaded, StoreError

T = TypeVar("T")
Row = tuple[Any, ...]
#: Called with a channel and what was said there; with two None where anything may have been missed.
Heard = Callable[[str | None, str | None], None]


class SelectByIds(NamedTuple):
    """A SELECT whose `IN (…)` stands for these ids.

    `lock`: nobody else may change these rows until the transaction ends; taken in the order of their ids.
    """

    sql: str
    ids: Sequence[int | str]
    lock: bool = False


class Connection(Protocol):
    """One database session, used by one thread at a time."""

    #: Ends a SELECT of work to claim, so that two processes never wait for, nor get, the same rows.
    skip_locked: str

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement; the rows, or an empty list."""

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        """Run one statement for each row; how many rows changed."""

    def queue_write(self, sql: str, rows: Sequence[Sequence[object]], *, otherwise: str = "") -> None:
        """As `execute_many`, within a transaction, now or at the latest before its COMMIT, in order.

        With `otherwise`, a StoreError of these words unless every row changed one; then nothing is written.
        """

    def select_by_ids(self, sql: str, ids: Iterable[int | str], *, lock: bool = False) -> list[Row]:
        """The rows of one `ByIds`."""

    def select_many(self, *questions: SelectByIds) -> list[list[Row]]:
        """The rows of each, asked in this order; in one round trip, where there is a server."""

    def notify(self, channel: str, payload: str) -> None:
        """Tell whoever listens in other processes, once this transaction is committed."""

    def transaction(self) -> AbstractContextManager[None]:
        """A write transaction: COMMIT at the end, ROLLBACK on any exception."""

    def snapshot(self) -> AbstractContextManager[None]:
        """A read transaction in which every SELECT sees the same moment."""

    def close(self) -> None: ...


class ImmediateWrites:
    """What a `Connection` without a server may inherit: nothing is gained by putting anything together."""

    def queue_write(self: Connection, sql: str, rows: Sequence[Sequence[object]], *, otherwise: str = "") -> None:
        if self.execute_many(sql, rows) < len(rows) and otherwise:
            raise StoreError(otherwise)

    def select_many(self: Connection, *questions: SelectByIds) -> list[list[Row]]:
        return [self.select_by_ids(one.sql, one.ids) if one.ids else [] for one in questions]


class Member(Protocol):
    """What stands for this process among the others on a database."""

    #: Ours among them; after a lost session perhaps another.
    number: int

    def start(self) -> int:
        """Our number among them. StoreError where the server is away."""

    def stop(self) -> None:
        """Give the number back."""


class Database:
    """Hands out connections, and runs reads in a few threads so that they never wait for the writer."""

    def __init__(
        self,
        connect: Callable[[bool], Connection],
        *,
        name: str,
        where: str = "",
        is_shared: bool = False,
        join: Callable[[Sequence[str], Heard], Member] | None = None,
        readers: int = 2,
    ) -> None:
        self.name = name
        #: For messages: the file, or the server without user and password.
        self.where = where
        #: Other processes write to it, too.
        self.is_shared = is_shared
        self._connect = connect
        self._join = join
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")

    def connect(self) -> Connection:
        """A connection that may write; the caller closes it."""
        return self._connect(False)

    def member(self, channels: Sequence[str], heard: Heard) -> Member | None:
        """To be started by a process that shares this database with others; None where it shares it with nobody.

        `heard` is called in a thread of its own with whatever is said on these channels.
        """
        return self._join(channels, heard) if self._join else None

    def read(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function(connection, *arguments)` in this thread, on a connection that cannot write."""
        while True:
            try:
                connection, is_new = self._idle.get_nowait(), False
            except queue.Empty:
                connection, is_new = self._connect(True), True
            try:
                answer = function(connection, *arguments)
            except ConnectionLost:
                connection.close()
                # What lay idle while the server restarted is dead; only a new connection's failure is news.
                if is_new:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                self._idle.put(connection)
                return answer

    async def read_async(self, function: Callable[..., T], *arguments: object) -> T:
        """The same in a reader thread, for the event loop. Overloaded where the database is away."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, lambda: self.read(function, *arguments))
        except ConnectionLost as error:
            raise Overloaded("the database is away; try again", retry_after_s=2) from error

    def close(self) -> None:
        """Wait for reads under way and close what is idle."""
        self._pool.shutdown(wait=True)
        while not self._idle.empty():
            self._idle.get().close()
