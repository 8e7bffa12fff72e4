"""Tests of one attempt at an image job: success, failure, retries of the store, supersession."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from minitoolai.billing.job_leases import MAX_LOSSES
from minitoolai.core.errors import (
    EngineError,
    EngineLost,
    EngineRefused,
    StoreError,
)
from minitoolai.core.models import Balance
from minitoolai.images.attempt import STORE_RETRY_S, JobAttempt
from minitoolai.images.unstored import UnstoredImages
from minitoolai.storage.object_store import LocalObjectStore
from tests.support.books import FixedClock, TemporaryBooks
from tests.support.studio import PRICE, Gate, Studio, broken, claimed_job, failing


def test_a_job_becomes_an_image_and_is_charged_once(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(2 * PRICE)
        submitted = await studio.submit(account, "a cat", seed=7, steps=3)
        assert 0 < submitted.job_id < 2**53
        job = await studio.end(submitted)
        assert (job.state, job.progress, job.seed, job.model, job.served_model) == (
            "succeeded", 1.0, 7, "first", "engine-1",
        )  # fmt: skip
        assert job.object is not None
        assert await studio.store.get(job.object) == b"a cat 7"
        assert books.money(account) == Balance(PRICE, 0)
        assert studio.row(submitted) == ("succeeded", 1, 0, PRICE)

    Studio(books, tmp_path).run(test)


def test_a_failed_attempt_is_repeated_with_the_same_seed(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.behavior = failing(EngineError("one"), EngineError("two"))
        job = await studio.submit(books.account(PRICE), "a dog", seed=5)
        ended = await studio.end(job)
        assert studio.row(job) == ("succeeded", 3, 2, PRICE)
        assert ended.object is not None
        assert await studio.store.get(ended.object) == b"a dog 5"

    Studio(books, tmp_path).run(test)


def test_a_job_that_lost_its_machine_is_handed_back_and_has_not_failed(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        # More often than a job may fail.
        studio.engine.behavior = failing(*(EngineLost("its machine is gone") for _ in range(5)))
        job = await studio.submit(books.account(PRICE), "a dog", seed=5)
        assert (await studio.end(job)).state == "succeeded"
        assert studio.row(job) == ("succeeded", 6, 0, PRICE)

    Studio(books, tmp_path).run(test)


def test_a_job_that_loses_each_of_its_machines_fails_at_last(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        lost = (EngineLost("its machine is gone", under_way=True) for _ in range(MAX_LOSSES))
        studio.engine.behavior = failing(*lost)
        account = books.account(PRICE)
        ended = await studio.end(job := await studio.submit(account))
        assert (ended.state, ended.error_code) == ("failed", "interrupted")
        assert studio.row(job) == ("failed", MAX_LOSSES, 0, 0)
        assert books.money(account) == Balance(PRICE, 0)

    Studio(books, tmp_path).run(test)


def test_after_three_failures_a_job_fails_with_the_reason_and_no_charge(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.behavior = broken
        account = books.account(PRICE)
        job = await studio.submit(account)
        ended = await studio.end(job)
        assert (ended.state, ended.error_code, ended.error) == ("failed", "upstream_error", "the engine is broken")
        assert studio.row(job)[3] == 0
        assert len(studio.engine.begun) == 3
        assert books.money(account) == Balance(PRICE, 0)

    Studio(books, tmp_path).run(test)


def test_a_refusal_by_the_engine_is_not_repeated(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.behavior = failing(EngineRefused("no such sampler"))
        job = await studio.submit(books.account(PRICE))
        ended = await studio.end(job)
        assert (ended.state, ended.error) == ("failed", "no such sampler")
        assert len(studio.engine.begun) == 1

    Studio(books, tmp_path).run(test)


def test_an_unexpected_exception_of_an_engine_fails_only_that_job(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.behavior = failing(*(KeyError("x") for _ in range(3)))
        account = books.account(5 * PRICE)
        job = await studio.submit(account)
        assert (await studio.end(job)).error_code == "internal_error"
        assert (await studio.end(await studio.submit(account))).state == "succeeded"

    Studio(books, tmp_path).run(test)


def test_a_full_store_delays_images_and_loses_none(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.store.fault = "no space left on device"
        account = books.account(5 * PRICE)
        jobs = [await studio.submit(account) for _ in range(3)]
        await asyncio.sleep(0.6)
        assert books.money(account) == Balance(5 * PRICE, 3 * PRICE)
        studio.store.fault = None
        assert [(await studio.end(job)).state for job in jobs] == ["succeeded"] * 3
        assert len(studio.engine.begun) == 3
        assert books.money(account) == Balance(2 * PRICE, 0)

    Studio(books, tmp_path).run(test)


def test_an_image_that_waits_for_the_store_survives_its_worker_and_is_not_drawn_again(
    books: TemporaryBooks, tmp_path: Path
) -> None:
    async def test(studio: Studio) -> None:
        studio.services = dataclasses.replace(studio.services, unstored=UnstoredImages(tmp_path / "unstored"))
        studio.store.fault = "the bucket books at 10.0.0.1 does not answer"
        account = books.account(5 * PRICE)
        async with studio.worker(drain_s=0.1):
            job = await studio.submit(account)
            while not studio.services.outage.is_on:
                await asyncio.sleep(0.01)
            # What is submitted meanwhile waits: it could not be stored, either.
            second = await studio.submit(account)
            await asyncio.sleep(0.3)
            assert len(studio.engine.begun) == 1
        assert [path.name for path in (tmp_path / "unstored").iterdir()] == [f"{job.job_id}.image"]
        studio.store.fault = None
        async with studio.worker():
            ended = [await studio.end(job), await studio.end(second)]
        assert [(one.state, one.error) for one in ended] == [("succeeded", None)] * 2
        assert len(studio.engine.begun) == 2
        assert ended[0].served_model == ended[1].served_model
        assert list((tmp_path / "unstored").iterdir()) == []
        assert books.money(account) == Balance(3 * PRICE, 0)

    Studio(books, tmp_path).run(test, with_worker=False)


def test_a_superseded_attempt_delivers_nothing(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.engine.behavior = gate.generate
        account = books.account(5 * PRICE)
        job = await studio.submit(account)
        await gate.begun.wait()
        # As if its lease had expired and another worker had claimed the job.
        with books.connection.transaction():
            books.rows("UPDATE generations SET attempt = 2, worker = 'another'")
        gate.is_open.set()
        async with asyncio.timeout(5):
            while studio.engine.running or studio.events.step_of(job.job_id) is not None:
                await asyncio.sleep(0.01)
        assert studio.row(job) == ("running", 2, 0, 0)
        assert books.money(account) == Balance(5 * PRICE, PRICE)

    Studio(books, tmp_path).run(test)


class FullStore(LocalObjectStore):
    """A store that is full and takes two thirds of the longest wait to say so."""

    def __init__(self, folder: Path, clock: FixedClock) -> None:
        super().__init__(folder)
        self.clock = clock
        self.calls = 0

    async def put(self, job_id: int, png: bytes) -> str:
        self.calls += 1
        self.clock.forward(STORE_RETRY_S * 2 / 3)
        raise StoreError("no space left on device")


def test_an_attempt_fails_once_the_store_has_been_full_for_hours(sqlite_books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        clock = FixedClock()
        store = FullStore(tmp_path, clock)
        services = dataclasses.replace(studio.services, objects=store, clock=clock)
        attempt = JobAttempt(services, claimed_job(), studio.engine)
        with pytest.raises(StoreError, match="no space left"):
            await attempt.store(b"image")
        assert store.calls == 2

    Studio(sqlite_books, tmp_path).run(test, with_worker=False)
