"""The group-commit writer on a real file: one COMMIT for many, no caller told before it, no one harmed by another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from minitoolai.core.errors import CommitInDoubt, ConnectionLost, Overloaded, StoreError
from minitoolai.core.models import Balance
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Held, InsufficientFunds, Renewed, Result, Settled, UnknownAccountOrHold
from minitoolai.storage.database import Connection
from minitoolai.storage.writer import (
    FIRST_RETRY_S,
    MAX_BATCH,
    MAX_QUEUED_HOLDS,
    PendingWrite,
    Watch,
    Writer,
    wake_callers,
)
from tests.support.books import TemporaryBooks, checkpoint, credit, hold, recover, settle


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


@asynccontextmanager
async def busy(writer: Writer) -> AsyncIterator[None]:
    """Keep the writer inside a transaction while the block runs, so that everything queued meanwhile waits."""
    inside, go_on = threading.Event(), threading.Event()

    def change(connection: Connection) -> None:
        inside.set()
        # A database server would end a session that is idle in a transaction for long.
        while not go_on.wait(0.5):
            connection.execute("SELECT 1")

    changing = asyncio.ensure_future(writer.run(change))
    try:
        while not inside.is_set():
            await asyncio.sleep(0.005)
        yield
    finally:
        go_on.set()
        await changing


def test_a_verdict_arrives_when_it_is_durable(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(writer: Writer) -> None:
        assert await writer.submit(hold(1, account, 600)) == Held(600, 1)
        assert books.money(account).held == 600
        assert await writer.submit(settle(1, account, 250)) == Settled(250)
        assert books.money(account) == Balance(750, 0)

    with books.writer() as writer:
        run(work(writer))


def test_everything_that_waits_is_one_commit(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(writer: Writer) -> list[Any]:
        async with busy(writer):
            asked = [writer.submit(hold(n, account, 5)) for n in range(1, 301)]
        return await asyncio.gather(*asked)

    with books.writer() as writer:
        verdicts = run(work(writer))
        assert verdicts == [Held(5, 1)] * 200 + [InsufficientFunds(5, 0)] * 100
        assert (writer.counts.commits, writer.counts.largest_batch, writer.counts.operations) == (2, 300, 301)


def test_no_batch_is_larger_than_it_may_be(books: TemporaryBooks) -> None:
    account = books.account(10_000)

    async def work(writer: Writer) -> None:
        async with busy(writer):
            asked = [writer.submit(hold(n, account, 5)) for n in range(1, 2 * MAX_BATCH + 2)]
        await asyncio.gather(*asked)

    with books.writer() as writer:
        run(work(writer))
        assert (writer.counts.commits, writer.counts.largest_batch) == (4, MAX_BATCH)


def test_a_refusal_inside_a_batch_costs_the_others_nothing(books: TemporaryBooks) -> None:
    rich, poor = books.account(1000), books.account(3)

    async def work(writer: Writer) -> list[Any]:
        async with busy(writer):
            asked = [writer.submit(hold(1, rich, 600)), writer.submit(hold(2, poor, 4)), writer.submit(hold(3, rich))]
        return await asyncio.gather(*asked)

    with books.writer() as writer:
        assert run(work(writer)) == [Held(600, 1), InsufficientFunds(4, 3), Held(100, 1)]
        assert writer.counts.replays == 0


def test_an_unexpected_error_is_replayed_so_that_it_hits_only_its_own_caller(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 200), hold(2, account, 200))

    async def work(writer: Writer) -> list[Any]:
        async with busy(writer):
            asked: list[Any] = [
                writer.submit(settle(1, account, 50)),
                writer.submit(settle(2, account, -1)),
                asyncio.ensure_future(writer.run(lambda connection: 1 // 0)),
                asyncio.ensure_future(writer.run(lambda connection: connection.execute("SELECT 7"))),
                writer.submit(hold(3, account, 5)),
            ]
            await asyncio.sleep(0.02)
        return await asyncio.gather(*asked, return_exceptions=True)

    with books.writer() as writer:
        first, wrong, broken, fine, last = run(work(writer))
        # Among other processes a change has a transaction of its own, and so one of its own to replay.
        assert writer.counts.replays == (2 if books.database.is_shared else 1)
    assert (first, fine, last) == (Settled(50), [(7,)], Held(5, 1))
    assert isinstance(wrong, AssertionError)
    assert isinstance(broken, ZeroDivisionError)
    assert books.money(account) == Balance(950, 205)


def test_a_settle_that_nobody_awaits_is_written_all_the_same(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600))

    async def work(writer: Writer) -> None:
        assert writer.submit(settle(1, account, 250), wait=False) is None

    with books.writer() as writer:
        run(work(writer))
    assert books.money(account) == Balance(750, 0)


def test_a_settle_rides_with_the_next_hold(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600))

    async def work(writer: Writer) -> None:
        await writer.submit(hold(2, account, 1))
        writer.submit(checkpoint(1, account, 30), wait=False)
        settled = writer.submit(settle(1, account, 250))
        await asyncio.sleep(0.2)
        assert settled is not None
        assert not settled.done()
        assert await writer.submit(hold(3, account, 700)) == Held(700, 1)
        assert await settled == Settled(250)

    with books.writer(settle_delay_s=30.0) as writer:
        run(work(writer))
        assert writer.counts.commits == 2


def test_the_settle_of_the_only_answer_waits_for_nobody_and_takes_along_those_who_wait(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 300), hold(2, account, 300))

    async def work(writer: Writer) -> None:
        await writer.submit(hold(3, account, 1))
        first = writer.submit(settle(1, account, 100))
        last = writer.submit(settle(2, account, 50), is_last=True)
        assert first is not None
        assert last is not None
        assert await asyncio.wait_for(asyncio.gather(first, last), 5) == [Settled(100), Settled(50)]

    with books.writer(settle_delay_s=30.0) as writer:
        run(work(writer))
        assert writer.counts.commits == 2


def test_a_settle_waits_for_no_hold_where_none_has_come_of_late(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600))

    async def work(writer: Writer) -> None:
        await writer.submit(hold(2, account, 1))
        books.clock.forward(61)
        writer.submit(checkpoint(1, account, 30), wait=False)
        future = writer.submit(settle(1, account, 250))
        assert future is not None
        assert await asyncio.wait_for(future, 10) == Settled(250)

    with books.writer(settle_delay_s=30.0, steady_s=books.clock.steady_s) as writer:
        run(work(writer))


def test_a_lone_settle_goes_by_itself_after_a_moment(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600))

    async def work(writer: Writer) -> None:
        future = writer.submit(settle(1, account, 250))
        assert future is not None
        assert await asyncio.wait_for(future, 5) == Settled(250)

    with books.writer() as writer:
        run(work(writer))


def test_holds_beyond_the_queue_are_refused_but_settles_never(books: TemporaryBooks) -> None:
    account = books.account(10**6)
    books.apply(hold(1, account, 600))

    async def work(writer: Writer) -> None:
        async with busy(writer):
            asked = [writer.submit(hold(n, account, 1)) for n in range(100, 100 + MAX_QUEUED_HOLDS)]
            with pytest.raises(Overloaded) as refusal:
                writer.submit(hold(99, account, 1))
            assert refusal.value.retry_after_s == 1
            asked.append(writer.submit(settle(1, account, 600)))
        await asyncio.gather(*asked)
        assert await writer.submit(hold(99, account, 1)) == Held(1, 1)

    with books.writer() as writer:
        run(work(writer))
    assert books.money(account) == Balance(10**6 - 600, MAX_QUEUED_HOLDS + 1)


def test_a_caller_who_left_does_not_undo_what_was_asked(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(writer: Writer) -> None:
        async with busy(writer):
            left, stayed = writer.submit(hold(1, account, 5)), writer.submit(hold(2, account, 6))
            assert left is not None
            assert stayed is not None
            left.cancel()
        assert await stayed == Held(6, 1)

    with books.writer() as writer:
        run(work(writer))
    assert books.money(account).held == 11


def test_callers_whose_event_loop_is_gone_stop_nobody(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def leave(writer: Writer) -> None:
        writer.submit(settle(1, account, 0))

    async def stay(writer: Writer) -> None:
        assert await writer.submit(hold(1, account, 5)) == Held(5, 1)

    with books.writer(settle_delay_s=0.2) as writer:
        run(leave(writer))
        run(stay(writer))


def test_stopping_writes_what_is_queued_and_then_takes_nothing(books: TemporaryBooks) -> None:
    account = books.account(10_000)

    async def work(writer: Writer) -> None:
        async with busy(writer):
            asked = [writer.submit(hold(n, account, 1)) for n in range(1, 1001)]
        await asyncio.to_thread(writer.stop)
        assert set(await asyncio.gather(*asked)) == {Held(1, 1)}
        with pytest.raises(Overloaded):
            writer.submit(hold(5000, account, 1))
        with pytest.raises(Overloaded):
            await writer.run(lambda _: None)

    with books.writer() as writer:
        run(work(writer))
    assert books.money(account).held == 1000


def test_callers_on_several_loops_are_all_answered(books: TemporaryBooks) -> None:
    account = books.account(10_000)
    answers: list[Any] = []

    async def some(writer: Writer, first: int) -> None:
        for n in range(first, first + 25):
            answers.append(await writer.submit(hold(n, account, 1)))

    with books.writer() as writer:
        threads = [threading.Thread(target=run, args=(some(writer, 1000 * n),)) for n in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert answers == [Held(1, 1)] * 100


def test_a_reference_is_credited_once_however_many_ask_at_once(books: TemporaryBooks) -> None:
    account = books.account()

    async def work(writer: Writer) -> None:
        asked = [writer.submit(credit(account, 70, "grant:once")) for _ in range(20)]
        verdicts = await asyncio.gather(*asked)
        assert sorted(v.repeated for v in verdicts) == [False] + [True] * 19

    with books.writer() as writer:
        run(work(writer))
    assert books.money(account).posted == 70


@pytest.mark.parametrize("is_first", [True, False])
def test_a_change_that_is_first_is_committed_before_a_charge_of_its_batch(
    postgres_books: TemporaryBooks, is_first: bool
) -> None:
    account = postgres_books.account(1000)
    postgres_books.apply(hold(1, account, 600))

    async def work(writer: Writer) -> None:
        sql = "SELECT state FROM holds WHERE id = 1"
        seen = writer.submit_change(lambda connection: connection.execute(sql), is_first=is_first)
        charge = writer.submit(settle(1, account, 250))
        assert charge is not None
        assert await seen == [("pending" if is_first else "posted",)]
        assert await charge == Settled(250)

    with postgres_books.writer() as writer:
        run(work(writer))


def test_a_database_that_cannot_be_opened_is_said_at_the_start(sqlite_books: TemporaryBooks) -> None:
    from minitoolai.storage.sqlite import open_sqlite

    nowhere = open_sqlite(sqlite_books.path.parent / "absent" / "minitoolai.db", serving=True)
    with pytest.raises(StoreError, match="cannot open"):
        Writer(nowhere, decide).start()


def test_only_a_checkpoint_that_was_judged_reports_that_its_hold_is_settled() -> None:
    told: list[Result] = []

    async def work() -> None:
        def pending(result: Result) -> PendingWrite:
            watch = Watch(asyncio.get_running_loop(), told.append)
            return PendingWrite(
                checkpoint(1, 1000, 5), None, None, urgent=False, must_succeed=True, watch=watch, result=result
            )

        rolled_back, failed, renewed, settled, unknown = map(
            pending, (Settled(1), Settled(2), Renewed(), Settled(3), UnknownAccountOrHold())
        )
        failed.fail(StoreError("the disk is full"))
        renewed.is_done = settled.is_done = unknown.is_done = True
        wake_callers([rolled_back, failed, renewed, settled, unknown])
        await asyncio.sleep(0.01)

    asyncio.run(work())
    assert told == [Settled(3), UnknownAccountOrHold()]


# ── a writer without a thread, on a database that fails when the test says so ─────────────────────────────────────


class Unreliable:
    """A real connection. Transactions fail with `error`, at their begin or, with `late`, after their COMMIT."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.error: StoreError | None = None
        self.late = False
        #: How many more transactions fail.
        self.times = 10**9

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        fails = self.error is not None and self.times > 0
        self.times -= fails
        if fails and not self.late:
            raise self.error  # type: ignore[misc]
        with self._connection.transaction():
            yield
        if fails:
            raise self.error  # type: ignore[misc]


