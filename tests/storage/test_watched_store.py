"""Test what /metrics says about the object store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from minitoolai.core.errors import ObjectMissing, StoreError
from minitoolai.storage.object_store import LocalObjectStore, WatchedObjectStore, object_key


class HangingStore:
    """A store whose operations wait for the test, and then fail."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def put(self, job_id: int, png: bytes) -> str:
        await self.over.wait()
        raise StoreError("it is full")

    async def get(self, key: str) -> bytes:
        raise StoreError("it is away")

    async def delete(self, key: str) -> None:
        raise StoreError("it is read-only")

    async def list_older(self, before_ms: int) -> AsyncIterator[str]:
        if before_ms:
            raise StoreError("it is away")
        yield ""


def test_failures_and_waiting_operations_are_counted() -> None:
    async def work() -> None:
        hanging = HangingStore()
        store = WatchedObjectStore(hanging)
        assert store.oldest_s() == 0
        putting = asyncio.create_task(store.put(1, b"png"))
        await asyncio.sleep(0.05)
        assert 0.04 < store.oldest_s() < 5
        hanging.over.set()
        with pytest.raises(StoreError):
            await putting
        assert store.oldest_s() == 0
        for operation in (store.get("key"), store.delete("key")):
            with pytest.raises(StoreError):
                await operation
        with pytest.raises(StoreError):
            [key async for key in store.list_older(1)]
        assert store.failures == {"put": 1, "get": 1, "delete": 1, "list": 1}

    asyncio.run(work())


def test_a_missing_object_is_no_failure_and_a_cancelled_operation_is_over(tmp_path: Path) -> None:
    async def work() -> None:
        store = WatchedObjectStore(LocalObjectStore(tmp_path))
        key = await store.put(7, b"png")
        assert key == object_key(7, b"png")
        assert await store.get(key) == b"png"
        assert [found async for found in store.list_older(2**60)] == [key]
        await store.delete(key)
        with pytest.raises(ObjectMissing):
            await store.get(key)
        hanging = WatchedObjectStore(HangingStore())
        putting = asyncio.create_task(hanging.put(1, b"png"))
        await asyncio.sleep(0)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        assert hanging.oldest_s() == 0
        assert sum(store.failures.values()) + sum(hanging.failures.values()) == 0

    asyncio.run(work())
