"""NOTIFY once a batch, claims beside an old transaction, and claims that never take a job twice."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from minitoolai.core.models import NewGeneration
from minitoolai.ledger.rules import decide
from minitoolai.storage.opening import open_database
from minitoolai.storage.tables import jobs, ledger
from minitoolai.storage.tables.jobs import JOBS_CHANNEL
from tests.support.books import NOON_MS, TemporaryBooks, hold
from tests.support.cluster import Cluster
from tests.support.pace import TimeLimit

JOB = NewGeneration("image", "m", "fake", 0, 1, "queued", request="{}", seed=1, size="256x256")
Opened = tuple[str, TemporaryBooks]
#: `make cluster` runs 100,000 jobs.
PASSED, CLAIMS = (100_000 if os.environ.get("CLUSTER_LONG") else 20_000), 30


@pytest.fixture
def opened(cluster: Cluster) -> Iterator[Opened]:
    """A new database: its address, and books on it."""
    url = cluster.books()
    books = TemporaryBooks(url)
    yield url, books
    books.close()


def queued(books: TemporaryBooks, count: int, first: int = 100) -> int:
    """Queue jobs in one batch, and return the account."""
    account = books.account(10**9)
    operations = [hold(first + n, account, 1, generation=JOB, queue_limit=10**6) for n in range(count)]
    with books.connection.transaction():
        ledger.apply(books.connection, operations, decide)
    return account


def test_a_batch_of_jobs_notifies_once(opened: Opened) -> None:
    url, books = opened
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute(f"LISTEN {JOBS_CHANNEL}")
        queued(books, 200)
        assert len(list(listener.notifies(timeout=1.0))) == 1


def test_a_batch_without_jobs_notifies_nobody(opened: Opened) -> None:
    url, books = opened
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute(f"LISTEN {JOBS_CHANNEL}")
        account = books.account(10**6)
        with books.connection.transaction():
            ledger.apply(books.connection, [hold(n, account, 1) for n in range(5, 25)], decide)
        assert list(listener.notifies(timeout=0.5)) == []


def test_workers_that_claim_together_take_each_job_once_and_no_more_than_they_have_room_for(opened: Opened) -> None:
    url, books = opened
    queued(books, 200)
    taken: dict[str, list[int]] = {}

    def work(name: str) -> None:
        with closing(open_database(url, serving=True)) as database, closing(database.connect()) as connection:
            mine = taken[name] = []
            while waiting := jobs.waiting(connection, "fake", ["m"], 32):
                ids = [job.id for job in waiting]
                with connection.transaction():
                    claimed = jobs.claim(connection, ids, worker=name, now_ms=NOON_MS, lease_ms=1000, limit=8)
                assert len(claimed) <= 8
                mine += [job.id for job in claimed]

    threads = [threading.Thread(target=work, args=(f"worker {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [job for mine in taken.values() for job in mine]
    assert sorted(everything) == list(range(100, 300))


def claim_ms(books: TemporaryBooks, count: int) -> float:
    """Return the median of claiming one job, in milliseconds."""
    times, since = [], None
    for _ in range(count):
        began_s = time.perf_counter()
        # As a worker does: only from time to time from the beginning.
        waiting = jobs.waiting(books.connection, "fake", ["m"], 128, since)
        since = waiting[0].turn, waiting[0].created_ms, waiting[0].id
        with books.connection.transaction():
            ids = [job.id for job in waiting]
            assert jobs.claim(books.connection, ids, worker="w", now_ms=NOON_MS, lease_ms=1000, limit=1)
        times.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(times)


def test_claiming_beside_an_old_transaction_stays_fast(opened: Opened) -> None:
    url, books = opened
    queued(books, 300)
    limit, before_ms = TimeLimit(2.0), claim_ms(books, CLAIMS)
    # A report, or a backup, that someone forgot: nothing that ends from now on can be cleaned up.
    with psycopg.connect(url) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM generations")
        for first in range(10_000, 10_000 + PASSED, 2000):
            queued(books, 2000, first)
        # As if workers had drawn them all.
        books.rows("UPDATE generations SET state = 'succeeded' WHERE id >= 10000 AND state = 'queued'")
        queued(books, 300, 1000)
        beside_ms = claim_ms(books, CLAIMS)
        old.rollback()
    print(f"claiming takes {before_ms:.2f} ms, and {beside_ms:.2f} ms beside {PASSED} dead jobs that cannot be removed")
    assert limit.permits(beside_ms - 3 * before_ms), limit
