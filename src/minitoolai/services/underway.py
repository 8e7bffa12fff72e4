"""All answers under way in this process, of every kind: one ticker for their clocks, one place that ends them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Protocol

from minitoolai.core.clock import Clock
from minitoolai.core.errors import EngineError, Overloaded, ServiceError
from minitoolai.services.charging import Reservation

log = logging.getLogger(__name__)

#: How often each answer is ticked.
TICK_S = 0.5
#: Not all in one go, or a new request would wait for two thousand: in so many turns, evenly over TICK_S.
TURNS = 10
#: How long an answer's last checkpoint may be ago: what came since is the house's loss should the process die.
CHECKPOINT_EVERY_S = 1.0
#: A few answers share a turn all the same, so that their checkpoints share a commit.
FEW = 32


class Run(Protocol):
    """An answer under way."""

    reservation: Reservation

    def tick(self, now_s: float) -> None:
        """Called twice a second: renew the lease, enforce the time-outs."""

    def stop(self, reason: ServiceError) -> None:
        """Break off from outside."""


class Paid(Protocol):
    """What `has_died` looks at."""

    name: str
    task: asyncio.Task[object] | None

    def finish(self, error: ServiceError | None = None) -> None:
        """Queue the charge for what was done so far."""


def has_died(run: Paid) -> bool:
    """Return True if the task of a run ended without finishing it, after charging for what was done so far.

    Only a bug does that. The ticks of such a run would renew its hold forever, out of reach of every sweep.
    """
    if run.task is None or not run.task.done():
        return False
    log.error("%s: its task ended without finishing it; charging what was done so far", run.name)
    run.finish(ServiceError("something went wrong on our side"))
    return True


class Checkpoints:
    """When an answer's next one is due: at a tick, at most CHECKPOINT_EVERY_S after the last or the start."""

    __slots__ = ("_last_s",)

    def __init__(self, started_s: float) -> None:
        self._last_s = started_s - TICK_S / 2

    def is_due(self, now_s: float) -> bool:
        """Asked at each tick; True for the one that is nearest: a tick that is early by a moment leaves none out."""
        if now_s - self._last_s <= CHECKPOINT_EVERY_S - TICK_S / 2:
            return False
        self._last_s = now_s
        return True


class Underway:
    """Who begins an answer adds it here; who ends it takes it away."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Each answer under way, with the turn it is in.
        self._runs: dict[Run, set[Run]] = {}
        self._turns: list[set[Run]] = [set() for _ in range(TURNS)]
        self.draining = False

    def count(self) -> int:
        """How many there are."""
        return len(self._runs)

    def holds(self) -> set[int]:
        """The ids of the holds that these answers carry. Their checkpoints renew them, so no sweep may recover them."""
        return {run.reservation.hold_id for run in self._runs}

    def check_open(self) -> None:
        """Overloaded once the server is about to stop."""
        if self.draining:
            raise Overloaded("the server is restarting; try again", retry_after_s=2)

    def add(self, run: Run) -> None:
        """From now on the run is ticked."""
        # Mostly it is the first.
        for turn in self._turns:
            if len(turn) <= FEW:
                break
        else:
            turn = min(self._turns, key=len)
        turn.add(run)
        self._runs[run] = turn

    def discard(self, run: Run) -> bool:
        """The run has ended; True where no other is under way."""
        turn = self._runs.pop(run, None)
        if turn is not None:
            turn.discard(run)
        return not self._runs

    async def keep_time(self) -> None:
        """Drive the clocks of all answers until cancelled: one task for all of them, no timer for each."""
        due_s = self._clock.steady_s()
        for turn in itertools.cycle(self._turns):
            # By the clock, or every pass would be late by what the one before took; a pause is not caught up with.
            now_s = self._clock.steady_s()
            due_s = max(due_s + TICK_S / TURNS, now_s)
            await asyncio.sleep(due_s - now_s)
            now_s = self._clock.steady_s()
            for run in list(turn):
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
