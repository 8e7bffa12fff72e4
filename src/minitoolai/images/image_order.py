"""Who is drawn next, and beside whom: a pure choice among the jobs that wait.

The queue's order is fair between accounts. Against it stand the model in memory and the batch under way, for which
whoever fits is preferred; but nobody at the head of the queue is passed over for longer than PATIENCE_S.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from minitoolai.storage.jobs import ClaimedJob, WaitingJob

#: A job that has failed this often is drawn alone: it may have been its neighbours' fault, or they its victims.
SUSPECT_FAILURES = 2
PATIENCE_S = 2.0
#: With nothing under way, the model in memory is preferred to the head's by so many turns.
RESIDENT_TURNS = 2

KeyOf = Callable[[WaitingJob], str]


def is_suspect(job: WaitingJob | ClaimedJob) -> bool:
    """Only alone will it show who is at fault."""
    return job.failures >= SUSPECT_FAILURES


def choose(
    waiting: Sequence[WaitingJob],
    key_of: KeyOf,
    *,
    drawing: Collection[str],
    is_alone: bool,
    resident: str | None,
    free: int,
    passed_over_s: float,
) -> list[WaitingJob]:
    """Up to `free` jobs to begin now, of `waiting` in the queue's order.

    `drawing` are the batch keys under way, `is_alone` says that a suspect is; `resident` is the key drawn last;
    `passed_over_s` is how long the head of the queue has seen others go first.
    """
    if not waiting or free <= 0 or is_alone:
        return []
    head, is_impatient = waiting[0], passed_over_s >= PATIENCE_S
    if drawing:
        # Room beside what is under way: for whoever fits, until the head has waited enough.
        is_blocked = is_suspect(head) or key_of(head) not in drawing
        if is_blocked and is_impatient:
            return []
        return [job for job in waiting if key_of(job) in drawing and not is_suspect(job)][:free]
    if is_suspect(head):
        return [head]
    key = key_of(head)
    near = (job for job in waiting if job.turn <= head.turn + RESIDENT_TURNS and not is_suspect(job))
    if not is_impatient and resident is not None and any(key_of(job) == resident for job in near):
        key = resident
    return [job for job in waiting if key_of(job) == key and not is_suspect(job)][:free]


class Passing:
    """How long the head of the queue has been passed over, as far as this process has seen."""

    def __init__(self) -> None:
        self._head: int | None = None
        self._since_s = 0.0

    def look(self, waiting: Sequence[WaitingJob], now_s: float) -> float:
        """Seconds since this head became it."""
        head = waiting[0].id if waiting else None
        if head != self._head:
            self._head, self._since_s = head, now_s
        return now_s - self._since_s
