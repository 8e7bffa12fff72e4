"""The group-commit writer: one thread, one connection, one COMMIT for everything that waits.

A refusal is a verdict, not an error, so one poor account cannot fail a batch. An unexpected error rolls the batch
back and replays it one by one. The queue is bounded for holds and never for settles. While a server of PostgreSQL is
away, holds are refused and what is owed is kept.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from minitoolai.core.errors import CommitInDoubt, ConnectionLost, Overloaded, StoreError
from minitoolai.core.meters import Histogram
from minitoolai.ledger.types import Checkpoint, Credited, Operation, PlaceHold, Result, Reversed, Settled
from minitoolai.storage import ledger
from minitoolai.storage.database import Connection, Database

# (merged from tickets) What waits for the writer: each thing to write with whom to tell, how they are told, and what is counted.

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOOK_US = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000)

Change = Callable[[Connection], Any]


class PendingWrite(msgspec.Struct, eq=False):
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
    answer: Any = None
    failure: BaseException | None = None
    is_over: bool = False

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


def without_old_checkpoints(owed: list[PendingWrite]) -> list[PendingWrite]:
    """Of each hold's checkpoints only the last: a long outage would pile up one a second for each answer."""
    last = {o.hold_id: o for ticket in owed if isinstance(o := ticket.operation, Checkpoint)}
    return [t for t in owed if not isinstance(t.operation, Checkpoint) or last[t.operation.hold_id] is t.operation]


def wake_callers(batch: Sequence[PendingWrite]) -> None:
    """One wake-up of each event loop, however many of its callers wait."""
    loops: dict[asyncio.AbstractEventLoop, list[PendingWrite]] = {}
    for ticket in batch:
        if ticket.future is not None and ticket.is_over:
            loops.setdefault(ticket.future.get_loop(), []).append(ticket)
    for loop, tickets in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, tickets)
        except RuntimeError:
            # The loop is closed: nobody is left to tell, and what was written stays written.
            log.debug("%d callers were gone before their answer", len(tickets))


def _resolve(tickets: list[PendingWrite]) -> None:
    for ticket in tickets:
        future = ticket.future
        if future is None or future.done():
            continue
        if ticket.failure is not None:
            future.set_exception(ticket.failure)
        else:
            future.set_result(ticket.answer)


LARGEST_BATCH = 512
#: A settle is on nobody's way: it rides with the next hold's commit, or goes after this long.
LINGER_S = 0.010
#: Where the last hold is longer ago than this many times LINGER_S, no hold is likely to come: a settle goes at once.
QUIET = 2
#: Holds that may wait at once; beyond this the answer is 503.
QUEUED_HOLDS = 4096
FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 2.0
#: How long a batch waits for a database that has just gone, before its holds are refused: a restart is shorter.
PATIENCE_S = 2.0