@contextmanager
def by_hand(books: TemporaryBooks, **options: Any) -> Iterator[tuple[Writer, Any]]:
    """A writer whose rounds the test runs, by the clock of the books, and its connection."""
    clock = books.clock
    writer = Writer(books.database, decide, steady_s=clock.steady_s, pause=clock.forward, **options)
    connection = books.database.connect()
    try:
        yield writer, Unreliable(connection)
    finally:
        connection.close()


def test_in_an_outage_holds_are_refused_and_charges_are_kept_until_their_retry(sqlite_books: TemporaryBooks) -> None:
    books, account = sqlite_books, sqlite_books.account(1000)
    books.apply(hold(1, account, 600))

    async def work(writer: Writer, connection: Any) -> None:
        connection.error = ConnectionLost("the server is away")
        charge: Any = writer.submit(settle(1, account, 250), is_last=True)
        refused: Any = writer.submit(hold(2, account, 5))
        assert writer.run_once(connection)
        await asyncio.sleep(0)
        assert isinstance(refused.exception(), ConnectionLost)
        assert not charge.done()
        assert writer.backlog() == (0, 1)
        assert writer.healthy_for_s() == 0
        # The database is back. A hold comes before the retry is due, and does not bring it forward.
        connection.error = None
        accepted: Any = writer.submit(hold(3, account, 5))
        assert writer.run_once(connection)
        assert (await accepted, charge.done()) == (Held(5, 1), False)
        assert not writer.run_once(connection)
        books.clock.forward(FIRST_RETRY_S)
        assert writer.run_once(connection)
        assert await charge == Settled(250)
        assert writer.backlog() == (0, 0)
        books.clock.forward(5)
        assert 5 <= writer.healthy_for_s() < 6

    with by_hand(books) as (writer, connection):
        run(work(writer, connection))
    assert books.money(account) == Balance(750, 5)


