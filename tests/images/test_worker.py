"""Tests of the image worker: drain, recovery and expiry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from minitoolai.billing.job_leases import MAX_LOSSES, JobLeases
from minitoolai.core.errors import EngineError
from minitoolai.core.models import Balance, NewGeneration
from minitoolai.images.worker import WATCHERS, steps_every_s
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Operation
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import jobs, ledger
from minitoolai.storage.tables.jobs import Fleet
from tests.support.books import TemporaryBooks, hold, settle
from tests.support.studio import PRICE, Gate, ScriptedEngine, Studio, at_once, failing


def test_a_stopping_worker_requeues_jobs_that_it_cannot_finish(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.engine.behavior = gate.generate
        job = await studio.submit(books.account(PRICE))
        async with studio.worker(drain_s=0.1):
            await gate.begun.wait()
        await studio.writer.run(lambda connection: None)
        assert studio.row(job) == ("queued", 1, 0, 0)
        studio.engine.behavior = at_once
        async with studio.worker("another"):
            assert (await studio.end(job)).state == "succeeded"
        assert studio.row(job) == ("succeeded", 2, 0, PRICE)

    Studio(books, tmp_path).run(test, with_worker=False)


def test_a_stopping_worker_finishes_running_jobs_and_claims_no_more(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.engine.behavior = gate.generate
        account = books.account(10 * PRICE)
        job = await studio.submit(account)
        async with studio.worker(drain_s=5):
            await gate.begun.wait()
            waiting = await studio.submit(account, model="second")
            asyncio.get_running_loop().call_later(0.2, gate.is_open.set)
        assert studio.row(job) == ("succeeded", 1, 0, PRICE)
        assert studio.row(waiting) == ("queued", 0, 0, 0)

    Studio(books, tmp_path).run(test, with_worker=False)


def test_jobs_of_a_dead_process_are_requeued_at_the_next_start(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        job = await studio.submit(books.account(PRICE))
        with books.connection.transaction():
            books.rows("UPDATE generations SET state = 'running', attempt = 1, lease_until_ms = ?", 2**60)
        async with studio.worker() as worker:
            assert await worker.recover() == 0
            assert await worker.recover(include_unexpired=True) == 1
            assert (await studio.end(job)).state == "succeeded"
        assert studio.row(job) == ("succeeded", 2, 0, PRICE)

    Studio(books, tmp_path).run(test, with_worker=False)


async def lose(studio: Studio, name: str) -> None:
    """Queue the jobs of a worker again, as others do when it has vanished."""
    services = studio.services
    leases = JobLeases(
        "image", services.database, services.writer, services.clock, services.meters,
        jobs.expired_leases, jobs.jobs_waiting_since,
    )  # fmt: skip
    assert await leases.requeue_of({name}) == 1


def test_workers_that_are_lost_while_the_store_is_away_fail_no_job(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.store.fault = "the bucket is away"
        job = await studio.submit(books.account(PRICE))
        rounds = 2 * MAX_LOSSES
        for number in range(rounds):
            async with studio.worker(f"worker {number}", drain_s=0.0):
                await asyncio.wait_for(until(lambda: studio.services.outage.is_on), 5)
                await lose(studio, f"worker {number}")
        studio.store.fault = None
        async with studio.worker():
            assert (await studio.end(job)).state == "succeeded"
        assert studio.row(job) == ("succeeded", rounds + 1, 0, PRICE)

    Studio(books, tmp_path).run(test, with_worker=False)


@pytest.mark.parametrize(("losses", "ends"), [(MAX_LOSSES - 1, "succeeded"), (MAX_LOSSES, "failed")])
def test_a_job_that_ends_each_of_its_workers_fails_at_last_without_charge(
    books: TemporaryBooks, tmp_path: Path, losses: int, ends: str
) -> None:
    async def test(studio: Studio) -> None:
        # A failure in between uses up no loss, and a loss no failure.
        studio.engine.behavior = failing(EngineError("one"), EngineError("two"), then=Gate().generate)
        account = books.account(PRICE)
        job = await studio.submit(account)
        for number in range(losses):
            async with studio.worker(f"worker {number}", drain_s=0.0):
                await asyncio.wait_for(until(lambda number=number: len(studio.engine.begun) == 3 + number), 10)
                await lose(studio, f"worker {number}")
        studio.engine.behavior = at_once
        async with studio.worker():
            ended = await studio.end(job)
        assert ended.state == ends
        if ends == "failed":
            assert (ended.error_code, ended.error) == ("interrupted", f"the job was interrupted {MAX_LOSSES} times")
            assert studio.row(job) == ("failed", losses + 2, 2, 0)
            assert books.money(account) == Balance(PRICE, 0)
        else:
            assert studio.row(job) == ("succeeded", losses + 3, 2, PRICE)

    Studio(books, tmp_path, ScriptedEngine(max_concurrency=1)).run(test, with_worker=False)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_job_without_an_engine_fails_after_a_day_without_charge(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.is_up = False
        account = books.account(PRICE)
        job = await studio.submit(account)
        with books.connection.transaction():
            books.rows("UPDATE generations SET created_ms = created_ms - 86500000")
        async with studio.worker():
            ended = await studio.end(job)
        assert (ended.state, ended.error_code) == ("failed", "expired")
        assert books.money(account) == Balance(PRICE, 0)

    Studio(books, tmp_path).run(test, with_worker=False)


def test_a_worker_publishes_its_models_until_it_stops(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        async with studio.worker(single_process=False):
            async with asyncio.timeout(5):
                while not studio.events.available_models:
                    await asyncio.sleep(0.01)
            assert studio.events.available_models == {"engine": ["first", "second", "third"]}
            assert books.rows("SELECT name FROM workers") == [("worker",)]
        assert books.rows("SELECT name FROM workers") == []

    Studio(books, tmp_path).run(test, with_worker=False)


def test_the_steps_of_a_running_job_are_written_for_other_processes(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.engine.behavior = gate.generate
        job = await studio.submit(books.account(PRICE))
        async with studio.worker(single_process=False):
            await gate.begun.wait()
            async with asyncio.timeout(1):
                while books.database.read(jobs.find, job.job_id).step != 1:
                    await asyncio.sleep(0.05)
            # One small row for all jobs of the worker, not the job's row.
            assert books.rows("SELECT worker, steps FROM worker_steps") == [("worker", f'{{"{job.job_id}":1}}')]
            gate.is_open.set()
            assert (await studio.end(job)).state == "succeeded"

    Studio(books, tmp_path).run(test, with_worker=False)


@pytest.mark.parametrize(("workers", "every_s"), [(1, 0.5), (50, 0.5), (100, 1.0), (200, 2.0), (1000, 2.0)])
def test_a_large_fleet_publishes_steps_more_rarely(workers: int, every_s: float) -> None:
    assert steps_every_s(workers) == every_s


@pytest.mark.parametrize(("rank", "recovers"), [(WATCHERS - 1, True), (WATCHERS, False)])
def test_only_the_first_workers_of_a_fleet_look_for_abandoned_jobs(
    books: TemporaryBooks, tmp_path: Path, rank: int, recovers: bool
) -> None:
    account = books.account(PRICE)

    async def test(studio: Studio) -> None:
        async with studio.worker() as worker:
            await worker.sweep()
            worker.only_draws, worker.state.fleet = True, Fleet(size=10, rank=rank)
            abandoned = NewGeneration("image", "m", "fake", 0, 1, "running", request="{}", seed=1, size="1")
            await studio.writer.run(lambda connection: place(connection, hold(77, account, 1, generation=abandoned)))
            await worker.sweep()
            assert books.rows("SELECT state FROM generations WHERE id = 77") == [("queued" if recovers else "running",)]
            await studio.writer.run(lambda connection: place(connection, settle(77, account, 0)))

    Studio(books, tmp_path).run(test, with_worker=False)


def place(connection: Connection, operation: Operation) -> None:
    """Apply an operation, and let the lease of a running job expire."""
    ledger.apply(connection, [operation], decide)
    connection.execute("UPDATE generations SET attempt = 1, lease_until_ms = 5 WHERE state = 'running'")