class Writer:
    """Owns the connection that writes. `submit` may be called from any thread and awaits nothing."""

    def __init__(
        self,
        database: Database,
        decide: ledger.Decide,
        *,
        linger_s: float = LINGER_S,
        steady_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._decide = decide
        self._linger_s = linger_s
        #: Seconds that only go forward, and the wait for a database that has just gone; a simulation has its own.
        self._steady_s = steady_s
        self._pause = pause
        self._tickets: deque[PendingWrite] = deque()
        self._lock = threading.Lock()
        #: Held while the thread has nothing to do; a plain lock wakes it with less ado than a condition.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._urgent = 0
        self._is_due = False
        self._has_timer = False
        #: The loop that wakes the thread as its turn ends.
        self._rings_in: asyncio.AbstractEventLoop | None = None
        self._last_hold_s = 0.0
        self._stopping = False
        self._is_away = False
        self._calm_since_s = self._steady_s()
        self._owed: list[PendingWrite] = []
        self._retry_at_s = 0.0
        self._retry_delay_s = FIRST_RETRY_S
        self._thread: threading.Thread | None = None
        self.counts = WriterCounts()

    def start(self) -> None:
        """Open the connection and start the thread. StoreError if the database cannot be opened."""
        connection = self._database.connect()
        self._thread = threading.Thread(target=self._run, args=(connection,), name="writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, then end the thread."""
        with self._lock:
            self._stopping = True
            self._ring()
        if self._thread is not None:
            self._thread.join()

    def healthy_for_s(self) -> float:
        """Seconds since the start, or since the database was last away."""
        return 0.0 if self._is_away else self._steady_s() - self._calm_since_s

    def waiting(self) -> tuple[int, int]:
        """Operations that wait for their commit, and charges that a sick database has put off."""
        return len(self._tickets), len(self._owed)

    def submit(
        self, operation: Operation, *, wait: bool = True, is_last: bool = False
    ) -> asyncio.Future[Result] | None:
        """Queue a ledger operation; the future, if asked for, resolves once it is durable.

        Holds raise Overloaded when too many wait already. Everything else is always taken; `is_last` says that
        nothing else is at work, so that waiting for company is in vain.
        """
        is_hold = isinstance(operation, PlaceHold)
        if is_hold and self._urgent >= QUEUED_HOLDS:
            raise Overloaded("too many requests are waiting for the ledger; try again", retry_after_s=1)
        future = asyncio.get_running_loop().create_future() if wait else None
        self._put(PendingWrite(operation, None, future, is_hold, is_last, not is_hold))
        return future

    async def run(self, change: Change) -> Any:
        """Run a plain function of a connection inside the next transaction; its result once durable.

        Overloaded where the database is away and nothing was written, StoreError where it could not be.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(PendingWrite(None, change, future, urgent=True))
        try:
            return await future
        except CommitInDoubt:
            raise
        except ConnectionLost as error:
            raise Overloaded("the database is away; nothing was written; try again", retry_after_s=2) from error

    def _put(self, ticket: PendingWrite) -> None:
        with self._lock:
            if self._stopping:
                raise Overloaded("the server is stopping; try again", retry_after_s=1)
            self._tickets.append(ticket)
            if ticket.urgent:
                self._urgent += 1
                self._last_hold_s = self._steady_s()
                self._ring_soon()
            elif ticket.last or not self._lingers(ticket) or len(self._tickets) >= LARGEST_BATCH:
                self._is_due = True
                self._ring()

    def _ring_soon(self) -> None:
        """Wake the thread after this turn of the event loop: what the turn brings shares a COMMIT. Under the lock."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._ring()
            return
        # Another loop's turn may be its last.
        if self._rings_in is not loop:
            self._rings_in = loop
            loop.call_soon(self._turn_is_over)

    def _turn_is_over(self) -> None:
        with self._lock:
            self._rings_in = None
            # Where the thread was awake anyhow, it has taken them already.
            if self._urgent:
                self._ring()

    def _ring(self) -> None:
        """Wake the thread; under the lock."""
        if self._bell.locked():
            self._bell.release()

    def _lingers(self, ticket: PendingWrite) -> bool:
        """Let the event loop keep the time of what may wait: waking this thread for it costs more than the SQL."""
        if ticket.future is not None and self._steady_s() - self._last_hold_s > QUIET * self._linger_s:
            return False
        if not self._has_timer:
            try:
                asyncio.get_running_loop().call_later(self._linger_s, self._linger_is_over)
            except RuntimeError:
                return False
            self._has_timer = True
        return True

    def _linger_is_over(self) -> None:
        with self._lock:
            self._has_timer = False
            if self._tickets:
                self._is_due = True
                self._ring()

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, connection: Connection) -> None:
        while batch := self._take():
            self._write_all(connection, batch)
        connection.close()

    def step(self, connection: Connection) -> bool:
        """Do what the thread would do now; False where it would wait. Only where nobody called `start`."""
        with self._lock:
            batch = self._batch() if self._is_pressing() else []
        if batch:
            self._write_all(connection, batch)
        return bool(batch)

    def _write_all(self, connection: Connection, batch: Sequence[PendingWrite]) -> None:
        self.counts.largest_batch = max(self.counts.largest_batch, len(batch))
        for together in self._transactions(batch):
            self._write(connection, together)
            wake_callers(together)

    def _take(self) -> list[PendingWrite]:
        """Whatever waits, at most LARGEST_BATCH; an empty list means: stop."""
        while True:
            with self._lock:
                if self._is_pressing():
                    return self._batch()
            self._bell.acquire(timeout=self._retry_delay_s if self._owed else -1)

    def _batch(self) -> list[PendingWrite]:
        size = min(len(self._tickets), LARGEST_BATCH)
        batch = [self._tickets.popleft() for _ in range(size)]
        self._is_due = bool(self._tickets)
        self._urgent = sum(ticket.urgent for ticket in self._tickets)
        if self._retry_is_due() or self._stopping:
            batch = self._owed + batch
            self._owed = []
        return batch

    def _is_pressing(self) -> bool:
        return self._urgent > 0 or self._is_due or self._stopping or self._retry_is_due()

    def _retry_is_due(self) -> bool:
        return bool(self._owed) and self._steady_s() >= self._retry_at_s

    def _transactions(self, batch: Sequence[PendingWrite]) -> Iterable[Sequence[PendingWrite]]:
        """What may share a COMMIT: alone on the database everything, among others all operations of the ledger.

        They lock accounts in ascending order; a change may lock any row, and behind them that could be a deadlock.
        """
        if not self._database.is_shared:
            return [batch]
        operations = [ticket for ticket in batch if ticket.operation is not None]
        changes = [[ticket] for ticket in batch if ticket.change is not None]
        return [operations, *changes] if operations else changes

    def _write(self, connection: Connection, batch: Sequence[PendingWrite]) -> None:
        """One transaction for all; on any surprise, one for each."""
        try:
            self._commit_patiently(connection, batch)
        except ConnectionLost as error:
            self._put_off(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever it was, each operation is tried alone below
            log.warning("a batch of %d was rolled back and is replayed one by one: %s", len(batch), error)
            self.counts.replays += 1
            for ticket in batch:
                self._write_alone(connection, ticket)
            self._retry_later()
        else:
            self._retry_delay_s = FIRST_RETRY_S

    def _commit_patiently(self, connection: Connection, batch: Sequence[PendingWrite]) -> None:
        """Commit, on a new connection where the old one broke; give up at once where the last batch had to."""
        give_up_s = self._steady_s() + (0.0 if self._is_away or self._stopping else PATIENCE_S)
        delay_s = FIRST_RETRY_S
        while True:
            try:
                self._commit(connection, batch)
            except CommitInDoubt:
                self._is_away = True
                raise
            except ConnectionLost as error:
                self._calm_since_s = self._steady_s()
                if self._steady_s() + delay_s > give_up_s:
                    self._is_away = True
                    raise
                log.warning("%s; trying again", error)
                self._pause(delay_s)
                delay_s *= 2
            else:
                if self._is_away:
                    self._is_away, self._calm_since_s = False, self._steady_s()
                return

    def _put_off(self, batch: Sequence[PendingWrite], error: ConnectionLost) -> None:
        """The database is away: keep what is owed, and tell the others now."""
        self.counts.failures += 1
        for ticket in batch:
            if ticket.owed and not self._stopping:
                ticket.in_doubt = ticket.in_doubt or isinstance(error, CommitInDoubt)
                self._owed.append(ticket)
            else:
                ticket.fail(error)
        self._owed = without_old_checkpoints(self._owed)
        self._retry_later()

    def _retry_later(self) -> None:
        if self._owed:
            log.error("%d charges could not be written and will be tried again", len(self._owed))
            self._retry_at_s = self._steady_s() + self._retry_delay_s
            self._retry_delay_s = min(self._retry_delay_s * 2, LONGEST_RETRY_S)

    def _write_alone(self, connection: Connection, ticket: PendingWrite) -> None:
        """What is owed and meets a sick database waits for the next try; its caller goes on waiting."""
        try:
            self._commit(connection, [ticket])
        except StoreError as error:
            self.counts.failures += 1
            if ticket.owed and not self._stopping:
                self._owed.append(ticket)
            else:
                ticket.fail(error)
        except Exception as error:
            self.counts.failures += 1
            log.exception("an operation failed and was dropped")
            ticket.fail(error)

    def _commit(self, connection: Connection, batch: Sequence[PendingWrite]) -> None:
        operations = [ticket.operation for ticket in batch if ticket.operation is not None]
        began_s = self._steady_s()
        with connection.transaction():
            answers = iter(ledger.apply(connection, operations, self._decide) if operations else ())
            for ticket in batch:
                ticket.answer = ticket.change(connection) if ticket.change else next(answers)
        for ticket in batch:
            ticket.is_over = True
            answer = ticket.answer
            if ticket.in_doubt and isinstance(answer, Settled | Credited | Reversed):
                ticket.answer = answer = msgspec.structs.replace(answer, repeated=False)
            if type(answer) is Settled and answer.shortfall and not answer.repeated:
                self.counts.shortfall += answer.shortfall
        self.counts.wrote(len(batch), int((self._steady_s() - began_s) * 1_000_000))
