"""SQLite implementation of `Connection`: one file, served by one process."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path

from minitoolai.core.errors import QueryTimeout, StoreError
from minitoolai.storage.database import Database, ImmediateWrites, Row

BUSY_TIMEOUT_S = 10.0
#: Instructions of SQLite's virtual machine between two looks at the time limit, about a millisecond.
CHECK_EVERY = 50_000
#: Set on every connection: a committed transaction survives a power cut, and foreign keys are enforced.
SESSION = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")


class SqliteConnection(ImmediateWrites):
    """SQLite connection in write-ahead-log (WAL) mode. The driver caches prepared statements."""

    #: Not needed: only one process writes at a time.
    skip_locked = ""

    def __init__(self, path: Path, *, read_only: bool = False, checkpoints: bool = True) -> None:
        try:
            self._db = sqlite3.connect(
                path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            for pragma in SESSION:
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute(f"PRAGMA wal_autocheckpoint={2000 if checkpoints else 0}")
            if read_only:
                self._db.execute("PRAGMA query_only=ON")
        except sqlite3.Error as error:
            raise StoreError(f"cannot open {path}: {error}") from error

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        try:
            return self._db.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            kind = QueryTimeout if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT else StoreError
            raise kind(f"{error} in {sql.split(maxsplit=1)[0]}") from error

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        try:
            return self._db.executemany(sql, rows).rowcount
        except sqlite3.Error as error:
            raise StoreError(f"{error} in {sql.split(maxsplit=1)[0]}") from error

    def select_by_ids(self, sql: str, ids: Iterable[int | str], *, lock: bool = False) -> list[Row]:
        listed = list(ids)
        if not listed:
            return []
        # Round the number of placeholders up to a power of two, so that few statements fill the statement cache.
        size = 1 << (len(listed) - 1).bit_length()
        listed += [listed[-1]] * (size - len(listed))
        return self.execute(_with_placeholders(sql, size), listed)

    def notify(self, channel: str, payload: str) -> None:
        """Do nothing: a single process serves a file, and it polls every second."""

    def transaction(self) -> AbstractContextManager[None]:
        return _Transaction(self)

    def roll_back(self) -> None:
        """Roll back the open transaction, if there is one."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def limit_time(self, limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        self._db.set_progress_handler(lambda: time.monotonic() > deadline_s, CHECK_EVERY)

    def close(self) -> None:
        self._db.close()


class _Transaction:
    """Context manager for BEGIN IMMEDIATE … COMMIT.

    A class, because @contextmanager costs three more Python calls per batch (decision 0012).
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            self._connection.roll_back()


@lru_cache(maxsize=256)
def _with_placeholders(sql: str, size: int) -> str:
    return sql.replace("IN (…)", f"IN ({','.join('?' * size)})")


def open_sqlite(path: Path, *, serving: bool) -> Database:
    """Return the database in one file.

    Only the serving process may checkpoint the write-ahead log: a second writer that checkpoints can corrupt it
    (fixed in SQLite 3.51.3).
    """
    return Database(
        lambda read_only: SqliteConnection(path, read_only=read_only, checkpoints=serving and not read_only),
        name="sqlite",
        where=str(path),
    )
