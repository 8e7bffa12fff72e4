"""Publish/subscribe for image jobs within one process: progress, cancellation and new work.

The worker publishes here. Requests that wait for a job subscribe, so they need not poll the database for each step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class JobEvents:
    """Events of the image jobs in this process."""

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}
        self._stops: dict[int, Callable[[], object]] = {}
        self._watchers: dict[int, set[asyncio.Event]] = {}
        self._queued_events: set[asyncio.Event] = set()
        #: Engine → models that processes on this database offered last. Empty if this is the only process.
        self.available_models: dict[str, list[str]] = {}

    # ── published by the worker ───────────────────────────────────────────────────────────────────────────

    def begin(self, job_id: int, stop: Callable[[], object]) -> None:
        """Record that the job runs in this process. `stop` cancels it."""
        self._steps[job_id] = 0
        self._stops[job_id] = stop
        self._notify_watchers(job_id)

    def step(self, job_id: int, step: int) -> None:
        """Record the number of finished steps. A job that does not run here is ignored."""
        if job_id in self._steps:
            self._steps[job_id] = step
            self._notify_watchers(job_id)

    def end(self, job_id: int) -> None:
        """Record that the job no longer runs in this process."""
        self._steps.pop(job_id, None)
        self._stops.pop(job_id, None)
        self._notify_watchers(job_id)

    def notify_queued(self) -> None:
        """Wake all claimers: a job was queued, or an engine has room for one."""
        for event in self._queued_events:
            event.set()

    # ── used by requests ──────────────────────────────────────────────────────────────────────────────────

    def stop(self, job_id: int) -> None:
        """Cancel the job if it runs in this process, and notify its watchers."""
        if (stop := self._stops.get(job_id)) is not None:
            stop()
        self._notify_watchers(job_id)

    def step_of(self, job_id: int) -> int | None:
        """Return the number of finished steps, or None if the job does not run in this process."""
        return self._steps.get(job_id)

    def watch(self, job_id: int) -> asyncio.Event:
        """Return an event that is set at every change of the job, until `unwatch`."""
        event = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(event)
        return event

    def unwatch(self, job_id: int, event: asyncio.Event) -> None:
        """Cancel the subscription that `watch` returned."""
        events = self._watchers[job_id]
        events.discard(event)
        if not events:
            del self._watchers[job_id]

    def queued_event(self) -> asyncio.Event:
        """Return an event that `notify_queued` sets. It stays subscribed for the life of the process."""
        event = asyncio.Event()
        self._queued_events.add(event)
        return event

    def _notify_watchers(self, job_id: int) -> None:
        for event in self._watchers.get(job_id, ()):
            event.set()
