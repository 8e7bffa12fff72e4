"""Unit tests of `Cancellation` in core/in_flight.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from minitoolai.core.errors import ClientLeft, EngineTimeout, ServiceError
from minitoolai.core.in_flight import Cancellation

LEFT, SLOW = ClientLeft("left"), EngineTimeout("slow")


def cancelled_by(act: Callable[[Cancellation], None]) -> tuple[ServiceError | None, ServiceError | None, int]:
    """Return what `take_attempt` and then `take` return in a cancelled task, and how often it is still cancelled."""
    found: list[ServiceError | None] = []

    async def work(cancellation: Cancellation) -> int:
        cancellation.arm()
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            found.extend((cancellation.take_attempt(), cancellation.take()))
        task = asyncio.current_task()
        assert task is not None
        # The task can go on and wait for something else.
        await asyncio.sleep(0)
        return task.cancelling()

    async def run() -> int:
        cancellation = Cancellation()
        task = asyncio.create_task(work(cancellation))
        await asyncio.sleep(0)
        act(cancellation)
        return await task

    count = asyncio.run(run())
    return found[0], found[1], count


def _both(cancellation: Cancellation) -> None:
    cancellation.cancel_attempt(SLOW)
    cancellation.cancel(LEFT)


def _reversed(cancellation: Cancellation) -> None:
    cancellation.cancel(LEFT)
    cancellation.cancel_attempt(SLOW)
    cancellation.cancel(SLOW)


@pytest.mark.parametrize(
    ("act", "attempt", "run"),
    [
        (lambda cancellation: cancellation.cancel_attempt(SLOW), SLOW, None),
        (lambda cancellation: cancellation.cancel(LEFT), None, LEFT),
        (_both, None, LEFT),
        (_reversed, None, LEFT),
    ],
)
def test_the_first_cancellation_of_the_run_outranks_those_of_its_attempts(
    act: Callable[[Cancellation], None], attempt: ServiceError | None, run: ServiceError | None
) -> None:
    assert cancelled_by(act) == (attempt, run, 0)


def test_a_task_cancelled_by_something_else_has_no_reason_and_stays_cancelled() -> None:
    def cancel_from_outside(cancellation: Cancellation) -> None:
        assert cancellation.task is not None
        cancellation.task.cancel()

    assert cancelled_by(cancel_from_outside) == (None, None, 1)


def test_a_run_that_is_not_armed_cannot_be_cancelled() -> None:
    async def run() -> None:
        cancellation = Cancellation()
        cancellation.cancel(LEFT)
        cancellation.arm()
        cancellation.disarm()
        cancellation.cancel(LEFT)
        cancellation.cancel_attempt(SLOW)
        assert (cancellation.take(), cancellation.reason) == (None, None)
        await asyncio.sleep(0)

    asyncio.run(run())


def test_arming_again_forgets_the_earlier_reason() -> None:
    async def run() -> ServiceError | None:
        cancellation = Cancellation()
        cancellation.arm()
        cancellation.cancel(LEFT)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            cancellation.take()
        cancellation.arm()
        cancellation.cancel(SLOW)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return cancellation.take()
        return None

    assert asyncio.run(run()) is SLOW
