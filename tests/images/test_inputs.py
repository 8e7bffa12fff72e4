"""Tests of uploads: kept as long as their job needs them, and no longer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from minitoolai.core.errors import EngineError, EngineRefused, InsufficientBalance, Overloaded
from minitoolai.core.inference import EditInputs, ImageJobRequest
from minitoolai.core.models import Balance, Caller
from minitoolai.engines.protocols import ImageRequest, OnProgress
from minitoolai.images.inputs import UNSUBMITTED_MS, JobInputs
from tests.support.books import FixedClock, TemporaryBooks
from tests.support.studio import PRICE, ScriptedEngine, Studio, failing

REQUEST = ImageJobRequest(model="first", prompt="a red apple", task="edit", strength=0.5, width=256, height=256)
INPUTS = EditInputs((b"image",), b"mask")


def files(studio: Studio) -> list[Path]:
    return [path for path in (studio.folder / "objects").rglob("*.png") if path.read_bytes() in (b"image", b"mask")]


def rows(studio: Studio) -> int:
    return int(studio.books.rows("SELECT count(*) FROM job_inputs")[0][0])


def test_a_job_gets_its_uploads_and_they_are_deleted_when_it_ends(books: TemporaryBooks, tmp_path: Path) -> None:
    seen: list[ImageRequest] = []

    async def look(request: ImageRequest, on_progress: OnProgress) -> bytes:
        seen.append(request)
        assert len(files(studio)) == 2
        return b"result"

    async def test(studio: Studio) -> None:
        job = await studio.service.submit(Caller(books.account(PRICE), "key000000001"), REQUEST, INPUTS)
        assert (await studio.end(job)).state == "succeeded"
        assert (seen[0].images, seen[0].mask, seen[0].strength) == ((b"image",), b"mask", 0.5)
        await until_gone(studio)

    studio = Studio(books, tmp_path, ScriptedEngine(behavior=look))
    studio.run(test)


@pytest.mark.parametrize("errors", [[EngineRefused("no")], [EngineError("1"), EngineError("2"), EngineError("3")]])
def test_uploads_of_failed_jobs_are_deleted_too(books: TemporaryBooks, tmp_path: Path, errors: list[Exception]) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.behavior = failing(*errors)
        account = books.account(PRICE)
        job = await studio.service.submit(Caller(account, "key000000001"), REQUEST, INPUTS)
        assert (await studio.end(job)).state == "failed"
        await until_gone(studio)
        assert books.money(account) == Balance(PRICE, 0)

    Studio(books, tmp_path).run(test)


def test_an_attempt_that_fails_keeps_the_uploads_for_the_next(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        studio.engine.behavior = failing(EngineError("one"))
        job = await studio.service.submit(Caller(books.account(PRICE), "key000000001"), REQUEST, INPUTS)
        assert (await studio.end(job)).state == "succeeded"
        assert studio.row(job) == ("succeeded", 2, 1, PRICE)
        await until_gone(studio)

    Studio(books, tmp_path).run(test)


def test_a_refused_or_cancelled_job_leaves_no_upload(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        with pytest.raises(InsufficientBalance):
            await studio.service.submit(Caller(books.account(0), "key000000001"), REQUEST, INPUTS)
        assert (files(studio), rows(studio)) == ([], 0)
        studio.store.fault = "the disk is full"
        account = books.account(PRICE)
        with pytest.raises(Overloaded):
            await studio.service.submit(Caller(account, "key000000001"), REQUEST, INPUTS)
        studio.store.fault = None
        assert (files(studio), rows(studio), books.money(account)) == ([], 0, Balance(PRICE, 0))
        job = await studio.service.submit(Caller(account, "key000000001"), REQUEST, INPUTS)
        assert len(files(studio)) == 2
        await studio.service.cancel(job.job_id, job.signature)
        assert (files(studio), rows(studio)) == ([], 0)

    Studio(books, tmp_path).run(test, with_worker=False)


def test_the_sweep_deletes_uploads_without_a_job_after_an_hour(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        clock = FixedClock()
        inputs = JobInputs(books.database, studio.writer, studio.store, clock)
        await inputs.put(77, REQUEST, INPUTS)
        account = books.account(PRICE)
        await studio.service.submit(Caller(account, "key000000001"), REQUEST, INPUTS)
        assert await inputs.sweep() == 0
        clock.forward(UNSUBMITTED_MS / 1000 + 1)
        assert await inputs.sweep() == 2
        # Those of the waiting job are still there.
        assert (len(files(studio)), rows(studio)) == (2, 2)

    Studio(books, tmp_path).run(test, with_worker=False)


def test_a_job_whose_upload_was_lost_fails_unpaid(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        account = books.account(PRICE)
        job = await studio.service.submit(Caller(account, "key000000001"), REQUEST, INPUTS)
        for file in files(studio):
            file.unlink()
        async with studio.worker():
            ended = await studio.end(job)
        assert (ended.state, ended.error_code) == ("failed", "storage_error")
        assert books.money(account) == Balance(PRICE, 0)
        await until_gone(studio)

    Studio(books, tmp_path).run(test, with_worker=False)


async def until_gone(studio: Studio) -> None:
    """Wait until nothing is left of the uploads. They are deleted after the commit that ends the job."""
    for _ in range(200):
        if not files(studio) and not rows(studio):
            return
        await asyncio.sleep(0.01)
    raise AssertionError((files(studio), rows(studio)))
