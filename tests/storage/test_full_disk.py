"""A disk that fills: what is owed is kept and tried again, new work is refused, and in the end everything adds up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from minitoolai.billing.charging import Bound, Charging
from minitoolai.core.errors import Overloaded, StoreError
from minitoolai.core.models import Balance, Caller
from minitoolai.http.errors import error_headers, status_and_type
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Held, Settled
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.sqlite import SqliteConnection
from minitoolai.storage.writer import Writer
from tests.support.books import CHAT, TemporaryBooks, hold, settle

LONG = msgspec.structs.replace(CHAT, request="x" * 100_000)
HOLDS = 400


class SmallDisk:
    """A writer on a database file that may not grow, until it may."""

    def __init__(self, books: TemporaryBooks) -> None:
        self._opened: list[SqliteConnection] = []

        def connect(read_only: bool) -> Connection:
            self._opened.append(SqliteConnection(books.path, read_only=read_only))
            return self._opened[-1]

        self.database = Database(connect, name="sqlite")
        self.writer = Writer(self.database, decide)
        self.writer.start()
        self.fill()

    def fill(self) -> None:
        (pages,) = self._opened[0].execute("PRAGMA page_count")[0]
        self._opened[0].execute(f"PRAGMA max_page_count={pages}")

    def clear(self) -> None:
        self._opened[0].execute("PRAGMA max_page_count=1000000")


@pytest.fixture
def account(sqlite_books: TemporaryBooks) -> int:
    number = sqlite_books.account(10**6)
    sqlite_books.apply(*(hold(n, number, 10) for n in range(1, HOLDS + 1)))
    return number


@pytest.fixture
def disk(sqlite_books: TemporaryBooks, account: int) -> Iterator[SmallDisk]:
    small = SmallDisk(sqlite_books)
    yield small
    small.writer.stop()
    small.database.close()


async def _settle_all(writer: Writer, account: int) -> list[Any]:
    """More charges than fit on the disk, at once; returns once the writer has seen that they do not."""
    asked = [writer.submit(settle(n, account, 7)) for n in range(1, HOLDS + 1)]
    for _ in range(400):
        await asyncio.sleep(0.01)
        if writer.counts.replays >= 2:
            return asked
    raise AssertionError("the disk never filled")


def test_charges_that_meet_a_full_disk_are_written_once_there_is_room(
    sqlite_books: TemporaryBooks, account: int, disk: SmallDisk
) -> None:
    async def work() -> None:
        asked = await _settle_all(disk.writer, account)
        waiting = [future for future in asked if not future.done()]
        assert 0 < len(waiting) < HOLDS
        assert sqlite_books.broken() == {}
        disk.clear()
        assert await asyncio.wait_for(asyncio.gather(*asked), 20) == [Settled(7)] * HOLDS

    asyncio.run(work())
    assert sqlite_books.money(account) == Balance(10**6 - 7 * HOLDS, 0)


def test_new_work_on_a_full_disk_is_a_503_and_nothing_is_held(
    sqlite_books: TemporaryBooks, account: int, disk: SmallDisk
) -> None:
    charging = Charging(disk.writer, sqlite_books.clock)
    caller, bound = Caller(account, "key000000001"), Bound(100, 1, 20, 16)

    async def work() -> None:
        asked = await _settle_all(disk.writer, account)
        for _ in range(3):
            with pytest.raises(Overloaded, match="Nothing was charged") as refusal:
                await charging.reserve(caller, bound, LONG)
            assert status_and_type(refusal.value)[0] == 503
            assert (b"retry-after", b"5") in error_headers(refusal.value)
        assert sqlite_books.rows("SELECT count(*) FROM holds") == [(HOLDS,)]
        disk.clear()
        await asyncio.wait_for(asyncio.gather(*asked), 20)
        assert (await charging.reserve(caller, bound, LONG)).amount == 120

    asyncio.run(work())
    assert sqlite_books.money(account) == Balance(10**6 - 7 * HOLDS, 120)


def test_stopping_on_a_full_disk_tells_whoever_waits_and_leaves_true_books(
    sqlite_books: TemporaryBooks, account: int, disk: SmallDisk
) -> None:
    async def work() -> None:
        asked = await _settle_all(disk.writer, account)
        await asyncio.to_thread(disk.writer.stop)
        answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
        written = [answer for answer in answers if answer == Settled(7)]
        told = [answer for answer in answers if isinstance(answer, StoreError)]
        assert told
        assert len(written) + len(told) == HOLDS
        money = Balance(10**6 - 7 * len(written), 10 * len(told))
        assert sqlite_books.money(account) == money

    asyncio.run(work())


def test_a_hold_that_fits_is_granted_while_charges_wait(
    sqlite_books: TemporaryBooks, account: int, disk: SmallDisk
) -> None:
    # Nothing queues behind what cannot be written: the writer goes on with what it can.
    async def work() -> None:
        asked = await _settle_all(disk.writer, account)
        disk.clear()
        assert await asyncio.wait_for(disk.writer.submit(hold(9000, account, 10)), 5) == Held(10, 1)
        await asyncio.wait_for(asyncio.gather(*asked), 20)

    asyncio.run(work())
