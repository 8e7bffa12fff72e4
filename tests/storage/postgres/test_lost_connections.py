"""PostgreSQL goes away in the worst moments: the caller's answer equals the database, and what is owed is written."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from minitoolai.billing.charging import Bound, Charging
from minitoolai.core.errors import CommitInDoubt, ConnectionLost, Overloaded
from minitoolai.core.models import Balance, Caller
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Credited, Held, Operation, Settled
from minitoolai.storage.opening import open_database
from minitoolai.storage.postgres.connection import PostgresConnection
from minitoolai.storage.writer import Writer
from tests.support.books import CHAT, TemporaryBooks, checkpoint, credit, hold, recover, settle
from tests.support.cluster import Cluster
from tests.support.lost_commits import run_lost_commits
from tests.support.tcp_proxy import Proxy, proxy_to


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    with proxy_to(cluster.port) as made:
        yield made


@contextmanager
def writing_through(proxy: Proxy, books: TemporaryBooks, cluster: Cluster) -> Iterator[Writer]:
    """A writer that reaches these books by way of the proxy."""
    database = open_database(cluster.url(books.url.rpartition("/")[2], port=proxy.port), serving=True)
    writer = Writer(database, decide)
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()
        database.close()


def test_a_hold_whose_commit_was_answered_to_nobody_is_granted_as_the_database_says(
    postgres_books: TemporaryBooks, proxy: Proxy, cluster: Cluster
) -> None:
    account = postgres_books.account(1000)

    async def work(writer: Writer) -> None:
        proxy.fate = loses_once(is_answer=True)
        assert await writer.submit(hold(1, account, 600)) == Held(600, 1)
        assert postgres_books.money(account) == Balance(1000, 600)
        # Not the same hold twice, nor a repeat: the answer is the one that was decided.
        proxy.fate = loses_once(is_answer=True)
        assert await writer.submit(credit(account, 70, "grant:lost")) == Credited(1070)
        proxy.fate = loses_once(is_answer=True)
        assert await writer.submit(settle(1, account, 250)) == Settled(250)

    with writing_through(proxy, postgres_books, cluster) as writer:
        asyncio.run(work(writer))
        assert proxy.broken == 3
        assert writer.counts.replays == 0
    assert postgres_books.money(account) == Balance(820, 0)


def test_a_commit_that_never_arrived_is_written_again(
    postgres_books: TemporaryBooks, proxy: Proxy, cluster: Cluster
) -> None:
    account = postgres_books.account(1000)

    async def work(writer: Writer) -> None:
        proxy.fate = loses_once(is_answer=False)
        assert await writer.submit(hold(1, account, 600)) == Held(600, 1)
        proxy.fate = loses_once(is_answer=False)
        assert await writer.run(lambda c: c.execute("UPDATE accounts SET version = version WHERE id = 1")) == []

    with writing_through(proxy, postgres_books, cluster) as writer:
        asyncio.run(work(writer))
        assert proxy.broken == 2
    assert postgres_books.money(account) == Balance(1000, 600)


def test_a_commit_that_never_arrives_and_whose_session_lives_on_does_not_keep_its_locks(
    postgres_books: TemporaryBooks, proxy: Proxy, cluster: Cluster
) -> None:
    # The network swallows the COMMIT but not the connection: the old session must be ended from outside.
    account = postgres_books.account(1000)
    swallowed = threading.Event()

    def fate(is_answer: bool, data: bytes) -> bool:
        if not is_answer and b"COMMIT\x00" in data and not swallowed.is_set():
            swallowed.set()
            time.sleep(0.3)
            return False
        return True

    async def work(writer: Writer) -> None:
        proxy.fate = fate
        assert await asyncio.wait_for(writer.submit(hold(1, account, 600)), 8) == Held(600, 1)

    with writing_through(proxy, postgres_books, cluster) as writer:
        asyncio.run(work(writer))
    assert swallowed.is_set()
    assert postgres_books.money(account) == Balance(1000, 600)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_connections_break_every_answer_equals_the_database(cluster: Cluster, seed: int) -> None:
    tally = run_lost_commits(cluster, [seed])
    assert tally.violations == []
    assert tally.broken >= 3
    assert tally.answers >= 400


def test_a_charge_found_written_after_a_long_doubt_is_no_repeat(
    postgres_books: TemporaryBooks, proxy: Proxy, cluster: Cluster
) -> None:
    # The answer to the COMMIT is lost, and nobody can ask for longer than the writer goes on asking.
    account = postgres_books.account(1000)
    postgres_books.apply(hold(1, account, 600))
    is_lost = threading.Event()

    def fate(is_answer: bool, data: bytes) -> bool:
        if is_answer and b"COMMIT\x00" in data:
            is_lost.set()
        return not is_lost.is_set()

    async def work(writer: Writer) -> None:
        proxy.fate = fate
        asked = [writer.submit(settle(1, account, 250)), writer.submit(credit(account, 70, "grant:doubt"))]
        while writer.counts.failures == 0:
            await asyncio.sleep(0.05)
        proxy.fate = lambda is_answer, data: True
        told = await asyncio.wait_for(asyncio.gather(*asked), 20)  # type: ignore[arg-type]
        assert told == [Settled(250), Credited(820)]

    with writing_through(proxy, postgres_books, cluster) as writer:
        asyncio.run(asyncio.wait_for(work(writer), 60))
    assert postgres_books.money(account) == Balance(820, 0)


def test_a_charge_in_doubt_that_a_recovery_overtook_is_not_taken_for_its_own(
    postgres_books: TemporaryBooks, proxy: Proxy, cluster: Cluster
) -> None:
    # The COMMIT never arrives. Before the connection is back, another process posts the last checkpoint.
    account = postgres_books.account(1000)
    postgres_books.apply(hold(1, account, 600), checkpoint(1, account, 250))
    is_lost = threading.Event()

    def fate(is_answer: bool, data: bytes) -> bool:
        if not is_answer and b"COMMIT\x00" in data:
            is_lost.set()
        return not is_lost.is_set()

    async def work(writer: Writer) -> None:
        proxy.fate = fate
        charge = writer.submit(settle(1, account, 250))
        assert charge is not None
        while writer.counts.failures == 0:
            await asyncio.sleep(0.05)
        assert postgres_books.apply(recover(1, account, forced=True)) == [Settled(250)]
        proxy.fate = lambda is_answer, data: True
        assert await asyncio.wait_for(charge, 20) == Settled(250, repeated=True, differs=True)

    with writing_through(proxy, postgres_books, cluster) as writer:
        asyncio.run(asyncio.wait_for(work(writer), 60))
    assert postgres_books.money(account) == Balance(750, 0)


def loses_once(*, is_answer: bool) -> Any:
    """The next COMMIT is lost on its way there, or its answer on its way back; nothing after that."""
    left = [1]

    def fate(answers: bool, data: bytes) -> bool:
        if answers == is_answer and b"COMMIT\x00" in data and left:
            left.pop()
            return False
        return True

    return fate


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A server that the test may stop."""
    from tests.support.cluster import running_cluster

    with running_cluster() as running:
        yield running


