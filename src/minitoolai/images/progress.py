"""What this process knows of jobs before the rows do: how far each is drawn here, and who wants to hear of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Listener = Callable[[], None]


class JobEvents:
    """One for a process: the worker writes on it, those who watch a job read it."""

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}
        self._stops: dict[int, Callable[[], object]] = {}
        self._watchers: dict[int, set[asyncio.Event]] = {}
        self._workers: set[asyncio.Event] = set()
        #: What processes on this database can draw, as last heard: engine → models. Empty where this one is alone.
        self.offers: dict[str, list[str]] = {}

    # ── drawing ───────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, job_id: int, stop: Callable[[], object]) -> None:
        """The job is drawn here from now on; `stop` breaks it off."""
        self._steps[job_id] = 0
        self._stops[job_id] = stop
        self.changed(job_id)

    def step(self, job_id: int, step: int) -> None:
        """It has come along."""
        if job_id in self._steps:
            self._steps[job_id] = step
            self.changed(job_id)

    def end(self, job_id: int) -> None:
        """It is drawn here no more."""
        self._steps.pop(job_id, None)
        self._stops.pop(job_id, None)
        self.changed(job_id)

    def stop(self, job_id: int) -> None:
        """Somebody cancelled it: break off where it is drawn here, and tell whoever watches."""
        if (stop := self._stops.get(job_id)) is not None:
            stop()
        self.changed(job_id)

    def step_of(self, job_id: int) -> int | None:
        """Steps done, or None where the job is not drawn here."""
        return self._steps.get(job_id)

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────

    def changed(self, job_id: int) -> None:
        """Wake whoever watches the job."""
        for event in self._watchers.get(job_id, ()):
            event.set()

    def watch(self, job_id: int) -> asyncio.Event:
        """An event that is set at every change, until `unwatch`."""
        event = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(event)
        return event

    def unwatch(self, job_id: int, event: asyncio.Event) -> None:
        """Nobody waits for it any more."""
        events = self._watchers[job_id]
        events.discard(event)
        if not events:
            del self._watchers[job_id]

    def notify_queued(self) -> None:
        """Something waits in the queue, or there is room for it: wake those who draw."""
        for event in self._workers:
            event.set()

    def wakes(self) -> asyncio.Event:
        """An event that `new_work` sets, for as long as this process lives."""
        event = asyncio.Event()
        self._workers.add(event)
        return event
