"""Tests of submitting, reading, watching and cancelling image jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minitoolai.core.errors import (
    InsufficientBalance,
    ModelNotFound,
    NotFound,
    Overloaded,
    RateLimited,
)
from minitoolai.core.inference import ImageJob
from minitoolai.core.models import Balance
from minitoolai.engines.protocols import ImageRequest, OnProgress
from tests.support.books import TemporaryBooks
from tests.support.studio import PRICE, Gate, ScriptedEngine, Studio


def test_a_job_without_a_seed_gets_a_random_one(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(10 * PRICE)
        jobs = [await studio.end(await studio.submit(account)) for _ in range(3)]
        assert len({job.seed for job in jobs}) == 3
        assert all(0 <= job.seed < 2**32 for job in jobs)

    Studio(books, tmp_path).run(test)


def test_a_refused_job_reserves_nothing(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        poor = books.account(PRICE - 1)
        with pytest.raises(InsufficientBalance):
            await studio.submit(poor)
        with pytest.raises(ModelNotFound, match="first"):
            await studio.submit(poor, model="firts")
        studio.engine.why_not = "its weights are missing"
        with pytest.raises(Overloaded, match="first is not available at the moment"):
            await studio.submit(poor)
        assert books.money(poor) == Balance(PRICE - 1, 0)
        assert books.rows("SELECT count(*) FROM generations") == [(0,)]

    Studio(books, tmp_path).run(test, with_worker=False)


def test_the_queue_limit_of_an_account_holds_for_concurrent_requests(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account, other = books.account(100 * PRICE), books.account(PRICE)
        results = await asyncio.gather(*(studio.submit(account) for _ in range(30)), return_exceptions=True)
        refused = [one for one in results if isinstance(one, RateLimited)]
        assert len(refused) == 20
        assert refused[0].retry_after_s
        await studio.submit(other)
        assert books.money(account).held == 10 * PRICE

    Studio(books, tmp_path, queue_limit=10).run(test, with_worker=False)


def test_a_wrong_signature_and_an_unknown_job_give_the_same_error(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        mine = await studio.submit(books.account(PRICE))
        other = await studio.submit(books.account(PRICE))
        messages = set()
        for number, signature in [
            (mine.job_id, other.signature),
            (mine.job_id, ""),
            (mine.job_id, mine.signature[:-1]),
            (mine.job_id + 1, mine.signature),
            (1, studio.service._signer.sign("image-job", "1")),
        ]:
            with pytest.raises(NotFound) as refusal:
                await studio.service.get(number, signature)
            messages.add(str(refusal.value))
            with pytest.raises(NotFound):
                await studio.service.cancel(number, signature)
        assert len(messages) == 1
        assert (await studio.get(mine)).state == "queued"

    Studio(books, tmp_path).run(test, with_worker=False)


def test_a_queued_job_reports_how_many_jobs_are_ahead(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        busy, other = books.account(10 * PRICE), books.account(PRICE)
        first = [await studio.submit(busy) for _ in range(4)]
        last = await studio.submit(other)
        assert [(await studio.get(job)).ahead for job in [*first, last]] == [0, 1, 3, 4, 2]

    Studio(books, tmp_path).run(test, with_worker=False)


def test_watching_yields_every_step_once(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        async def generate(request: ImageRequest, on_progress: OnProgress) -> bytes:
            for step in (1, 2, 3):
                await asyncio.sleep(0.1)
                on_progress(step, 3)
            return b"image"

        studio.engine.behavior = generate
        job = await studio.submit(books.account(PRICE), steps=3)
        seen: list[ImageJob] = []
        async with studio.worker():
            async for state in studio.service.watch(job.job_id, job.signature):
                seen.append(state)
        states = [(state.state, state.step) for state in seen]
        assert states[0] in (("queued", 0), ("running", 0))
        assert [one for one in states if one[0] == "running" and one[1]] == [
            ("running", 1),
            ("running", 2),
            ("running", 3),
        ]
        assert seen[-1].state == "succeeded"
        assert len(set(states)) == len(states)

    Studio(books, tmp_path).run(test, with_worker=False)


def test_waiting_ends_at_the_timeout(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        job = await studio.submit(books.account(PRICE))
        assert (await studio.service.wait(job, 0.2)).state == "queued"

    Studio(books, tmp_path).run(test, with_worker=False)


def test_a_cancelled_job_never_runs_and_its_hold_is_released(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(PRICE)
        job = await studio.submit(account)
        cancelled = await studio.service.cancel(job.job_id, job.signature)
        assert (cancelled.state, cancelled.error_code) == ("cancelled", "cancelled")
        assert books.money(account) == Balance(PRICE, 0)
        async with studio.worker():
            await asyncio.sleep(0.2)
        assert studio.engine.begun == []

    Studio(books, tmp_path).run(test, with_worker=False)


def test_a_job_cancelled_while_it_is_drawn_is_cancelled(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.engine.behavior = gate.generate
        account = books.account(PRICE)
        job = await studio.submit(account)
        await gate.begun.wait()
        assert (await studio.service.cancel(job.job_id, job.signature)).state == "cancelled"
        async with asyncio.timeout(5):
            while studio.engine.running:
                await asyncio.sleep(0.01)
        assert gate.cancelled == 1
        assert studio.row(job) == ("cancelled", 1, 0, 0)
        assert books.money(account) == Balance(PRICE, 0)

    Studio(books, tmp_path).run(test)


def test_cancelling_an_ended_job_changes_nothing(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(PRICE)
        job = await studio.submit(account)
        ended = await studio.end(job)
        assert await studio.service.cancel(job.job_id, job.signature) == ended
        assert books.money(account) == Balance(0, 0)

    Studio(books, tmp_path).run(test)


def test_a_job_waits_for_an_engine_that_another_process_offers(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gpu, standin = studio.engines
        gpu.why_not = "no weights on this machine"
        studio.events.available_models = {"gpu": ["first"]}
        account = books.account(5 * PRICE)
        job, other = await studio.submit(account), await studio.submit(account, model="second")
        assert (await studio.end(other)).served_model == "standin-1"
        studio.events.available_models = {}
        await asyncio.sleep(0.3)
        assert (await studio.get(job)).state == "queued"
        gpu.why_not = None
        assert (await studio.end(job)).served_model == "gpu-1"
        assert standin.begun == [("second", "a sun")]

    Studio(books, tmp_path, ScriptedEngine("gpu"), ScriptedEngine("standin")).run(test)
