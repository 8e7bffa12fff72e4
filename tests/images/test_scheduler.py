"""Tests of claiming jobs: which jobs run next and which run together."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from pathlib import Path
from typing import Any

from minitoolai.core.errors import EngineError
from minitoolai.core.models import Balance
from minitoolai.engines.protocols import ImageEngine, ImageRequest, OnProgress
from minitoolai.images.attempt import JobAttempt
from minitoolai.images.scheduler import HEAD_OF_LINE_LIMIT_S, HeadOfLineTimer, JobClaimer, WorkerState, pick_batch
from minitoolai.storage.tables.jobs import ClaimedJob, WaitingJob
from tests.support.books import FixedClock, TemporaryBooks
from tests.support.studio import PRICE, ScriptedEngine, Studio, claimed_job


def job(number: int, model: str = "a", *, turn: int | None = None, setbacks: int = 0) -> WaitingJob:
    return WaitingJob(number, 1000 + number, model, "256x256", number if turn is None else turn, setbacks, number)


def batch(waiting: list[WaitingJob], **overrides: Any) -> list[int]:
    arguments = {"running_keys": (), "exclusive": False, "loaded_key": None, "free": 4, "head_wait_s": 0.0} | overrides
    return [one.id for one in pick_batch(waiting, lambda one: one.model, **arguments)]


def test_an_empty_queue_or_a_full_engine_gives_no_batch() -> None:
    assert batch([]) == []
    assert batch([job(1)], free=0) == []


def test_the_head_runs_together_with_matching_jobs() -> None:
    assert batch([job(1, "a"), job(2, "b"), job(3, "a"), job(4, "a")], free=2) == [1, 3]


def test_the_loaded_model_is_preferred_if_its_turn_is_near() -> None:
    waiting = [job(1, "a"), job(2, "b"), job(9, "c")]
    assert batch(waiting, loaded_key="b") == [2]
    assert batch(waiting, loaded_key="c") == [1]
    assert batch(waiting, loaded_key="b", head_wait_s=HEAD_OF_LINE_LIMIT_S) == [1]


def test_matching_jobs_join_a_running_batch_until_the_head_has_waited_enough() -> None:
    waiting = [job(1, "a"), job(2, "b"), job(50, "b")]
    assert batch(waiting, running_keys={"b"}) == [2, 50]
    assert batch(waiting, running_keys={"b"}, head_wait_s=HEAD_OF_LINE_LIMIT_S) == []
    assert batch(waiting, running_keys={"a"}, head_wait_s=HEAD_OF_LINE_LIMIT_S) == [1]


def test_a_suspect_runs_alone() -> None:
    suspect = job(1, setbacks=2)
    assert batch([suspect, job(2)]) == [1]
    assert batch([job(0), suspect, job(2)]) == [0, 2]
    assert batch([suspect, job(2)], running_keys={"a"}) == [2]
    assert batch([suspect, job(2)], running_keys={"a"}, head_wait_s=HEAD_OF_LINE_LIMIT_S) == []
    assert batch([job(2)], running_keys={"a"}, exclusive=True) == []


def test_the_head_of_line_timer_starts_with_each_new_head() -> None:
    timer = HeadOfLineTimer()
    assert timer.update([job(1)], 10.0) == 0
    assert timer.update([job(1)], 11.5) == 1.5
    assert timer.update([job(2)], 12.0) == 0
    assert timer.update([], 13.0) == 0


# ── with a worker ─────────────────────────────────────────────────────────────────────────────────────────


def test_jobs_wait_while_their_engine_starts(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.is_up = False
        job = await studio.submit(books.account(PRICE))
        await asyncio.sleep(0.3)
        assert (await studio.get(job)).state == "queued"
        studio.engine.is_up = True
        assert (await studio.end(job)).state == "succeeded"

    Studio(books, tmp_path).run(test)


def test_jobs_of_one_model_and_size_run_together(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(100 * PRICE)
        jobs = [await studio.submit(account, f"{n}", model=("first", "second")[n % 2]) for n in range(12)]
        async with studio.worker():
            for job in jobs:
                assert (await studio.end(job)).state == "succeeded"
        models = [model for model, _ in studio.engine.begun]
        assert sum(a != b for a, b in itertools.pairwise(models)) < 6
        assert studio.engine.most_running == 4

    Studio(books, tmp_path, ScriptedEngine(max_concurrency=4)).run(test, with_worker=False)


def test_500_jobs_of_one_account_do_not_block_another(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        async def generate(request: ImageRequest, on_progress: OnProgress) -> bytes:
            await asyncio.sleep(0.005)
            return b"x"

        studio.engine.behavior = generate
        busy, other = books.account(1000 * PRICE), books.account(PRICE)
        crowd = [await studio.submit(busy, "crowd") for _ in range(500)]
        async with studio.worker():
            await studio.end(crowd[0])
            begun = len(studio.engine.begun)
            await studio.end(await studio.submit(other, "the other"))
            place = studio.engine.begun.index(("first", "the other"))
            assert place - begun < 25
            for job in crowd:
                assert (await studio.end(job)).state == "succeeded"
        assert books.money(busy) == Balance(500 * PRICE, 0)

    Studio(books, tmp_path, queue_limit=1000).run(test, with_worker=False)


def test_another_model_waits_only_briefly(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        async def generate(request: ImageRequest, on_progress: OnProgress) -> bytes:
            await asyncio.sleep(0.02)
            return b"x"

        studio.engine.behavior = generate
        busy, other = books.account(5000 * PRICE), books.account(PRICE)
        crowd = [await studio.submit(busy, model="first") for _ in range(900)]
        async with studio.worker():
            await studio.end(crowd[0])
            started_s = asyncio.get_running_loop().time()
            await studio.end(await studio.submit(other, model="second"))
            assert asyncio.get_running_loop().time() - started_s < 7
            assert studio.row(crowd[-1])[0] == "queued"

    Studio(books, tmp_path, ScriptedEngine(max_concurrency=2), queue_limit=1000).run(test, with_worker=False)


def test_a_job_that_failed_twice_runs_alone(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        beside: list[int] = []

        async def generate(request: ImageRequest, on_progress: OnProgress) -> bytes:
            await asyncio.sleep(0.05)
            if request.prompt == "bad":
                beside.append(studio.engine.running)
                raise EngineError("again")
            return b"x"

        studio.engine.behavior = generate
        account = books.account(100 * PRICE)
        jobs = [await studio.submit(account, "bad" if n == 1 else "good") for n in range(20)]
        async with studio.worker():
            ended = [await studio.end(job) for job in jobs]
        assert [job.state for job in ended].count("succeeded") == 19
        assert len(beside) == 3
        assert beside[-1] == 1

    Studio(books, tmp_path).run(test, with_worker=False)


def test_an_on_demand_engine_starts_with_its_first_job(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(5 * PRICE)
        async with studio.worker(on_demand=True):
            await asyncio.sleep(0.2)
            assert studio.engine.starts == 0
            assert (await studio.end(await studio.submit(account))).state == "succeeded"
            assert (await studio.end(await studio.submit(account))).state == "succeeded"
            assert studio.engine.starts == 1

    Studio(books, tmp_path).run(test, with_worker=False)


def test_an_engine_starts_with_the_worker_unless_it_is_on_demand(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        async with asyncio.timeout(5):
            while not studio.engine.starts:
                await asyncio.sleep(0.01)

    Studio(books, tmp_path).run(test)


def test_an_engine_that_keeps_failing_is_paused_with_exponential_backoff(
    sqlite_books: TemporaryBooks, tmp_path: Path
) -> None:
    async def test(studio: Studio) -> None:
        clock = FixedClock()
        services = dataclasses.replace(studio.services, clock=clock)
        state = WorkerState(name="worker", single_process=True)
        claimer = JobClaimer(studio.engine, services, state, models_of=lambda engine: [], begin=no_attempt)
        finished = asyncio.create_task(asyncio.sleep(0))

        def pause_s(*, generated: bool) -> float:
            """Return the wait until the next claim after an attempt, and let it pass."""
            attempt = JobAttempt(services, claimed_job(), studio.engine)
            attempt.generated = generated
            claimer._record_outcome(attempt, finished)
            paused_s = max(0.0, claimer._backoff.retry_at_s - clock.steady_s())
            clock.forward(paused_s)
            return paused_s

        assert [pause_s(generated=False) for _ in range(8)] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        assert pause_s(generated=True) == 0.0
        assert [pause_s(generated=False) for _ in range(2)] == [0.0, 1.0]
        await finished

    Studio(sqlite_books, tmp_path).run(test, with_worker=False)


def no_attempt(job: ClaimedJob, engine: ImageEngine) -> JobAttempt:
    raise AssertionError("no job is claimed in this test")
