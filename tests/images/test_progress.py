"""Tests of the in-process events of image jobs."""

from __future__ import annotations

import asyncio

from minitoolai.images.progress import JobEvents

JOB, OTHER = 1, 2


def is_set(event: asyncio.Event) -> bool:
    """Return whether the event was set, and clear it."""
    was_set = event.is_set()
    event.clear()
    return was_set


def test_watchers_are_notified_of_begin_steps_and_end() -> None:
    events = JobEvents()
    watcher = events.watch(JOB)
    assert not is_set(watcher)
    events.begin(JOB, lambda: None)
    assert (is_set(watcher), events.step_of(JOB)) == (True, 0)
    events.step(JOB, 3)
    assert (is_set(watcher), events.step_of(JOB)) == (True, 3)
    events.end(JOB)
    assert (is_set(watcher), events.step_of(JOB)) == (True, None)


def test_a_step_of_a_job_that_does_not_run_here_is_ignored() -> None:
    events = JobEvents()
    watcher = events.watch(JOB)
    events.step(JOB, 1)
    assert not is_set(watcher)
    assert events.step_of(JOB) is None


def test_watchers_of_other_jobs_are_not_notified() -> None:
    events = JobEvents()
    watcher, other = events.watch(JOB), events.watch(OTHER)
    events.begin(JOB, lambda: None)
    assert (is_set(watcher), is_set(other)) == (True, False)


def test_all_watchers_of_a_job_are_notified_until_they_unwatch() -> None:
    events = JobEvents()
    first, second = events.watch(JOB), events.watch(JOB)
    events.unwatch(JOB, first)
    events.begin(JOB, lambda: None)
    assert (is_set(first), is_set(second)) == (False, True)
    events.unwatch(JOB, second)
    events.end(JOB)
    assert not is_set(second)


def test_stop_cancels_a_running_job_and_notifies_its_watchers() -> None:
    events, stopped = JobEvents(), []
    watcher = events.watch(JOB)
    events.begin(JOB, lambda: stopped.append(JOB))
    is_set(watcher)
    events.stop(JOB)
    assert (stopped, is_set(watcher)) == ([JOB], True)
    events.end(JOB)
    is_set(watcher)
    events.stop(JOB)
    assert (stopped, is_set(watcher)) == ([JOB], True)


def test_every_claimer_is_notified_of_queued_jobs() -> None:
    events = JobEvents()
    claimers = [events.queued_event() for _ in range(2)]
    assert [is_set(event) for event in claimers] == [False, False]
    events.notify_queued()
    assert [is_set(event) for event in claimers] == [True, True]
