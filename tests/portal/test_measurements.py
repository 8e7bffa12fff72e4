"""Figures of speed and uptime: right sums, none from few requests, and one read a minute whoever asks."""

from __future__ import annotations

import asyncio

import pytest

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.portal.measurements import (
    MAX_AGE_MS,
    MIN_REQUESTS,
    Measured,
    Measurements,
    add_days,
    measured,
    strip_of,
)
from minitoolai.storage.insight.traffic import Traffic
from tests.support.books import NOON_MS, TemporaryBooks
from tests.support.history import count_traffic, seed_history

TODAY = NOON_MS // MS_PER_DAY
SOME = Traffic(
    requests=100, failures=2, timed=98, duration_ms=98_000, streamed=50, first_token_ms=10_000,
    streamed_tokens=9_000, streaming_ms=60_000,
)  # fmt: skip


def test_the_figures_are_means() -> None:
    assert measured(SOME) == Measured(200, 150.0, 1000, 0.98)
    twice = add_days({TODAY: SOME, TODAY - 1: SOME, TODAY - 2: Traffic(requests=7)}, TODAY - 1)
    assert twice.requests == 200
    assert measured(twice) == measured(SOME)


@pytest.mark.parametrize(("requests", "is_shown"), [(0, False), (MIN_REQUESTS - 1, False), (MIN_REQUESTS, True)])
def test_few_requests_give_no_figures(requests: int, is_shown: bool) -> None:
    few = Traffic(requests=requests, timed=requests, duration_ms=requests * 10, streamed=requests,
                  first_token_ms=requests, streamed_tokens=requests, streaming_ms=requests)  # fmt: skip
    assert (measured(few) != Measured()) == is_shown


def test_a_chat_without_a_time_has_no_speed() -> None:
    assert Traffic(streamed=50, streamed_tokens=50).tokens_per_s is None
    assert Traffic().uptime is None


def test_each_day_is_a_bar_of_its_kind() -> None:
    days = {
        TODAY: Traffic(requests=100, failures=1),
        TODAY - 1: Traffic(requests=100, failures=2),
        TODAY - 2: Traffic(requests=100, failures=6),
        TODAY - 40: Traffic(requests=100, failures=100),
    }
    strip = strip_of(days, TODAY, 4)
    assert strip.width == 15
    assert strip.paths == {
        "unknown": "M0 0h3v20h-3z", "failed": "M4 0h3v20h-3z", "worn": "M8 0h3v20h-3z", "fine": "M12 0h3v20h-3z",
    }  # fmt: skip


def test_the_sums_are_those_of_all_customers_and_are_read_once_a_minute(books: TemporaryBooks) -> None:
    for _ in range(2):
        account = books.account(10**9)
        seed_history(books.connection, account, 300, first_ms=NOON_MS - 3 * MS_PER_DAY, until_ms=NOON_MS)
    with books.connection.transaction():
        count_traffic(books.connection)
    measurements = Measurements(books.database, books.clock)

    async def read() -> int:
        together = await asyncio.gather(*(measurements.by_model() for _ in range(5)))
        assert all(one is together[0] for one in together)
        return sum(traffic.requests for days in together[0].values() for traffic in days.values())

    async def test() -> None:
        assert await read() == 600
        with books.connection.transaction():
            books.connection.execute("DELETE FROM traffic_days")
        assert await read() == 600
        books.clock.forward(MAX_AGE_MS / 1000 + 1)
        assert await read() == 0

    asyncio.run(test())
