"""Image jobs as their owner sees them: queued, drawn, watched, cancelled, charged once or not at all."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from minitoolai.core.errors import (
    EngineError,
    EngineRefused,
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
from tests.support.studio import PRICE, Painter, Studio, at_once, broken, failing


class Gate:
    """A way to draw that waits until it is opened, after its first step."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.begun = asyncio.Event()
        self.broken_off = 0

    async def draw(self, request: ImageRequest, on_progress: OnProgress) -> bytes:
        on_progress(1, request.steps)
        self.begun.set()
        try:
            await self.is_open.wait()
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        return await at_once(request, on_progress)


# ── from request to picture ───────────────────────────────────────────────────────────────────────────────


def test_a_job_becomes_a_picture_and_costs_its_price_once(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(2 * PRICE)
        submitted = await studio.submit(account, "a cat", seed=7, steps=3)
        assert 0 < submitted.job_id < 2**53
        job = await studio.end(submitted)
        assert (job.state, job.progress, job.seed, job.model, job.served_model) == (
            "succeeded", 1.0, 7, "first", "painter-1",
        )  # fmt: skip
        assert job.object is not None
        assert await studio.shelf.get(job.object) == b"a cat 7"
        assert books.money(account) == Balance(PRICE, 0)
        assert studio.row(submitted) == ("succeeded", 1, 0, PRICE)

    Studio(books, tmp_path).run(test)


def test_a_seed_nobody_named_is_drawn_by_lot_and_told(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(10 * PRICE)
        jobs = [await studio.end(await studio.submit(account)) for _ in range(3)]
        assert len({job.seed for job in jobs}) == 3
        assert all(0 <= job.seed < 2**32 for job in jobs)

    Studio(books, tmp_path).run(test)


def test_what_cannot_be_taken_holds_nothing(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        poor = books.account(PRICE - 1)
        with pytest.raises(InsufficientBalance):
            await studio.submit(poor)
        with pytest.raises(ModelNotFound, match="first"):
            await studio.submit(poor, model="firts")
        studio.painter.why_not = "its brush is missing"
        with pytest.raises(Overloaded, match="its brush is missing"):
            await studio.submit(poor)
        assert books.money(poor) == Balance(PRICE - 1, 0)
        assert books.rows("SELECT count(*) FROM generations") == [(0,)]

    Studio(books, tmp_path).run(test, draws=False)


def test_an_account_queues_so_many_jobs_and_no_more_however_many_ask_at_once(
    books: TemporaryBooks, tmp_path: Path
) -> None:
    async def test(studio: Studio) -> None:
        account, other = books.account(100 * PRICE), books.account(PRICE)
        asked = await asyncio.gather(*(studio.submit(account) for _ in range(30)), return_exceptions=True)
        refused = [one for one in asked if isinstance(one, RateLimited)]
        assert len(refused) == 20
        assert refused[0].retry_after_s
        await studio.submit(other)
        assert books.money(account).held == 10 * PRICE

    Studio(books, tmp_path, queue_limit=10).run(test, draws=False)


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_signature_and_an_unknown_job_are_answered_in_the_same_words(
    books: TemporaryBooks, tmp_path: Path
) -> None:
    async def test(studio: Studio) -> None:
        mine = await studio.submit(books.account(PRICE))
        other = await studio.submit(books.account(PRICE))
        said = set()
        for number, signature in [
            (mine.job_id, other.signature),
            (mine.job_id, ""),
            (mine.job_id, mine.signature[:-1]),
            (mine.job_id + 1, mine.signature),
            (1, studio.service._signer.sign("image-job", "1")),
        ]:
            with pytest.raises(NotFound) as refusal:
                await studio.service.look(number, signature)
            said.add(str(refusal.value))
            with pytest.raises(NotFound):
                await studio.service.cancel(number, signature)
        assert len(said) == 1
        assert (await studio.look(mine)).state == "queued"

    Studio(books, tmp_path).run(test, draws=False)


def test_a_job_that_waits_knows_how_many_are_before_it(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        busy, other = books.account(10 * PRICE), books.account(PRICE)
        first = [await studio.submit(busy) for _ in range(4)]
        last = await studio.submit(other)
        assert [(await studio.look(job)).ahead for job in [*first, last]] == [0, 1, 3, 4, 2]

    Studio(books, tmp_path).run(test, draws=False)


def test_whoever_watches_sees_every_step_once(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        async def draw(request: ImageRequest, on_progress: OnProgress) -> bytes:
            for step in (1, 2, 3):
                await asyncio.sleep(0.1)
                on_progress(step, 3)
            return b"drawn"

        studio.painter.how = draw
        job = await studio.submit(books.account(PRICE), steps=3)
        seen: list[ImageJob] = []
        async with studio.drawing():
            async for state in studio.service.watch(job.job_id, job.signature):
                seen.append(state)
        told = [(state.state, state.step) for state in seen]
        assert told[0] in (("queued", 0), ("running", 0))
        assert [one for one in told if one[0] == "running" and one[1]] == [
            ("running", 1),
            ("running", 2),
            ("running", 3),
        ]
        assert seen[-1].state == "succeeded"
        assert len(set(told)) == len(told)

    Studio(books, tmp_path).run(test, draws=False)


def test_waiting_ends_when_the_time_is_up(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        job = await studio.submit(books.account(PRICE))
        assert (await studio.service.wait(job, 0.2)).state == "queued"

    Studio(books, tmp_path).run(test, draws=False)


# ── cancelling ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cancelled_job_is_never_drawn_and_its_hold_is_released(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(PRICE)
        job = await studio.submit(account)
        cancelled = await studio.service.cancel(job.job_id, job.signature)
        assert (cancelled.state, cancelled.error_code) == ("cancelled", "cancelled")
        assert books.money(account) == Balance(PRICE, 0)
        async with studio.drawing():
            await asyncio.sleep(0.2)
        assert studio.painter.begun == []

    Studio(books, tmp_path).run(test, draws=False)


def test_a_job_cancelled_while_it_is_drawn_is_broken_off(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.painter.how = gate.draw
        account = books.account(PRICE)
        job = await studio.submit(account)
        await gate.begun.wait()
        assert (await studio.service.cancel(job.job_id, job.signature)).state == "cancelled"
        async with asyncio.timeout(5):
            while studio.painter.at_once:
                await asyncio.sleep(0.01)
        assert gate.broken_off == 1
        assert studio.row(job) == ("cancelled", 1, 0, 0)
        assert books.money(account) == Balance(PRICE, 0)

    Studio(books, tmp_path).run(test)


def test_cancelling_what_has_ended_changes_nothing(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(PRICE)
        job = await studio.submit(account)
        ended = await studio.end(job)
        assert await studio.service.cancel(job.job_id, job.signature) == ended
        assert books.money(account) == Balance(0, 0)

    Studio(books, tmp_path).run(test)


# ── when something breaks ─────────────────────────────────────────────────────────────────────────────────


def test_an_engine_that_fails_is_tried_again_with_the_same_seed(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.painter.how = failing(EngineError("one"), EngineError("two"))
        job = await studio.submit(books.account(PRICE), "a dog", seed=5)
        ended = await studio.end(job)
        assert studio.row(job) == ("succeeded", 3, 2, PRICE)
        assert ended.object is not None
        assert await studio.shelf.get(ended.object) == b"a dog 5"

    Studio(books, tmp_path).run(test)


def test_after_three_failures_a_job_fails_and_says_why_for_free(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.painter.how = broken
        account = books.account(PRICE)
        job = await studio.submit(account)
        ended = await studio.end(job)
        assert (ended.state, ended.error_code, ended.error) == ("failed", "upstream_error", "the brush is broken")
        assert studio.row(job)[3] == 0
        assert len(studio.painter.begun) == 3
        assert books.money(account) == Balance(PRICE, 0)

    Studio(books, tmp_path).run(test)


def test_a_refusal_by_the_engine_is_not_tried_again(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.painter.how = failing(EngineRefused("no such brush"))
        job = await studio.submit(books.account(PRICE))
        ended = await studio.end(job)
        assert (ended.state, ended.error) == ("failed", "no such brush")
        assert len(studio.painter.begun) == 1

    Studio(books, tmp_path).run(test)


def test_an_engine_that_raises_what_it_should_not_fails_that_job_only(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.painter.how = failing(*(KeyError("x") for _ in range(3)))
        account = books.account(5 * PRICE)
        job = await studio.submit(account)
        assert (await studio.end(job)).error_code == "internal_error"
        assert (await studio.end(await studio.submit(account))).state == "succeeded"

    Studio(books, tmp_path).run(test)


def test_a_full_store_delays_a_picture_and_loses_none(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.shelf.fault = "no space left on device"
        account = books.account(5 * PRICE)
        jobs = [await studio.submit(account) for _ in range(3)]
        await asyncio.sleep(0.6)
        assert books.money(account) == Balance(5 * PRICE, 3 * PRICE)
        studio.shelf.fault = None
        assert [(await studio.end(job)).state for job in jobs] == ["succeeded"] * 3
        assert len(studio.painter.begun) == 3
        assert books.money(account) == Balance(2 * PRICE, 0)

    Studio(books, tmp_path).run(test)


def test_an_engine_that_is_starting_gets_no_jobs_and_they_wait(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.painter.is_up = False
        job = await studio.submit(books.account(PRICE))
        await asyncio.sleep(0.3)
        assert (await studio.look(job)).state == "queued"
        studio.painter.is_up = True
        assert (await studio.end(job)).state == "succeeded"

    Studio(books, tmp_path).run(test)


# ── workers that come and go ──────────────────────────────────────────────────────────────────────────────


def test_a_worker_that_stops_hands_back_what_it_cannot_finish(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.painter.how = gate.draw
        job = await studio.submit(books.account(PRICE))
        async with studio.drawing(drain_s=0.1):
            await gate.begun.wait()
        await studio.writer.run(lambda connection: None)
        assert studio.row(job) == ("queued", 1, 0, 0)
        studio.painter.how = at_once
        async with studio.drawing("another"):
            assert (await studio.end(job)).state == "succeeded"
        assert studio.row(job) == ("succeeded", 2, 0, PRICE)

    Studio(books, tmp_path).run(test, draws=False)


def test_a_worker_that_stops_finishes_what_it_can(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.painter.how = gate.draw
        account = books.account(10 * PRICE)
        job = await studio.submit(account)
        async with studio.drawing(drain_s=5):
            await gate.begun.wait()
            waiting = await studio.submit(account, model="second")
            asyncio.get_running_loop().call_later(0.2, gate.is_open.set)
        assert studio.row(job) == ("succeeded", 1, 0, PRICE)
        assert studio.row(waiting) == ("queued", 0, 0, 0)

    Studio(books, tmp_path).run(test, draws=False)


def test_what_a_dead_process_drew_is_drawn_again_at_the_next_start(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        job = await studio.submit(books.account(PRICE))
        with books.connection.transaction():
            books.rows("UPDATE generations SET state = 'running', attempt = 1, lease_until_ms = ?", 2**60)
        async with studio.drawing() as worker:
            assert await worker.recover() == 0
            assert await worker.recover(all_of_them=True) == 1
            assert (await studio.end(job)).state == "succeeded"
        assert studio.row(job) == ("succeeded", 2, 1, PRICE)

    Studio(books, tmp_path).run(test, draws=False)


def test_a_worker_whose_job_was_given_to_another_delivers_nothing(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.painter.how = gate.draw
        account = books.account(5 * PRICE)
        job = await studio.submit(account)
        await gate.begun.wait()
        # As if it had slept: its lease ended, and another worker has begun.
        with books.connection.transaction():
            books.rows("UPDATE generations SET attempt = 2, worker = 'another'")
        gate.is_open.set()
        async with asyncio.timeout(5):
            while studio.painter.at_once or studio.board.step_of(job.job_id) is not None:
                await asyncio.sleep(0.01)
        assert studio.row(job) == ("running", 2, 0, 0)
        assert books.money(account) == Balance(5 * PRICE, PRICE)

    Studio(books, tmp_path).run(test)


# ── who is drawn beside whom ──────────────────────────────────────────────────────────────────────────────


def test_pictures_of_one_model_and_size_are_drawn_together(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(100 * PRICE)
        jobs = [await studio.submit(account, f"{n}", model=("first", "second")[n % 2]) for n in range(12)]
        async with studio.drawing():
            for job in jobs:
                assert (await studio.end(job)).state == "succeeded"
        models = [model for model, _ in studio.painter.begun]
        assert sum(a != b for a, b in itertools.pairwise(models)) < 6
        assert studio.painter.most_at_once == 4

    Studio(books, tmp_path, Painter(max_concurrency=4)).run(test, draws=False)


def test_500_jobs_of_one_account_do_not_keep_another_waiting(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        async def draw(request: ImageRequest, on_progress: OnProgress) -> bytes:
            await asyncio.sleep(0.005)
            return b"x"

        studio.painter.how = draw
        busy, other = books.account(1000 * PRICE), books.account(PRICE)
        crowd = [await studio.submit(busy, "crowd") for _ in range(500)]
        async with studio.drawing():
            await studio.end(crowd[0])
            begun = len(studio.painter.begun)
            await studio.end(await studio.submit(other, "the other"))
            place = studio.painter.begun.index(("first", "the other"))
            assert place - begun < 25
            for job in crowd:
                assert (await studio.end(job)).state == "succeeded"
        assert books.money(busy) == Balance(500 * PRICE, 0)

    Studio(books, tmp_path, queue_limit=1000).run(test, draws=False)


def test_another_model_waits_a_little_and_not_for_ever(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        async def draw(request: ImageRequest, on_progress: OnProgress) -> bytes:
            await asyncio.sleep(0.02)
            return b"x"

        studio.painter.how = draw
        busy, other = books.account(5000 * PRICE), books.account(PRICE)
        crowd = [await studio.submit(busy, model="first") for _ in range(900)]
        async with studio.drawing():
            await studio.end(crowd[0])
            started_s = asyncio.get_running_loop().time()
            await studio.end(await studio.submit(other, model="second"))
            assert asyncio.get_running_loop().time() - started_s < 7
            assert studio.row(crowd[-1])[0] == "queued"

    Studio(books, tmp_path, Painter(max_concurrency=2), queue_limit=1000).run(test, draws=False)


def test_a_job_that_failed_twice_is_drawn_alone(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        beside: list[int] = []

        async def draw(request: ImageRequest, on_progress: OnProgress) -> bytes:
            await asyncio.sleep(0.05)
            if request.prompt == "bad":
                beside.append(studio.painter.at_once)
                raise EngineError("again")
            return b"x"

        studio.painter.how = draw
        account = books.account(100 * PRICE)
        jobs = [await studio.submit(account, "bad" if n == 1 else "good") for n in range(20)]
        async with studio.drawing():
            ended = [await studio.end(job) for job in jobs]
        assert [job.state for job in ended].count("succeeded") == 19
        assert len(beside) == 3
        assert beside[-1] == 1

    Studio(books, tmp_path).run(test, draws=False)


# ── workers elsewhere ─────────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_taken_for_the_engine_that_another_process_offers_and_waits_for_it(
    books: TemporaryBooks, tmp_path: Path
) -> None:
    async def test(studio: Studio) -> None:
        gpu, standin = studio.painters
        gpu.why_not = "no weights on this machine"
        studio.board.offers = {"gpu": ["first"]}
        account = books.account(5 * PRICE)
        job, other = await studio.submit(account), await studio.submit(account, model="second")
        assert (await studio.end(other)).served_model == "standin-1"
        studio.board.offers = {}
        await asyncio.sleep(0.3)
        assert (await studio.look(job)).state == "queued"
        gpu.why_not = None
        assert (await studio.end(job)).served_model == "gpu-1"
        assert standin.begun == [("second", "a sun")]

    Studio(books, tmp_path, Painter("gpu"), Painter("standin")).run(test)


def test_a_job_that_nobody_could_draw_for_a_day_is_given_up_for_free(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.painter.is_up = False
        account = books.account(PRICE)
        job = await studio.submit(account)
        with books.connection.transaction():
            books.rows("UPDATE generations SET created_ms = created_ms - 86500000")
        async with studio.drawing():
            ended = await studio.end(job)
        assert (ended.state, ended.error_code) == ("failed", "expired")
        assert books.money(account) == Balance(PRICE, 0)

    Studio(books, tmp_path).run(test, draws=False)
