"""Track all in-flight responses in this process.

A single ticker drives their timeouts and lease renewals, so no response needs its own timer. Also used to drain them
on shutdown.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import EngineError, Overloaded, ServiceError, internal_error

log = logging.getLogger(__name__)

#: Interval between ticks of one response.
TICK_S = 0.5
#: Tick responses in this many groups per TICK_S, so that a new request never waits behind thousands of ticks.
TICK_GROUPS = 10
#: Maximum age of the last checkpoint. Output produced since is the operator's loss if the process dies.
CHECKPOINT_EVERY_S = 1.0
#: Send a heartbeat when the caller has received nothing for this long, even if the engine has sent comments.
HEARTBEAT_AFTER_S = 15.0
#: Fill a group up to this size before using the next one, so that checkpoints share a commit.
MIN_GROUP_SIZE = 32


class RunFailure(NamedTuple):
    """What the log says about a response that failed."""

    model: str
    engine: str
    reason: str


class InFlightRun(Protocol):
    """In-flight response, such as a chat or speech run."""

    #: The hold that pays for it.
    hold_id: int

    def tick(self, now_s: float) -> None:
        """Renew the lease and enforce timeouts. Called twice a second."""

    def stop(self, reason: ServiceError) -> None:
        """Cancel the run with this error."""


class Cancellation:
    """Cancellation of one run from other tasks, with the reason. The run's task takes the reason when it is cancelled.

    Two kinds: `cancel` ends the run, `cancel_attempt` only the current attempt, so that the run can fail over to
    another engine. A cancellation of the run replaces one of the attempt that the task has not taken yet.
    """

    # Class attributes as defaults: one per run is made on the hot path, without a call of `__init__`.
    #: The task to cancel; None while the run cannot be cancelled.
    task: asyncio.Task[object] | None = None
    #: Why the task was cancelled; None if it was not.
    reason: ServiceError | None = None
    _ends_run = False
    _cancel_count = 0

    def arm(self) -> None:
        """Allow the run to be cancelled, in the current task. Forget any earlier reason."""
        self.task = asyncio.current_task()
        self.reason, self._ends_run, self._cancel_count = None, False, 0

    def disarm(self) -> None:
        """Ignore further cancellations: the task is about to end."""
        self.task = None

    def cancel(self, reason: ServiceError) -> None:
        """End the run with this error. Only the first call has an effect."""
        if not self._ends_run:
            self._cancel(reason, ends_run=True)

    def cancel_attempt(self, reason: ServiceError) -> None:
        """End the current attempt with this error. Has no effect while another cancellation is pending."""
        if self.reason is None:
            self._cancel(reason, ends_run=False)

    def _cancel(self, reason: ServiceError, *, ends_run: bool) -> None:
        if self.task is not None:
            self.reason, self._ends_run = reason, ends_run
            self._cancel_count += 1
            self.task.cancel()

    def take(self) -> ServiceError | None:
        """Return the reason and mark the task as not cancelled. None if the task was cancelled by something else."""
        reason = self.reason
        if reason is not None and self.task is not None:
            for _ in range(self._cancel_count):
                self.task.uncancel()
            self._cancel_count = 0
            if not self._ends_run:
                self.reason = None
        return reason

    def take_attempt(self) -> ServiceError | None:
        """Do the same as `take`, but only for a cancellation of the attempt; else return None."""
        return None if self._ends_run else self.take()


class StreamOutput(Protocol):
    """The stream of events that a caller receives."""

    #: Set to True by the ticker, and to False by each write.
    is_silent: bool

    def break_silence(self) -> None:
        """Send a heartbeat."""

    def comment(self, text: str) -> None:
        """Send a comment, which clients ignore."""


def break_silence(output: StreamOutput, silent_since_s: float, now_s: float) -> float:
    """Send a heartbeat if the caller has received nothing for HEARTBEAT_AFTER_S. Return the time of the last output."""
    if not output.is_silent:
        output.is_silent = True
        return now_s
    if now_s - silent_since_s < HEARTBEAT_AFTER_S:
        return silent_since_s
    output.break_silence()
    return now_s


class ChargedRun(Protocol):
    """The part of a run that `has_died` needs."""

    name: str
    cancellation: Cancellation

    def finish(self, error: ServiceError | None = None) -> None:
        """Queue the charge for the work done so far."""


def has_died(run: ChargedRun) -> bool:
    """Return True if the task of a run ended without finishing it, after charging for the work done so far.

    Only a bug does that. The ticks of such a run would renew its hold forever, out of reach of every sweep.
    """
    task = run.cancellation.task
    if task is None or not task.done():
        return False
    log.error("%s: its task ended without finishing it; charging the work done so far", run.name)
    run.finish(ServiceError("something went wrong on our side"))
    return True


class CheckpointSchedule:
    """Schedule of a run's checkpoints: at a tick, at most CHECKPOINT_EVERY_S after the last one or the start."""

    __slots__ = ("_last_s",)

    def __init__(self, started_s: float) -> None:
        self._last_s = started_s - TICK_S / 2

    def is_due(self, now_s: float) -> bool:
        """Return True if a checkpoint should be written at this tick.

        Ticks may fire slightly early, so accept the tick closest to the due time.
        """
        if now_s - self._last_s <= CHECKPOINT_EVERY_S - TICK_S / 2:
            return False
        self._last_s = now_s
        return True


