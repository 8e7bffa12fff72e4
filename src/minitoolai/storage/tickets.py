"""What waits for the writer: each thing to write with whom to tell, how they are told, and what is counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from minitoolai.core.books import Checkpoint, Operation, Settled, Unknown, Verdict
from minitoolai.core.measures import Histogram
from minitoolai.storage.database import Connection

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOOK_US = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000)

Change = Callable[[Connection], Any]


class Watch(NamedTuple):
    """Called on the event loop when a checkpoint was not written, because its hold is settled or unknown."""

    loop: asyncio.AbstractEventLoop
    on_lost: Callable[[Verdict], None]


class Ticket(msgspec.Struct, eq=False):
    """One thing to write, and whom to tell. Exactly one of `operation` and `change` is set."""

    operation: Operation | None
    change: Change | None
    future: asyncio.Future[Any] | None
    urgent: bool
    #: No other hold is likely to come that it could ride with.
    last: bool = False
    #: Money owed is written however long it takes; anything else is told of the failure.
    owed: bool = False
    #: Its COMMIT may have happened although nobody was told: finding it written is then no repeat.
    in_doubt: bool = False
    #: Instead of a future, for a checkpoint: nearly all are renewed, and then no event loop is woken.
    watch: Watch | None = None
    answer: Any = None
    failure: BaseException | None = None
    is_over: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether it was judged, and its hold is settled or unknown. An answer before a rollback does not count."""
        return self.is_over and self.failure is None and isinstance(self.answer, Settled | Unknown)

    def fail(self, error: BaseException) -> None:
        self.failure = error
        self.is_over = True


@dataclass(slots=True)
class WriterCounts:
    """What the writer has done, for metrics and tests."""

    commits: int = 0
    operations: int = 0
    replays: int = 0
    failures: int = 0
    largest_batch: int = 0
    #: Nano-dollars of work beyond what its hold could pay: the house's loss.
    shortfall: int = 0
    #: Operations a commit, and microseconds from its BEGIN to its COMMIT.
    sizes: Histogram = field(default_factory=lambda: Histogram(*SIZES))
    took: Histogram = field(default_factory=lambda: Histogram(*TOOK_US))

    def wrote(self, size: int, took_us: int) -> None:
        """A COMMIT of so many operations."""
        self.commits += 1
        self.operations += size
        self.sizes.add(size)
        self.took.add(took_us)


def without_old_checkpoints(owed: list[Ticket]) -> list[Ticket]:
    """Of each hold's checkpoints only the last: a long outage would pile up one a second for each answer."""
    last = {o.hold_id: o for ticket in owed if isinstance(o := ticket.operation, Checkpoint)}
    return [t for t in owed if not isinstance(t.operation, Checkpoint) or last[t.operation.hold_id] is t.operation]


def wake_callers(batch: Sequence[Ticket]) -> None:
    """One wake-up of each event loop, however many of its callers wait."""
    loops: dict[asyncio.AbstractEventLoop, list[Ticket]] = {}
    for ticket in batch:
        if ticket.future is not None and ticket.is_over:
            loops.setdefault(ticket.future.get_loop(), []).append(ticket)
        elif ticket.watch is not None and ticket.is_lost:
            _call_soon(ticket.watch.loop, ticket.watch.on_lost, ticket.answer)
    for loop, tickets in loops.items():
        _call_soon(loop, _resolve, tickets)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[Any], None], argument: Any) -> None:
    try:
        loop.call_soon_threadsafe(callback, argument)
    except RuntimeError:
        # The loop is closed: no caller is left, and what was written stays written.
        log.debug("an event loop was closed before its callers got their answers")


def _resolve(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        future = ticket.future
        if future is None or future.done():
            continue
        if ticket.failure is not None:
            future.set_exception(ticket.failure)
        else:
            future.set_result(ticket.answer)
