"""Lock that lets one process at a time archive a database. It ends with the process, however that ends."""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from minitoolai.core.private_files import private_opener
from minitoolai.core.threads import CONTROL
from minitoolai.storage.database import Database

#: Advisory lock of PostgreSQL; the number spells "archives".
ADVISORY_LOCK = 0x6172636869766573


@contextmanager
def _file_lock(path: Path) -> Iterator[bool]:
    with open(path, "w", opener=private_opener) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@asynccontextmanager
async def archive_lock(database: Database) -> AsyncIterator[bool]:
    """Hold the lock and yield True, or yield False if another process holds it."""
    if database.name == "sqlite":
        with _file_lock(Path(database.where).with_name("archive.lock")) as is_ours:
            yield is_ours
        return
    connection = await CONTROL.run(database.connect)
    try:
        query = f"SELECT pg_try_advisory_lock({ADVISORY_LOCK})"
        yield bool((await CONTROL.run(connection.execute, query))[0][0])
    finally:
        await CONTROL.run(connection.close)