def test_a_change_whose_commit_is_in_doubt_is_not_made_twice(sqlite_books: TemporaryBooks) -> None:
    calls = 0

    def change(_: Connection) -> None:
        nonlocal calls
        calls += 1

    async def work(writer: Writer, connection: Any) -> None:
        connection.error, connection.late = CommitInDoubt("no answer to the COMMIT"), True
        asked = asyncio.ensure_future(writer.run(change))
        await asyncio.sleep(0)
        assert writer.run_once(connection)
        with pytest.raises(CommitInDoubt):
            await asked
        assert writer.healthy_for_s() == 0

    with by_hand(sqlite_books) as (writer, connection):
        run(work(writer, connection))
    assert calls == 1


def test_a_recovery_never_overtakes_the_charge_for_its_hold(sqlite_books: TemporaryBooks) -> None:
    books, account = sqlite_books, sqlite_books.account(1000)
    books.apply(hold(1, account, 600), hold(2, account, 100), checkpoint(1, account, 100), checkpoint(2, account, 10))

    async def work(writer: Writer, connection: Any) -> None:
        # The batch fails, then the charge alone. What comes after it succeeds.
        connection.error, connection.times = StoreError("the disk is full"), 2
        charge: Any = writer.submit(settle(1, account, 250), is_last=True)
        same: Any = writer.submit(recover(1, account, forced=True))
        other: Any = writer.submit(recover(2, account, forced=True))
        assert writer.run_once(connection)
        assert await other == Settled(10)
        assert writer.backlog() == (0, 2)
        books.clock.forward(FIRST_RETRY_S)
        assert writer.run_once(connection)
        assert await charge == Settled(250)
        assert await same == Settled(250, repeated=True)

    with by_hand(books) as (writer, connection):
        run(work(writer, connection))
    assert books.money(account) == Balance(740, 0)


