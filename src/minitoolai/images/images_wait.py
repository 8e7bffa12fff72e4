"""Waiting for pictures while their caller holds the line: all of them are drawn, or nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from minitoolai.core.errors import (
    ClientLeft,
    EngineError,
    EngineRefused,
    EngineTimeout,
    Overloaded,
    ServiceError,
    StoreError,
)
from minitoolai.core.in_flight import Underway
from minitoolai.core.models import Caller
from minitoolai.core.pictures import ImageAsk, ImageJob, Submitted
from minitoolai.http.asgi import Receive
from minitoolai.images.service import ImageService

#: How often a waiting request looks whether the server is about to stop.
LOOK_EVERY_S = 0.5


async def drawn(
    jobs: ImageService,
    underway: Underway,
    caller: Caller,
    asks: Sequence[ImageAsk],
    receive: Receive,
    *,
    within_s: float,
) -> list[ImageJob]:
    """The pictures that came out well, at least one; what failed among them was not charged.

    Whoever leaves, or waits too long, cancels what is not drawn yet: he would pay for what he never sees.
    """
    submitted = await _submit_all(jobs, caller, asks)
    waiting = asyncio.ensure_future(_all_over(jobs, underway, submitted, within_s))
    leaving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        ended = _result_of(waiting)
    except BaseException:
        waiting.cancel()
        waiting.add_done_callback(_forget)
        # A task of its own: this one may be being cancelled, and then awaits nothing any more.
        await asyncio.shield(asyncio.ensure_future(_cancel_all(jobs, submitted)))
        raise
    finally:
        leaving.cancel()
    good = [job for job in ended if job.state == "succeeded"]
    if not good:
        raise _why(ended[0])
    return good


def _forget(waiting: asyncio.Future[list[ImageJob]]) -> None:
    """Nobody is left to hear of it."""
    if not waiting.cancelled():
        waiting.exception()


def _result_of(waiting: asyncio.Future[list[ImageJob]]) -> list[ImageJob]:
    if not waiting.done():
        raise ClientLeft("the caller hung up")
    return waiting.result()


async def _submit_all(jobs: ImageService, caller: Caller, asks: Sequence[ImageAsk]) -> list[Submitted]:
    """All of them, or none."""
    submitted: list[Submitted] = []
    try:
        for ask in asks:
            submitted.append(await jobs.submit(caller, ask))
    except ServiceError:
        await _cancel_all(jobs, submitted)
        raise
    return submitted


async def _all_over(
    jobs: ImageService, underway: Underway, submitted: Sequence[Submitted], within_s: float
) -> list[ImageJob]:
    waits = [asyncio.ensure_future(jobs.wait(one, within_s)) for one in submitted]
    pending: set[asyncio.Future[ImageJob]] = set(waits)
    try:
        while pending:
            _, pending = await asyncio.wait(pending, timeout=LOOK_EVERY_S)
            if underway.draining and pending and await _any_queued(jobs, submitted):
                raise Overloaded("the server is restarting; nothing was charged, try again", retry_after_s=2)
        ended = [done.result() for done in waits]
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    if not all(job.is_over for job in ended):
        raise EngineTimeout(f"the pictures were not drawn within {within_s:g} s; what was not drawn is not charged")
    return ended


async def _any_queued(jobs: ImageService, submitted: Sequence[Submitted]) -> bool:
    found = [await jobs.look(one.job_id, one.signature) for one in submitted]
    return any(job.state == "queued" for job in found)


async def _cancel_all(jobs: ImageService, submitted: Sequence[Submitted]) -> None:
    for one in submitted:
        # One that cannot be cancelled now is drawn and kept like any other job.
        with contextlib.suppress(ServiceError, StoreError):
            await jobs.cancel(one.job_id, one.signature)


def _why(job: ImageJob) -> ServiceError:
    """A job that failed, as the error of a request that waited for it."""
    why = job.error or "the picture could not be drawn"
    if job.error_code in ("invalid_request", "content_policy"):
        return EngineRefused(f"prompt: {why}; nothing was charged", param="prompt", code=job.error_code)
    return EngineError(f"{why}; nothing was charged")
