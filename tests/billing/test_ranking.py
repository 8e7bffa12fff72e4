"""Rankings of customers: fresh while they are quick, and never waited for while they are slow."""

from __future__ import annotations

import asyncio
import time

from minitoolai.billing import ranking as module
from minitoolai.billing.ranking import CustomerRankings
from minitoolai.core.clock import MS_PER_DAY, SystemClock
from minitoolai.storage.database import Connection
from minitoolai.storage.insight import traffic
from minitoolai.storage.insight.traffic import Filter, Traffic
from tests.support.books import TemporaryBooks

TODAY = SystemClock().now_ms() // MS_PER_DAY


def add(books: TemporaryBooks, account: int, cost: int, day: int = TODAY, model: str = "m") -> None:
    """Count one request of an account."""
    sums = dict.fromkeys(traffic._SUMS.split(", "), 0) | {"requests": 1, "cost": cost}
    with books.connection.transaction():
        traffic.add_piece(
            books.connection,
            traffic.Piece(
                traffic.counted_to(books.connection), traffic.counted_to(books.connection) + 1,
                [(account, day, "chat", model, "fake", *sums.values())],
            ),
        )  # fmt: skip


def names(ranking: module.Ranking | None) -> list[int]:
    assert ranking is not None
    return [int(name) for name, _ in ranking.lines]


async def becomes(rankings: CustomerRankings, only: Filter, wanted: list[int]) -> None:
    """Look again and again until the ranking is this one."""
    ranking = None
    for _ in range(200):
        ranking = await rankings.top(TODAY, only)
        if ranking is not None and names(ranking) == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(ranking)


def test_a_quick_ranking_is_always_new(books: TemporaryBooks) -> None:
    add(books, 5, 10)
    add(books, 7, 20)

    async def work() -> None:
        rankings = CustomerRankings(books.database, SystemClock(), 2)
        await becomes(rankings, Filter(), [7, 5])
        add(books, 9, 30)
        await becomes(rankings, Filter(), [9, 7])
        await becomes(rankings, Filter(model="other"), [])

    asyncio.run(work())


def test_a_slow_ranking_is_not_waited_for_and_kept(books: TemporaryBooks) -> None:
    calls = []

    def slow(connection: Connection, *arguments: object) -> list[tuple[int, Traffic]]:
        calls.append(arguments)
        time.sleep(0.3)
        return [(len(calls), Traffic())]

    async def work() -> None:
        rankings = CustomerRankings(books.database, SystemClock(), 2, slow)
        began = time.monotonic()
        assert await rankings.top(TODAY, Filter()) is None
        assert await rankings.top(TODAY, Filter()) is None
        assert time.monotonic() - began < 0.25
        await asyncio.sleep(0.5)
        for _ in range(3):
            assert names(await rankings.top(TODAY, Filter())) == [1]

    asyncio.run(work())
    assert len(calls) == 1


def test_only_the_last_rankings_are_kept(books: TemporaryBooks) -> None:
    async def work() -> None:
        rankings = CustomerRankings(books.database, SystemClock(), 2)
        for number in range(module.MOST_KEPT + 5):
            await rankings.top(TODAY, Filter(model=str(number)))
        while rankings._running:
            await asyncio.sleep(0.05)
        assert len(rankings._kept) == module.MOST_KEPT

    asyncio.run(work())


def test_all_accounts_are_listed_page_by_page_in_their_order(books: TemporaryBooks) -> None:
    for account in (3, 4, 8, 15, 16):
        add(books, account, account, TODAY - (50 if account == 8 else 0), "x" if account == 4 else "m")
    add(books, traffic.ALL, 99)
    found, after = [], 0
    for _ in range(3):
        lines, last = books.database.read(traffic.traffic_by_account, TODAY - 5, Filter(), after, 2)
        found.append([(name, sums.cost) for name, sums in lines])
        after = last or 0
    assert found == [[(3, 3), (4, 4)], [(15, 15)], [(16, 16)]]
    assert last is None
    lines, _ = books.database.read(traffic.traffic_by_account, TODAY - 5, Filter(model="x"), 0, 9)
    assert [name for name, _ in lines] == [4]
    assert books.database.read(traffic.traffic_by_account, TODAY - 5, Filter(), 16, 9) == ([], None)
