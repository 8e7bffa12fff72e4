"""Tests of the concurrency limit of an engine."""

from __future__ import annotations

import asyncio

import pytest

from minitoolai.core.errors import EngineFull
from minitoolai.engines.concurrency import ConcurrencyLimit


def test_requests_beyond_the_queue_are_refused_with_a_retry_time() -> None:
    async def test() -> None:
        limit = ConcurrencyLimit(1, 1, "gpu")
        await limit.acquire()
        assert limit.is_busy
        queued = asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)
        with pytest.raises(EngineFull, match="gpu is at capacity with 2") as full:
            await limit.acquire()
        assert full.value.retry_after_s == 2
        limit.release()
        await queued
        assert limit.in_use == 1

    asyncio.run(test())


def test_waiting_requests_get_slots_in_order_of_arrival() -> None:
    async def test() -> None:
        limit, order = ConcurrencyLimit(1, 9, "gpu"), []

        async def work(number: int) -> None:
            await limit.acquire()
            order.append(number)
            limit.release()

        await limit.acquire()
        tasks = [asyncio.create_task(work(number)) for number in range(3)]
        await asyncio.sleep(0)
        limit.release()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2]
        assert limit.in_use == 0

    asyncio.run(test())


def test_a_cancelled_wait_returns_its_place_in_the_queue() -> None:
    async def test() -> None:
        limit = ConcurrencyLimit(1, 1, "gpu")
        await limit.acquire()
        queued = asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        limit.check_capacity()
        assert limit.in_use == 1
        limit.release()
        assert not limit.is_busy

    asyncio.run(test())
