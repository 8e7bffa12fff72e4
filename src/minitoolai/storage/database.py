"""Where SQLite and PostgreSQL differ, and nowhere else: connections, parameter marks, lists, locks.

Functions of a connection elsewhere in this floor are written once, with `?` marks, against `Connection`.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from minitoolai.core.errors import StoreError

T = TypeVar("T")
Row = tuple[Any, ...]
SQLITE_BUSY_TIMEOUT_S = 10.0


class Connection(Protocol):
    """One database session, used by one thread at a time."""

    #: Ends a SELECT of work to claim, so that two processes never wait for, nor get, the same rows.
    skip_locked: str

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement; the rows, or an empty list."""

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        """Run one statement for each row; how many rows changed."""

    def select_by_ids(self, sql: str, ids: Iterable[int | str]) -> list[Row]:
        """Run a SELECT whose `IN (…)` stands for these ids."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A write transaction: COMMIT at the end, ROLLBACK on any exception."""

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A read transaction in which every SELECT sees the same moment."""

    def close(self) -> None: ...


class SqliteConnection:
    """SQLite in WAL mode. Statements are cached by the driver."""

    #: One process writes at a time, and no other meanwhile.
    skip_locked = ""

    def __init__(self, path: Path, *, read_only: bool = False, checkpoints: bool = True) -> None:
        try:
            self._db = sqlite3.connect(
                path,
                timeout=SQLITE_BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.execute(f"PRAGMA wal_autocheckpoint={2000 if checkpoints else 0}")
            if read_only:
                self._db.execute("PRAGMA query_only=ON")
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {path}: {error}") from error

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        try:
            return self._db.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{error} in {sql.split(maxsplit=1)[0]}") from error

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        try:
            return self._db.executemany(sql, rows).rowcount
        except sqlite3.Error as error:
            raise StoreError(f"{error} in {sql.split(maxsplit=1)[0]}") from error

    def select_by_ids(self, sql: str, ids: Iterable[int | str]) -> list[Row]:
        listed = list(ids)
        if not listed:
            return []
        # The number of marks is rounded up, so that a few statements serve every batch from the cache.
        size = 1 << (len(listed) - 1).bit_length()
        listed += [listed[-1]] * (size - len(listed))
        return self.execute(sql.replace("IN (…)", f"IN ({','.join('?' * size)})"), listed)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        self._db.close()


class Database:
    """Hands out connections, and runs reads in a few threads so that they never wait for the writer."""

    def __init__(self, connect: Callable[[bool], Connection], *, name: str, readers: int = 2) -> None:
        self.name = name
        self._connect = connect
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")

    def connect(self) -> Connection:
        """A connection that may write; the caller closes it."""
        return self._connect(False)

    def read(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function(connection, *arguments)` in this thread, on a connection that cannot write."""
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connect(True)
        try:
            answer = function(connection, *arguments)
        except BaseException:
            connection.close()
            raise
        self._idle.put(connection)
        return answer

    async def read_soon(self, function: Callable[..., T], *arguments: object) -> T:
        """The same in a reader thread, for the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: self.read(function, *arguments))

    def close(self) -> None:
        """Wait for reads under way and close what is idle."""
        self._pool.shutdown(wait=True)
        while not self._idle.empty():
            self._idle.get().close()


def open_sqlite(path: Path, *, serving: bool) -> Database:
    """The database in one file. Only the process that serves may checkpoint its write-ahead log:
    a second checkpointing writer can corrupt it (fixed in SQLite 3.51.3).
    """
    return Database(
        lambda read_only: SqliteConnection(path, read_only=read_only, checkpoints=serving and not read_only),
        name="sqlite",
    )