def test_a_second_charge_says_whether_the_books_have_another(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 600))

    async def work(writer: Writer) -> list[Any]:
        return [await writer.submit(settle(1, account, cost)) for cost in (250, 250, 240)]  # type: ignore[misc]

    with books.writer() as writer:
        first, same, other = run(work(writer))
    assert first == Settled(250)
    assert same == Settled(250, repeated=True)
    assert other == Settled(250, repeated=True, differs=True)


def test_writes_that_need_not_hurry_wait_for_their_delay_or_for_a_full_batch(sqlite_books: TemporaryBooks) -> None:
    account = sqlite_books.account(1000)
    sqlite_books.apply(hold(1, account, 600))

    async def work(writer: Writer, connection: Any) -> None:
        for step in range(MAX_BATCH - 1):
            writer.submit(checkpoint(1, account, step), wait=False)
            assert not writer.run_once(connection)
        assert writer.backlog() == (MAX_BATCH - 1, 0)
        writer.submit(checkpoint(1, account, 599), wait=False)
        assert writer.run_once(connection)
        assert writer.backlog() == (0, 0)

    with by_hand(sqlite_books, settle_delay_s=30.0) as (writer, connection):
        run(work(writer, connection))
        assert writer.counts.largest_batch == MAX_BATCH
        assert (writer.counts.sizes.total, sum(writer.counts.took.counts)) == (MAX_BATCH, 1)
    assert sqlite_books.rows("SELECT progress FROM holds") == [(599,)]


class CountingWriter(Writer):
    """Counts how often its thread looks for work."""

    looks = 0

    def _has_work(self) -> bool:
        self.looks += 1
        return super()._has_work()


def test_an_idle_writer_sleeps_until_it_is_woken(sqlite_books: TemporaryBooks) -> None:
    async def work() -> None:
        await writer.run(lambda _: None)

    writer = CountingWriter(sqlite_books.database, decide)
    writer.start()
    try:
        run(work())
        looks = writer.looks
        time.sleep(0.2)
        assert writer.looks - looks <= 2
    finally:
        writer.stop()
