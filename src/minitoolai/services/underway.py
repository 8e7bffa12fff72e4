"""All answers under way in this process, of every kind: one ticker for their clocks, one place that ends them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from minitoolai.core.clock import Clock
from minitoolai.core.errors import EngineError, Overloaded, ServiceError

TICK_S = 0.5


class Run(Protocol):
    """An answer under way."""

    def tick(self, now_s: float) -> None:
        """Called twice a second: renew the lease, enforce the time-outs."""

    def stop(self, reason: ServiceError) -> None:
        """Break off from outside."""


class Underway:
    """Who begins an answer adds it here; who ends it takes it away."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._runs: set[Run] = set()
        self.draining = False

    def count(self) -> int:
        """How many there are."""
        return len(self._runs)

    def check_open(self) -> None:
        """Overloaded once the server is about to stop."""
        if self.draining:
            raise Overloaded("the server is restarting; try again", retry_after_s=2)

    def add(self, run: Run) -> None:
        """From now on the run is ticked."""
        self._runs.add(run)

    def discard(self, run: Run) -> None:
        """The run has ended."""
        self._runs.discard(run)

    async def keep_time(self) -> None:
        """Drive the clocks of all answers until cancelled: one task for all of them, no timer for each."""
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._clock.steady_s()
            for run in list(self._runs):
                run.tick(now_s)

    async def drain(self, timeout_s: float) -> int:
        """Take no more, let what runs finish, break off the rest; how many were broken off."""
        self.draining = True
        give_up_s = self._clock.steady_s() + timeout_s
        while self._runs and self._clock.steady_s() < give_up_s:
            await asyncio.sleep(0.05)
        left = list(self._runs)
        for run in left:
            run.stop(EngineError("the server stopped before the answer ended; what was written is charged"))
        while self._runs and self._clock.steady_s() < give_up_s + 2:
            await asyncio.sleep(0.02)
        return len(left)
