"""Limit how many requests an engine handles concurrently and how many wait, and share its slots among accounts."""

from __future__ import annotations

import asyncio
from collections import deque

from minitoolai.core.errors import EngineFull


class ConcurrencyLimit:
    """A bounded number of requests at work and a bounded queue. Further requests are refused without waiting.

    A free slot goes to the waiting account with the fewest requests at work (max-min fairness), in turn among equals,
    and to the requests of one account in order of arrival. So one account's hundred requests delay another's single one
    by at most one of them per slot.
    """

    def __init__(self, max_running: int, max_queued: int, name: str) -> None:
        self._free = max_running
        self._max_running = max_running
        self._max_total = max_running + max_queued
        self._name = name
        #: Requests at work by account; accounts without any are left out.
        self._running: dict[int, int] = {}
        #: Waiting requests by account, in the order of the accounts' turns.
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}
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

    async def acquire(self, account_id: int = 0) -> None:
        """Wait for a slot. Raises EngineFull."""
        self.check_capacity()
        self.in_use += 1
        if self._free:
            self._start(account_id)
            return
        turn = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(account_id, deque())
        queue.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                # It was cancelled in the moment in which it got its slot.
                self.release(account_id)
            else:
                queue.remove(turn)
                if not queue:
                    del self._waiting[account_id]
                self.in_use -= 1
            raise

    def release(self, account_id: int = 0) -> None:
        """Return the slot of a request of this account, which goes to the next in the queue."""
        self.in_use -= 1
        self._free += 1
        left = self._running[account_id] - 1
        if left:
            self._running[account_id] = left
        else:
            del self._running[account_id]
        if not self._waiting:
            return
        following = min(self._waiting, key=lambda account: self._running.get(account, 0))
        queue = self._waiting.pop(following)
        turn = queue.popleft()
        if queue:
            # The account goes to the end, so that equals take turns.
            self._waiting[following] = queue
        self._start(following)
        turn.set_result(None)

    def _start(self, account_id: int) -> None:
        self._free -= 1
        self._running[account_id] = self._running.get(account_id, 0) + 1
