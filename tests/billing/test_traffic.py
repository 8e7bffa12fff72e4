"""The sums of traffic: each generation is counted once, whoever counts, and they agree with the rows."""

from __future__ import annotations

import asyncio
from functools import partial

from msgspec.structs import replace

from minitoolai.billing.traffic import MAX_PENDING_MS, SETTLING_MS, TrafficCounter, countable_until_ms
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.ledger.rules import decide
from minitoolai.storage.insight import traffic
from minitoolai.storage.insight.traffic import Filter, Traffic
from minitoolai.storage.writer import Writer
from tests.support.books import NOON_MS, TemporaryBooks, hold, refund, settle
from tests.support.history import count_traffic, seed_history

TODAY = NOON_MS // MS_PER_DAY


def count(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        count_traffic(books.connection)


def test_the_sums_are_those_of_the_rows(books: TemporaryBooks) -> None:
    accounts = [books.account(10**9) for _ in range(3)]
    for account in accounts:
        seed_history(books.connection, account, 500, first_ms=NOON_MS - 5 * MS_PER_DAY, until_ms=NOON_MS)
    count(books)
    for account in (None, *accounts):
        found = sum(one.cost for one in traffic.traffic_by_day(books.connection, 0, Filter(account)).values())
        where = "" if account is None else f" WHERE account_id = {account}"
        assert found == books.rows(f"SELECT sum(cost) FROM generations{where}")[0][0]
    by_day = traffic.traffic_by_day(books.connection, 0, Filter())
    assert {day: one.requests for day, one in by_day.items()} == dict(
        books.rows(f"SELECT created_ms / {MS_PER_DAY}, count(*) FROM generations GROUP BY 1")
    )
    by_model = dict(traffic.traffic_by(books.connection, "model", 0, Filter(), 50))
    assert {name: one.requests for name, one in by_model.items()} == dict(
        books.rows("SELECT model, count(*) FROM generations GROUP BY 1")
    )
    by_account = traffic.traffic_by(books.connection, "account_id", 0, Filter(), 2)
    assert len(by_account) == 2
    assert {name for name, _ in by_account} <= set(accounts)


def test_failures_and_times_are_counted_apart(books: TemporaryBooks) -> None:
    account = books.account(10**9)
    for number, outcome, ended_ms in (
        (11, Outcome("succeeded", 3, 5, first_token_ms=200), 1_000),
        (12, Outcome("failed", error_code="upstream_error"), 9_000),
        (13, Outcome("cancelled", 1, 1), 9_000),
        (14, Outcome("succeeded", 3, 5), 3_000),
    ):
        generation = NewGeneration("chat", "m", "far" if number == 14 else "near", 1, 1)
        books.apply(hold(number, account, 100, generation=generation))
        cost = 0 if outcome.state == "failed" else 7
        books.apply(replace(settle(number, account, cost, outcome), now_ms=NOON_MS + ended_ms))
    count(books)
    whole = traffic.traffic_by_day(books.connection, TODAY, Filter())[TODAY]
    assert (whole.requests, whole.failures, whole.timed, whole.mean_ms) == (4, 1, 2, 2_000)
    assert (whole.streamed, whole.mean_first_ms) == (1, 200)
    engines = dict(traffic.traffic_by(books.connection, "engine", TODAY, Filter(model="m"), 5))
    assert {name: one.requests for name, one in engines.items()} == {"near": 3, "far": 1}
    assert engines["far"].mean_first_ms is None
    assert traffic.traffic_by_day(books.connection, TODAY, Filter(engine="elsewhere")) == {}
    assert Traffic().mean_ms is None


def test_a_piece_is_added_once(books: TemporaryBooks) -> None:
    account = books.account(10**9)
    seed_history(books.connection, account, 50, first_ms=NOON_MS - MS_PER_DAY, until_ms=NOON_MS)
    first = traffic.next_piece(books.connection, 2**62, 20)
    same = traffic.next_piece(books.connection, 2**62, 20)
    assert first is not None
    assert same is not None
    with books.connection.transaction():
        assert traffic.add_piece(books.connection, first)
    with books.connection.transaction():
        assert not traffic.add_piece(books.connection, same)
    count(books)
    assert sum(one.requests for one in traffic.traffic_by_day(books.connection, 0, Filter()).values()) == 50


def test_many_counters_count_each_generation_once(books: TemporaryBooks) -> None:
    accounts = [books.account(10**9) for _ in range(5)]
    for account in accounts:
        seed_history(books.connection, account, 900, first_ms=NOON_MS - 3 * MS_PER_DAY, until_ms=NOON_MS)
    books.clock.forward(2 * 86_400)
    writers = [Writer(books.database, decide) for _ in range(3 if books.database.is_shared else 1)]

    async def all_at_once() -> None:
        counters = [TrafficCounter(books.database, writer, books.clock) for writer in writers]
        for writer in writers:
            writer.start()
        await asyncio.gather(*(counter.count() for counter in counters))
        for writer in writers:
            await asyncio.to_thread(writer.stop)

    asyncio.run(all_at_once())
    count(books)
    assert sum(one.requests for one in traffic.traffic_by_day(books.connection, 0, Filter()).values()) == 4_500


def test_what_is_in_progress_waits_for_its_end_for_a_day(books: TemporaryBooks) -> None:
    account = books.account(10**9)
    read = partial(countable_until_ms, books.connection)
    assert read(NOON_MS) == NOON_MS - SETTLING_MS
    books.apply(hold(11, account, 100))
    began_ms = books.rows("SELECT created_ms FROM generations WHERE id = 11")[0][0]
    assert read(began_ms + MS_PER_DAY // 2) == began_ms
    assert read(began_ms + 3 * MS_PER_DAY) == began_ms + 3 * MS_PER_DAY - MAX_PENDING_MS


def test_a_margin_is_only_that_of_revenue_with_a_known_upstream_cost(books: TemporaryBooks) -> None:
    account = books.account(10**9)
    for number, engine, cost, purchase in ((21, "near", 70, None), (22, "far", 50, 30), (23, "far", 40, 45)):
        generation = NewGeneration("chat", "m", engine, 1, 1)
        books.apply(hold(number, account, 100, generation=generation))
        outcome = Outcome("succeeded", 3, 5, upstream_cost=purchase)
        books.apply(replace(settle(number, account, cost, outcome), now_ms=NOON_MS + 1))
    count(books)
    whole = traffic.traffic_by_day(books.connection, TODAY, Filter())[TODAY]
    assert (whole.cost, whole.known, whole.purchase, whole.margin, whole.unknown) == (160, 90, 75, 15, 70)
    engines = dict(traffic.traffic_by(books.connection, "engine", TODAY, Filter(), 5))
    assert {name: one.margin for name, one in engines.items()} == {"near": None, "far": 15}
    assert Traffic().margin is None
    # A purchase that was given away for nothing is a loss.
    assert Traffic(purchase=7).margin == -7


def test_refunds_are_deducted_on_the_day_of_their_generation(books: TemporaryBooks) -> None:
    accounts = [books.account(10**9), books.account(10**9)]
    for number, engine, purchase in ((31, "near", None), (32, "far", 30), (33, "far", 20)):
        account = accounts[number % 2]
        books.apply(hold(number, account, 100, generation=NewGeneration("chat", f"m{number}", engine, 1, 1)))
        outcome = Outcome("succeeded", 3, 5, upstream_cost=purchase)
        books.apply(settle(number, account, 60, outcome))
    later = NOON_MS + 3 * MS_PER_DAY
    for number, amount in ((31, 10), (32, 20), (32, 5), (33, None)):
        books.apply(replace(refund(number, accounts[number % 2], amount), now_ms=later))

    def given(by: traffic.Dimension, only: Filter) -> dict[str | int, tuple[int, int]]:
        found = traffic.refunds_since(books.connection, by, TODAY, only)
        assert {day for day, _ in found} <= {TODAY}
        return {name: tuple(sums) for (_, name), sums in found.items()}

    assert given("kind", Filter()) == {"chat": (95, 85)}
    assert given("engine", Filter()) == {"near": (10, 0), "far": (85, 85)}
    assert given("account_id", Filter()) == {accounts[1]: (70, 60), accounts[0]: (25, 25)}
    assert given("model", Filter(accounts[1])) == {"m31": (10, 0), "m33": (60, 60)}
    assert given("model", Filter(engine="near")) == {"m31": (10, 0)}
    assert given("engine", Filter(model="m32")) == {"far": (25, 25)}
    assert traffic.refunds_since(books.connection, "model", TODAY + 1, Filter()) == {}
    sums = Traffic(cost=180, known=120, purchase=50).less(traffic.RefundSums(95, 85))
    assert (sums.cost, sums.margin, sums.unknown, sums.refunded) == (85, -15, 50, 95)
