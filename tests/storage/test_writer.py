"""The group-commit writer on a real file: one COMMIT for many, no caller told before it, no one harmed by another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from minitoolai.core.books import Held, Refused, Renewed, Settled, Unknown, Verdict
from minitoolai.core.errors import Overloaded, StoreError
from minitoolai.core.records import Balance
from minitoolai.storage.database import Connection
from minitoolai.storage.tickets import Ticket, Watch, wake_callers
from minitoolai.storage.writer import LARGEST_BATCH, QUEUED_HOLDS, Writer
from tests.support.books import TemporaryBooks, checkpoint, credit, hold, settle


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


@contextmanager
def busy(writer: Writer) -> Iterator[None]:
    """The writer stands inside a transaction while the block runs, so that everything queued meanwhile waits."""
    inside, go_on = threading.Event(), threading.Event()

    def change(_: Connection) -> None:
        inside.set()
        assert go_on.wait(30)

    asyncio.get_running_loop()
    task = asyncio.ensure_future(writer.run(change))
    task.add_done_callback(lambda done: done.exception())
    try:
        yield
        # The change above was only queued when its task first ran.
        assert inside.wait(30)
    finally:
        go_on.set()


async def begin(writer: Writer) -> None:
    """Let the queued `busy` change reach the writer's thread."""
    for _ in range(200):
        await asyncio.sleep(0.005)
        if not writer._tickets:
            return


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
        with busy(writer):
            await begin(writer)
            asked = [writer.submit(hold(n, account, 5)) for n in range(1, 301)]
        return await asyncio.gather(*asked)

    with books.writer() as writer:
        verdicts = run(work(writer))
        assert verdicts == [Held(5, 1)] * 200 + [Refused(5, 0)] * 100
        assert (writer.counts.commits, writer.counts.largest_batch, writer.counts.operations) == (2, 300, 301)


def test_no_batch_is_larger_than_it_may_be(books: TemporaryBooks) -> None:
    account = books.account(10_000)

    async def work(writer: Writer) -> None:
        with busy(writer):
            await begin(writer)
            asked = [writer.submit(hold(n, account, 5)) for n in range(1, 2 * LARGEST_BATCH + 2)]
        await asyncio.gather(*asked)

    with books.writer() as writer:
        run(work(writer))
        assert (writer.counts.commits, writer.counts.largest_batch) == (4, LARGEST_BATCH)


def test_a_refusal_inside_a_batch_costs_the_others_nothing(books: TemporaryBooks) -> None:
    rich, poor = books.account(1000), books.account(3)

    async def work(writer: Writer) -> list[Any]:
        with busy(writer):
            await begin(writer)
            asked = [writer.submit(hold(1, rich, 600)), writer.submit(hold(2, poor, 4)), writer.submit(hold(3, rich))]
        return await asyncio.gather(*asked)

    with books.writer() as writer:
        assert run(work(writer)) == [Held(600, 1), Refused(4, 3), Held(100, 1)]
        assert writer.counts.replays == 0


def test_an_unexpected_error_is_replayed_so_that_it_hits_only_its_own_caller(books: TemporaryBooks) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 200), hold(2, account, 200))

    async def work(writer: Writer) -> list[Any]:
        with busy(writer):
            await begin(writer)
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

    with books.writer(linger_s=30.0) as writer:
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

    with books.writer(linger_s=30.0) as writer:
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

    with books.writer(linger_s=30.0, steady_s=books.clock.steady_s) as writer:
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
        with busy(writer):
            await begin(writer)
            asked = [writer.submit(hold(n, account, 1)) for n in range(100, 100 + QUEUED_HOLDS)]
            with pytest.raises(Overloaded) as refusal:
                writer.submit(hold(99, account, 1))
            assert refusal.value.retry_after_s == 1
            asked.append(writer.submit(settle(1, account, 600)))
        await asyncio.gather(*asked)
        assert await writer.submit(hold(99, account, 1)) == Held(1, 1)

    with books.writer() as writer:
        run(work(writer))
    assert books.money(account) == Balance(10**6 - 600, QUEUED_HOLDS + 1)


def test_a_caller_who_left_does_not_undo_what_was_asked(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(writer: Writer) -> None:
        with busy(writer):
            await begin(writer)
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

    with books.writer(linger_s=0.2) as writer:
        run(leave(writer))
        run(stay(writer))


def test_stopping_writes_what_is_queued_and_then_takes_nothing(books: TemporaryBooks) -> None:
    account = books.account(10_000)

    async def work(writer: Writer) -> None:
        with busy(writer):
            await begin(writer)
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


def test_a_database_that_cannot_be_opened_is_said_at_the_start(sqlite_books: TemporaryBooks) -> None:
    from minitoolai.services.ledger import decide
    from minitoolai.storage.sqlite import open_sqlite

    nowhere = open_sqlite(sqlite_books.path.parent / "absent" / "minitoolai.db", serving=True)
    with pytest.raises(StoreError, match="cannot open"):
        Writer(nowhere, decide).start()


def test_only_a_checkpoint_that_was_judged_reports_that_its_hold_is_settled() -> None:
    told: list[Verdict] = []

    async def work() -> None:
        def ticket(answer: Verdict) -> Ticket:
            watch = Watch(asyncio.get_running_loop(), told.append)
            return Ticket(checkpoint(1, 1000, 5), None, None, urgent=False, owed=True, watch=watch, answer=answer)

        rolled_back, failed, renewed, settled, unknown = map(
            ticket, (Settled(1), Settled(2), Renewed(), Settled(3), Unknown())
        )
        failed.fail(StoreError("the disk is full"))
        renewed.is_over = settled.is_over = unknown.is_over = True
        wake_callers([rolled_back, failed, renewed, settled, unknown])
        await asyncio.sleep(0.01)

    asyncio.run(work())
    assert told == [Settled(3), Unknown()]
