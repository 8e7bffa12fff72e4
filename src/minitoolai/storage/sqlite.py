"""SQLite implementation of `Connection`: one file, served by one process."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from minitoolai.core.errors import ConnectionLost, QueryTimeout, SettingsError, StoreError
from minitoolai.core.private_files import create_private_file
from minitoolai.ledger.types import OpenPurses
from minitoolai.storage.database import Connection, Database, ImmediateWrites, PriceParts, Row

BUSY_TIMEOUT_S = 10.0
#: Instructions of SQLite's virtual machine between two looks at the time limit, about a millisecond.
CHECK_EVERY = 50_000
#: Set on every connection: a committed transaction survives a power cut, and foreign keys are enforced.
SESSION = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
#: Set once, on an empty file or before a VACUUM, so that freed pages can be returned to the disk. At any other time it
#: would change nothing, but take the write lock.
NEW_FILE = "auto_vacuum=INCREMENTAL"
_INCREMENTAL = 2

#: Compare the file with the path at most this often before a transaction. It costs a system call.
CHECK_FILE_EVERY_S = 1.0
#: Device and inode of a file.
Identity = tuple[int, int]


def identity_of(path: Path) -> Identity | None:
    """Return device and inode of a file, or None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def why_gone(path: Path, identity: Identity) -> str | None:
    """Return what happened to the file that was opened, or None if it is still at its path."""
    present = identity_of(path)
    if present == identity:
        return None
    event = "was deleted or moved away" if present is None else "was replaced by another file"
    return f"{path} {event} while this process uses it; move the right file back, or restart to use the present one"


class SqliteConnection(ImmediateWrites):
    """SQLite connection in write-ahead-log (WAL) mode. The driver caches prepared statements."""

    #: Not needed: only one process writes at a time.
    skip_locked = ""
    price_parts = PriceParts(
        "json_each(g.price_split) AS p",
        "json_extract(p.value, '$[0]')",
        "json_extract(p.value, '$[1]')",
        "json_extract(p.value, '$[2]')",
    )

    def __init__(self, path: Path, *, read_only: bool = False, checkpoints: bool = True) -> None:
        self.open_purses: dict[int, OpenPurses] = {}
        if not read_only and path.parent.is_dir() and path.name != ":memory:":
            create_private_file(path)
        try:
            # Without `mode=rw`, a reader would create a missing file: an empty database that looks like a working one.
            self._db = sqlite3.connect(
                f"file:{quote(str(path))}?mode=rw",
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            is_empty = path.exists() and path.stat().st_size == 0
            pragmas = (NEW_FILE, *SESSION) if is_empty else SESSION
            for pragma in pragmas:
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute(f"PRAGMA wal_autocheckpoint={2000 if checkpoints else 0}")
            if read_only:
                self._db.execute("PRAGMA query_only=ON")
        except sqlite3.Error as error:
            kind = StoreError if path.exists() else ConnectionLost
            raise kind(f"cannot open {path}: {error}") from error
        self._path = path
        self._identity = None if read_only else identity_of(path)
        self._next_check_s = 0.0

    def check_file(self) -> None:
        """Raise ConnectionLost if the file was replaced or deleted: a transaction would be lost with it."""
        now_s = time.monotonic()
        if now_s < self._next_check_s or self._identity is None:
            return
        if (gone := why_gone(self._path, self._identity)) is not None:
            raise ConnectionLost(gone)
        self._next_check_s = now_s + CHECK_FILE_EVERY_S

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

    def free_pages(self, limit: int) -> bool:
        free = self.execute("PRAGMA freelist_count")[0][0]
        if not free or self.execute("PRAGMA auto_vacuum")[0][0] != _INCREMENTAL:
            return False
        # Before Python 3.13, a PRAGMA whose rows have no columns is stopped after its first row, which is one page.
        for _ in range(min(free, limit)):
            self.execute("PRAGMA incremental_vacuum(1)")
        return bool(free > limit)

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
        self._connection.check_file()
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
    identity = identity_of(path)
    return Database(
        lambda read_only: SqliteConnection(path, read_only=read_only, checkpoints=serving and not read_only),
        name="sqlite",
        where=str(path),
        why_gone=lambda: None if identity is None else why_gone(path, identity),
    )


def vacuum(path: Path) -> tuple[int, int]:
    """Rewrite the file without its free pages and return its size before and after. No other process may use it.

    From then on the file gives free pages back by itself.
    """
    before = path.stat().st_size
    connection = SqliteConnection(path)
    try:
        connection.execute(f"PRAGMA {NEW_FILE}")
        connection.execute("VACUUM")
    finally:
        connection.close()
    return before, path.stat().st_size


def keeps_free_pages(connection: Connection) -> bool:
    """Return True if only `vacuum` makes this file smaller, because it was created by an older version."""
    return bool(connection.execute("PRAGMA auto_vacuum")[0][0] != _INCREMENTAL)


@contextmanager
def exclusive_database(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file itself, for every path to it. The kernel releases it with the process.

    Close every connection before the end of the block: closing the file releases SQLite's own locks on it, too.
    Raise SettingsError if another process holds the lock.
    """
    create_private_file(path)
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"another minitoolai serve is already using the database {path}, perhaps through another path, and two "
                "would corrupt its ledger; stop it, or choose another --data-dir"
            ) from None
        try:
            yield
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                # Created for the lock, and then nothing was written, such as by a restore that failed.
                path.unlink(missing_ok=True)
