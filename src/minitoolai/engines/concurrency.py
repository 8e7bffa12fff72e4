"""Limit how many requests an engine handles concurrently and how many wait, and share its slots among accounts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.errors import EngineFull


class Load(NamedTuple):
    """Slots of an engine and places in its queue: taken, and in all."""

    running: int
    slots: int
    waiting: int
    places: int


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
    def load(self) -> Load:
        """Return how many requests are at work and in the queue, of how many."""
        running = sum(self._running.values())
        return Load(running, self._max_running, self.in_use - running, self._max_total - self._max_running)

    @property
    def is_busy(self) -> bool:
        """Return True if the next request would have to wait in the queue."""
        return self.in_use >= self._max_running

    def check_capacity(self) -> None:
        """Raise EngineFull if the queue is full."""
        if self.in_use >= self._max_total:
            raise EngineFull(
                f"{THE_ENGINE} is at capacity with {self.in_use} running and queued requests; retry in a moment",
                retry_after_s=2,
            )

    def resize(self, max_running: int) -> None:
        """Change the number of slots, before the first release. Requests that have a slot keep it."""
        added = max_running - self._max_running
        self._free += added
        self._max_running += added
        self._max_total += added

    async def acquire(self, account_id: int = 0, on_wait: Callable[[Callable[[], int]], None] | None = None) -> None:
        """Wait for a slot. Raises EngineFull.

        If the request has to wait, `on_wait` receives a function that returns its place in the queue.
        """
        self.check_capacity()
        self.in_use += 1
        if self._free > 0:
            self._start(account_id)
            return
        turn = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(account_id, deque())
        queue.append(turn)
        if on_wait is not None:
            on_wait(lambda: self._place(account_id, turn))
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                # It was cancelled in the moment in which it got its slot.
                self.release(account_id)
            else:
                self._leave_queue(account_id, turn)
                self.in_use -= 1
            raise

    def _leave_queue(self, account_id: int, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(account_id)
        # A release may have removed it already, between the cancellation of its task and now.
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[account_id]

    def release(self, account_id: int = 0) -> None:
        """Return the slot of a request of this account, which goes to the next in the queue."""
        self.in_use -= 1
        self._free += 1
        left = self._running[account_id] - 1
        if left:
            self._running[account_id] = left
        else:
            del self._running[account_id]
        while self._waiting and self._free > 0:
            following = min(self._waiting, key=lambda account: self._running.get(account, 0))
            queue = self._waiting.pop(following)
            turn = queue.popleft()
            if queue:
                # The account goes to the end, so that equals take turns.
                self._waiting[following] = queue
            # The task of a cancelled turn has been cancelled, but does not know it yet.
            if not turn.cancelled():
                self._start(following)
                turn.set_result(None)

    def _place(self, account_id: int, turn: asyncio.Future[None]) -> int:
        """Return the place of a waiting request, from 1, if no other request came: accounts take turns."""
        queue = self._waiting.get(account_id, deque())
        if turn not in queue:
            return 1
        ahead, is_earlier = queue.index(turn), True
        place = ahead + 1
        for account, others in self._waiting.items():
            if account == account_id:
                is_earlier = False
            else:
                place += min(len(others), ahead + is_earlier)
        return place

    def _start(self, account_id: int) -> None:
        self._free -= 1
        self._running[account_id] = self._running.get(account_id, 0) + 1
