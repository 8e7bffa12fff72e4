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
        with pytest.raises(EngineFull, match="the engine is at capacity with 2") as full:
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


def test_slots_are_shared_among_accounts_whatever_their_number_of_requests() -> None:
    async def test() -> None:
        limit, order = ConcurrencyLimit(2, 200, "gpu"), []

        async def work(account: int) -> None:
            await limit.acquire(account)
            order.append(account)
            await asyncio.sleep(0)
            limit.release(account)

        many = [asyncio.create_task(work(1)) for _ in range(100)]
        await asyncio.sleep(0)
        at_work = len(order)
        single, few = asyncio.create_task(work(2)), [asyncio.create_task(work(3)) for _ in range(3)]
        await asyncio.gather(*many, single, *few)
        assert order.index(2) <= at_work + 2
        assert [place for place, account in enumerate(order) if account == 3][-1] <= at_work + 8
        assert limit.in_use == 0

    asyncio.run(test())


def test_equals_take_turns_and_one_account_keeps_its_order() -> None:
    async def test() -> None:
        limit, order = ConcurrencyLimit(1, 99, "gpu"), []

        async def work(account: int, number: int) -> None:
            await limit.acquire(account)
            order.append((account, number))
            limit.release(account)

        await limit.acquire(9)
        tasks = [asyncio.create_task(work(account, number)) for account in (1, 2, 3) for number in range(2)]
        await asyncio.sleep(0)
        limit.release(9)
        await asyncio.gather(*tasks)
        assert order == [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1)]

    asyncio.run(test())


def test_a_request_cancelled_when_it_gets_its_slot_passes_it_on() -> None:
    async def test() -> None:
        limit = ConcurrencyLimit(1, 9, "gpu")
        await limit.acquire(1)
        first, second = asyncio.create_task(limit.acquire(2)), asyncio.create_task(limit.acquire(3))
        await asyncio.sleep(0)
        limit.release(1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.wait_for(second, 1)
        limit.release(3)
        assert limit.in_use == 0
        await asyncio.wait_for(limit.acquire(1), 1)

    asyncio.run(test())


def test_the_place_in_the_queue_counts_the_turns_of_all_accounts() -> None:
    async def test() -> None:
        limit, places = ConcurrencyLimit(1, 99, "gpu"), {}

        def enqueue(account: int, number: int) -> asyncio.Task[None]:
            return asyncio.create_task(
                limit.acquire(account, lambda place: places.__setitem__((account, number), place))
            )

        await limit.acquire(9)
        tasks = [enqueue(1, number) for number in range(3)] + [enqueue(2, 0)]
        await asyncio.sleep(0)
        assert {name: place() for name, place in places.items()} == {(1, 0): 1, (2, 0): 2, (1, 1): 3, (1, 2): 4}
        limit.release(9)
        await tasks[0]
        assert [places[name]() for name in ((2, 0), (1, 1), (1, 2))] == [1, 2, 3]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The place of a request that no longer waits is no error.
        assert places[1, 2]() == 1

    asyncio.run(test())


def test_a_limit_that_shrinks_takes_back_its_slots_as_they_are_released() -> None:
    async def test() -> None:
        limit = ConcurrencyLimit(4, 2, "gpu")
        for _ in range(3):
            await limit.acquire()
        limit.resize(2)
        waiting = asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)
        limit.release()
        await asyncio.sleep(0)
        assert not waiting.done()
        limit.release()
        await asyncio.wait_for(waiting, 1)
        limit.release()
        limit.release()
        limit.resize(3)
        for _ in range(3):
            await asyncio.wait_for(limit.acquire(), 1)
        assert limit.is_busy

    asyncio.run(test())


def test_a_slot_that_is_released_while_a_waiting_request_is_cancelled_is_not_lost() -> None:
    """A cancelled task learns of it in the next turn of the loop; until then, its request is still in the queue."""

    async def test() -> None:
        limit = ConcurrencyLimit(1, 3, "gpu")
        await limit.acquire(1)
        tasks = [asyncio.create_task(limit.acquire(account)) for account in (1, 1, 2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        limit.release(1)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, type(None), asyncio.CancelledError]
        assert limit.in_use == 1
        limit.release(1)
        await asyncio.wait_for(limit.acquire(3), 1)
        assert limit.in_use == 1

    asyncio.run(test())
