"""Limit how many requests an engine handles concurrently and how many wait in its queue."""

from __future__ import annotations

import asyncio

from minitoolai.core.errors import EngineFull


class ConcurrencyLimit:
    """A bounded number of requests at work and a bounded queue. Further requests are refused without waiting."""

    def __init__(self, max_running: int, max_queued: int, name: str) -> None:
        self._semaphore = asyncio.Semaphore(max_running)
        self._max_running = max_running
        self._max_total = max_running + max_queued
        self._name = name
        #: Requests at work and in the queue.
        self.in_use = 0

    @property
    def is_busy(self) -> bool:
        """Return True if the next request would have to wait in the queue."""
        return self.in_use >= self._max_running

    def check_capacity(self) -> None:
        """Raise EngineFull if the queue is full."""
        if self.in_use >= self._max_total:
            raise EngineFull(
                f"{self._name} is at capacity with {self.in_use} running and queued requests; retry in a moment",
                retry_after_s=2,
            )

    async def acquire(self) -> None:
        """Wait for a slot in order of arrival. Raises EngineFull."""
        self.check_capacity()
        self.in_use += 1
        try:
            await self._semaphore.acquire()
        except BaseException:
            self.in_use -= 1
            raise

    def release(self) -> None:
        """Return a slot, which goes to the first request in the queue."""
        self.in_use -= 1
        self._semaphore.release()
