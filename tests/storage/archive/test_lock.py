"""One process at a time archives a database."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from minitoolai.storage.archive.lock import archive_lock
from tests.support.books import TemporaryBooks


def test_a_second_holder_is_refused_until_the_first_has_ended(books: TemporaryBooks) -> None:
    async def work() -> list[bool]:
        async with archive_lock(books.database) as first, archive_lock(books.database) as second:
            pass
        # PostgreSQL ends a session, and with it the lock, a moment after it was closed.
        for _ in range(100):
            async with archive_lock(books.database) as third:
                pass
            if third:
                break
            await asyncio.sleep(0.05)
        return [first, second, third]

    assert asyncio.run(work()) == [True, False, True]


def test_an_error_ends_the_lock(books: TemporaryBooks) -> None:
    async def fail() -> None:
        async with archive_lock(books.database):
            raise RuntimeError("the archive is full")

    async def again() -> bool:
        async with archive_lock(books.database) as is_ours:
            return is_ours

    with pytest.raises(RuntimeError, match="full"):
        asyncio.run(fail())
    assert asyncio.run(again())


def test_only_the_owner_may_read_the_file_of_the_lock(sqlite_books: TemporaryBooks) -> None:
    async def work() -> None:
        async with archive_lock(sqlite_books.database):
            pass

    asyncio.run(work())
    file = Path(sqlite_books.database.where).with_name("archive.lock")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