class InFlight:
    """Registry of in-flight runs. A run is added when it begins and discarded when it ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Each run, with its tick group.
        self._runs: dict[InFlightRun, set[InFlightRun]] = {}
        self._tick_groups: list[set[InFlightRun]] = [set() for _ in range(TICK_GROUPS)]
        self.draining = False

    def count(self) -> int:
        """Return the number of in-flight runs."""
        return len(self._runs)

    def holds(self) -> set[int]:
        """The ids of the holds that these answers carry. Their checkpoints renew them, so no sweep may recover them."""
        return {run.hold_id for run in self._runs}

    def stop_holds(self, hold_ids: Iterable[int], reason: ServiceError) -> int:
        """End the runs with these holds with an error, and return how many are still in flight."""
        wanted = set(hold_ids)
        found = [run for run in self._runs if run.hold_id in wanted] if wanted else []
        for run in found:
            run.stop(reason)
        return len(found)

    def check_open(self) -> None:
        """Raise Overloaded if the server is shutting down."""
        if self.draining:
            raise Overloaded("the server is restarting; try again", retry_after_s=2)

    def add(self, run: InFlightRun) -> None:
        """Add a run, which is ticked from now on."""
        # Use the first group with room, so that a few runs share a checkpoint commit.
        for group in self._tick_groups:
            if len(group) <= MIN_GROUP_SIZE:
                break
        else:
            group = min(self._tick_groups, key=len)
        group.add(run)
        self._runs[run] = group

    def discard(self, run: InFlightRun) -> bool:
        """Remove a run that has ended, and return True if no other is in flight."""
        group = self._runs.pop(run, None)
        if group is not None:
            group.discard(run)
        return not self._runs

    async def run_ticker(self) -> None:
        """Tick all runs until cancelled."""
        due_s = self._clock.steady_s()
        for group in itertools.cycle(self._tick_groups):
            # Schedule by the clock, so that the duration of ticks does not add up. Missed ticks are not made up for.
            now_s = self._clock.steady_s()
            due_s = max(due_s + TICK_S / TICK_GROUPS, now_s)
            await asyncio.sleep(due_s - now_s)
            self._tick_group(group, self._clock.steady_s())

    def _tick_group(self, group: set[InFlightRun], now_s: float) -> None:
        # Not a loop of the ticker, whose frame would keep the last run alive until another one is ticked.
        for run in list(group):
            try:
                run.tick(now_s)
            except Exception as bug:
                log.exception("%s: its tick failed; ending this response", generation_name(run.hold_id))
                self._end_failed(run, bug)

    def _end_failed(self, run: InFlightRun, bug: Exception) -> None:
        """End a run because of a bug in its tick. All other runs must still be ticked."""
        try:
            run.stop(internal_error(bug))
        except Exception:
            log.exception("%s: it cannot be stopped; its hold will be recovered", generation_name(run.hold_id))
            self.discard(run)

    async def drain(self, timeout_s: float) -> int:
        """Refuse new runs, wait for running ones, then cancel the remaining ones and return how many."""
        self.draining = True
        give_up_s = self._clock.steady_s() + timeout_s
        while self._runs and self._clock.steady_s() < give_up_s:
            await asyncio.sleep(0.05)
        remaining = list(self._runs)
        for run in remaining:
            run.stop(
                EngineError(
                    "the server stopped before the response was complete; the output produced so far is charged"
                )
            )
        while self._runs and self._clock.steady_s() < give_up_s + 2:
            await asyncio.sleep(0.02)
        return len(remaining)