def test_a_crash_begins_another_life_and_an_orderly_stop_does_not(own_cluster: Cluster) -> None:
    url = own_cluster.books()
    epochs = []
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGINT):
        with closing(PostgresConnection(url)) as connection:
            epochs.append(connection.server_epoch)
        own_cluster.stop(how)
        own_cluster.start()
    assert epochs[0] == epochs[1] != epochs[2]


def test_after_a_crash_the_number_of_a_lost_commit_proves_nothing(postgres_books: TemporaryBooks) -> None:
    # What a crash kept from the disk was never there, and its number is another transaction's now.
    with closing(PostgresConnection(postgres_books.url)) as connection:
        with connection.transaction():
            connection.execute("CREATE TABLE mine (x integer)")
            transaction_id = connection.transaction_id
        assert transaction_id is not None
        assert connection.was_committed(transaction_id)
        with pytest.raises(CommitInDoubt, match="crashed"):
            connection.was_committed((*transaction_id[:3], "an earlier epoch"))


def test_while_the_server_is_away_holds_are_refused_and_charges_are_kept(own_cluster: Cluster) -> None:
    url = own_cluster.books()
    books = TemporaryBooks(url)
    account = books.account(10_000)
    books.apply(*(hold(n, account, 100) for n in range(1, 21)))
    caller, bound = Caller(account, "key000000001"), Bound(100, 1, 20, 16)

    async def work(writer: Writer) -> None:
        charging = Charging(writer, books.clock)
        await asyncio.to_thread(own_cluster.stop)
        owed: list[Any] = [writer.submit(settle(n, account, 70)) for n in range(1, 21)]
        for step in range(5):
            writer.submit(checkpoint(20, account, step), wait=False)
        with pytest.raises(Overloaded, match="Nothing was charged") as refusal:
            await asyncio.wait_for(charging.reserve(caller, bound, CHAT), 10)
        assert refusal.value.retry_after_s == 5
        with pytest.raises(Overloaded, match="nothing was written"):
            await writer.run(lambda _: None)
        with pytest.raises(Overloaded, match="the database is temporarily unavailable"):
            await books.database.read_async(lambda c: c.execute("SELECT 1"))
        assert not any(future.done() for future in owed)
        assert writer.healthy_for_s() == 0
        own_cluster.start()
        assert await asyncio.wait_for(asyncio.gather(*owed), 20) == [Settled(70)] * 20
        assert (await charging.reserve(caller, bound, CHAT)).amount == 120
        assert 0 < writer.healthy_for_s() < 20

    with books.writer() as writer:
        asyncio.run(work(writer))
    assert books.money(account) == Balance(10_000 - 20 * 70, 120)
    books.close()
    books = TemporaryBooks(url)
    assert books.broken() == {}
    books.close()


def test_a_restart_of_the_server_is_waited_for(own_cluster: Cluster) -> None:
    url = own_cluster.books()
    books = TemporaryBooks(url)
    account = books.account(10_000)

    async def work(writer: Writer) -> None:
        assert await writer.submit(hold(1, account, 5)) == Held(5, 1)
        await asyncio.to_thread(own_cluster.stop)
        asked = writer.submit(hold(2, account, 6))
        own_cluster.start()
        assert await asyncio.wait_for(asked, 10) == Held(6, 1)  # type: ignore[arg-type]

    with books.writer() as writer:
        asyncio.run(work(writer))
    assert books.money(account).held == 11
    books.close()


def test_a_stop_while_the_server_is_away_tells_whoever_waits(own_cluster: Cluster) -> None:
    url = own_cluster.books()
    books = TemporaryBooks(url)
    account = books.account(10_000)
    books.apply(hold(1, account, 100))
    waiting: list[Operation] = [settle(1, account, 70)]

    async def work(writer: Writer) -> None:
        await asyncio.to_thread(own_cluster.stop)
        asked = writer.submit(waiting[0])
        await asyncio.sleep(0.2)
        await asyncio.wait_for(asyncio.to_thread(writer.stop), 20)
        with pytest.raises(ConnectionLost):
            await asked  # type: ignore[misc]

    with books.writer() as writer:
        asyncio.run(work(writer))
    books.close()
