"""One ticker for all answers: each twice a second, and never so many in one go that a new request waits for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from minitoolai.billing.charging import LEASE_MS, Bound, Charging, Reservation
from minitoolai.chat.router import Route
from minitoolai.chat.run import ChatPlan, ChatRun
from minitoolai.core.catalog.catalog import ChatModel, EngineEntry
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.counting import PromptCount
from minitoolai.core.errors import ServiceError
from minitoolai.core.in_flight import CHECKPOINT_EVERY_S, TICK_S, CheckpointSchedule, InFlight
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.core.models import Balance, Caller
from minitoolai.engines.chat.fake import FakeEngine
from minitoolai.engines.protocols import ChatEngine
from minitoolai.storage.writer import Writer
from tests.support.books import CHAT, TemporaryBooks
from tests.support.virtual import VirtualClock, VirtualLoop


class Ticked:
    """Remembers when."""

    def __init__(self) -> None:
        self.at_s: list[float] = []

    def tick(self, now_s: float) -> None:
        self.at_s.append(now_s)

    def stop(self, reason: ServiceError) -> None:
        raise AssertionError("nobody breaks these off")


def pass_time(runs: list[Ticked], seconds: float, leave: int = 0) -> None:
    """All of them under way for so long, some of them for half of it."""
    loop = VirtualLoop()

    async def watch() -> None:
        in_flight = InFlight(VirtualClock(loop))
        for run in runs:
            in_flight.add(run)
        ticker = asyncio.ensure_future(in_flight.run_ticker())
        await asyncio.sleep(seconds / 2)
        for run in runs[:leave]:
            in_flight.discard(run)
            in_flight.discard(run)
        await asyncio.sleep(seconds / 2)
        assert in_flight.count() == len(runs) - leave
        ticker.cancel()

    loop.run_until_complete(watch())
    loop.close()


def test_two_thousand_answers_are_each_ticked_twice_a_second_and_no_more_than_a_tenth_of_them_in_one_go() -> None:
    runs = [Ticked() for _ in range(2000)]
    pass_time(runs, 10.0)
    for run in runs:
        assert len(run.at_s) in (19, 20)
        assert run.at_s[0] <= TICK_S + 0.001
        assert all(after - before == pytest.approx(TICK_S) for before, after in pairwise(run.at_s))
    together = Counter(round(run.at_s[0], 3) for run in runs)
    assert set(together.values()) == {200}


def test_a_few_answers_are_ticked_together_so_that_their_checkpoints_share_a_commit() -> None:
    runs = [Ticked() for _ in range(30)]
    pass_time(runs, 2.0)
    assert all(run.at_s == runs[0].at_s for run in runs)


def test_an_answer_that_has_ended_is_ticked_no_more() -> None:
    runs = [Ticked() for _ in range(100)]
    pass_time(runs, 4.0, leave=40)
    assert {len(run.at_s) for run in runs[:40]} <= {3, 4}
    assert {len(run.at_s) for run in runs[40:]} <= {7, 8}


def test_after_a_pause_the_ticker_goes_on_from_there_and_does_not_catch_up() -> None:
    loop, run = VirtualLoop(), Ticked()

    async def watch() -> None:
        in_flight = InFlight(VirtualClock(loop))
        in_flight.add(run)
        ticker = asyncio.ensure_future(in_flight.run_ticker())
        await asyncio.sleep(1.0)
        loop.pass_time(5.0)
        await asyncio.sleep(2.0)
        ticker.cancel()

    loop.run_until_complete(watch())
    loop.close()
    before, after = [s for s in run.at_s if s <= 1.0], [s for s in run.at_s if s > 1.0]
    assert len(before) in (2, 3)
    assert len(after) in (4, 5)
    assert all(later - earlier == pytest.approx(TICK_S) for earlier, later in pairwise(after))


class Faulty(Ticked):
    """Has a bug in its tick, and perhaps in its end."""

    hold_id = 4711

    def __init__(self, *, ends: bool) -> None:
        super().__init__()
        self.ends = ends
        self.told: list[ServiceError] = []

    def tick(self, now_s: float) -> None:
        super().tick(now_s)
        raise KeyError("a bug")

    def stop(self, reason: ServiceError) -> None:
        if not self.ends:
            raise ValueError("another bug")
        self.told.append(reason)


@pytest.mark.parametrize("ends", [True, False])
def test_a_tick_that_fails_ends_its_own_answer_only(ends: bool, caplog: pytest.LogCaptureFixture) -> None:
    loop, faulty, others = VirtualLoop(), Faulty(ends=ends), [Ticked() for _ in range(3)]

    async def watch() -> None:
        in_flight = InFlight(VirtualClock(loop))
        for run in (others[0], faulty, *others[1:]):
            in_flight.add(run)  # type: ignore[arg-type]
        ticker = asyncio.ensure_future(in_flight.run_ticker())
        await asyncio.sleep(5.0)
        # What cannot be stopped is left to the sweep.
        assert in_flight.count() == 3 + ends
        assert not ticker.done()
        ticker.cancel()

    loop.run_until_complete(watch())
    loop.close()
    assert all(len(run.at_s) >= 9 for run in others)
    assert "its tick failed" in caplog.text
    assert "KeyError" in caplog.text
    assert [error.code for error in faulty.told[:1]] == ["internal_error"] * ends


@pytest.mark.parametrize("first_tick_s", [0.001, 0.1, 0.25, 0.251, 0.3, 0.499, TICK_S])
def test_no_checkpoint_comes_later_than_a_second_after_the_last_or_the_start(first_tick_s: float) -> None:
    started_s = 4096.0
    checkpoints = CheckpointSchedule(started_s)
    ticks = [started_s + first_tick_s + number * TICK_S for number in range(20)]
    at_s = [started_s, *(tick for tick in ticks if checkpoints.is_due(tick))]
    assert len(at_s) >= 10
    assert all(later - earlier <= CHECKPOINT_EVERY_S for earlier, later in pairwise(at_s))


class Home:
    """What a chat needs of its service, and of the routes behind it."""

    def __init__(self, books: TemporaryBooks, charging: Charging) -> None:
        self.clock = books.clock
        self.charging = charging
        self.in_flight = InFlight(books.clock)

    def timeouts(self, engine: ChatEngine) -> tuple[float, float]:
        return 60.0, 600.0

    def upstream_cost(self, model: str, engine: str, usage: Usage) -> None:
        return None

    def forget(self, run: Any) -> bool:
        return self.in_flight.discard(run)


PRICES = Prices.of_nano(150, 600)


def new_run(home: Any, held: Reservation) -> ChatRun:
    request = ChatRequest("quick", [], {}, stream=True, include_usage=False, limit=None)
    engine = FakeEngine("quick", EngineEntry(kind="fake", model="fake-1"))
    model = ChatModel("quick", PRICES, 8192, 4096, ("quick",), None)
    route = Route(home, "quick", [engine], home.clock.steady_s())
    plan = ChatPlan(request, model, route, held.units, Bound(0, 0, held.units, 0), PromptCount(3))
    run = ChatRun(home, plan, held)
    home.in_flight.add(run)
    return run


def test_a_lease_is_renewed_at_every_second_tick_even_where_that_comes_a_moment_early(
    sqlite_books: TemporaryBooks,
) -> None:
    books, account = sqlite_books, sqlite_books.account(100_000)

    async def work(charging: Charging) -> None:
        bound = Bound(base=100, unit=10, units=50, least_units=16)
        held = await charging.reserve(Caller(account, "key000000001"), bound, CHAT)
        run = new_run(Home(books, charging), held)
        for _ in range(4):
            for _ in range(2):
                books.clock.forward(TICK_S - 0.001)
                run.tick(books.clock.steady_s())
            # Behind whatever was submitted before.
            await charging.reserve(Caller(account, "key000000001"), bound, CHAT)
            lease = books.rows("SELECT lease_until_ms FROM holds WHERE id = ?", held.hold_id)
            assert lease == [(books.clock.now_ms() + LEASE_MS,)]

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))


def test_a_run_whose_task_ended_without_finishing_it_is_charged_and_renews_its_hold_no_more(
    sqlite_books: TemporaryBooks, caplog: pytest.LogCaptureFixture
) -> None:
    books, account = sqlite_books, sqlite_books.account(100_000)

    async def work(charging: Charging, writer: Writer) -> None:
        bound = Bound(base=100, unit=10, units=50, least_units=16)
        held = await charging.reserve(Caller(account, "key000000001"), bound, CHAT)
        home = Home(books, charging)
        run = new_run(home, held)
        assert home.in_flight.holds() == {held.hold_id}
        run.cancellation.task = asyncio.create_task(asyncio.sleep(0.01))
        run.tick(books.clock.steady_s())
        assert home.in_flight.count() == 1
        await run.cancellation.task
        run.tick(books.clock.steady_s())
        assert home.in_flight.holds() == set()
        await writer.run(lambda _: None)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), writer))
    assert "its task ended without finishing it" in caplog.text
    assert books.money(account) == Balance(100_000, 0)
    assert books.rows("SELECT state, error_code FROM generations") == [("failed", "internal_error")]
