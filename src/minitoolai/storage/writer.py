"""Group-commit writer: one thread and one connection that commit everything queued in a single transaction.

A refusal by the ledger is a result, not an error, so one account without money cannot fail a batch. An unexpected error
rolls the batch back and replays it one by one. The queue is bounded for holds, but never for charges. While a
PostgreSQL server is unavailable, holds are refused, and charges are kept and retried with exponential backoff.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from minitoolai.core.errors import CommitInDoubt, ConnectionLost, Overloaded, StoreError
from minitoolai.core.telemetry.meters import Histogram
from minitoolai.ledger.types import (
    Checkpoint,
    Credited,
    Operation,
    PlaceHold,
    Recover,
    Refunded,
    Result,
    Reversed,
    Settle,
    Settled,
    UnknownAccountOrHold,
)
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import late_results, ledger

log = logging.getLogger(__name__)

#: Histogram buckets: operations per commit, and microseconds per commit.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOOK_US = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000)

WriteFunction = Callable[[Connection], Any]
#: Called on the event loop with a settle and its result.
OnLate = Callable[[Any, Result], None]


class Watch(NamedTuple):
    """Called on the event loop when a checkpoint was not written, because its hold is settled or unknown."""

    loop: asyncio.AbstractEventLoop
    on_lost: Callable[[Result], None]


class PendingWrite(msgspec.Struct, eq=False):
    """One queued write and the future of its caller. Exactly one of `operation` and `change` is set."""

    operation: Operation | None
    change: WriteFunction | None
    future: asyncio.Future[Any] | None
    urgent: bool
    #: No other request is in flight, so no hold is expected that could share its commit.
    last: bool = False
    #: Retry until it is written, however long that takes. All other writes report the failure.
    must_succeed: bool = False
    #: Its COMMIT may have succeeded without a response: finding it already written is then not a repetition.
    in_doubt: bool = False
    #: Instead of a future, for a checkpoint: nearly all are renewed, and then no event loop is woken.
    watch: Watch | None = None
    #: Called with the operation and its result if the future was done before: its caller had stopped waiting.
    on_late: OnLate | None = None
    #: A change that is committed before the ledger operations of its batch, so that a charge never comes without it.
    first: bool = False
    result: Any = None
    failure: BaseException | None = None
    is_done: bool = False

    @property
    def is_lost(self) -> bool:
        """Return True if it was decided and its hold is settled or unknown, unless it was rolled back."""
        return self.is_done and self.failure is None and isinstance(self.result, Settled | UnknownAccountOrHold)

    def fail(self, error: BaseException) -> None:
        self.failure = error
        self.is_done = True


@dataclass(slots=True)
class WriterCounts:
    """Counters of the writer, for metrics and tests."""

    commits: int = 0
    operations: int = 0
    replays: int = 0
    failures: int = 0
    largest_batch: int = 0
    #: Nano-dollars of work that its hold could not pay for: the operator's loss.
    shortfall: int = 0
    #: Operations per commit, and microseconds from BEGIN to the end of COMMIT.
    sizes: Histogram = field(default_factory=lambda: Histogram(*SIZES))
    took: Histogram = field(default_factory=lambda: Histogram(*TOOK_US))

    def record_commit(self, size: int, took_us: int) -> None:
        """Count one commit."""
        self.commits += 1
        self.operations += size
        self.sizes.add(size)
        self.took.add(took_us)


def drop_superseded_checkpoints(writes: list[PendingWrite]) -> list[PendingWrite]:
    """Keep only the last checkpoint of each hold. In a long outage each response adds one per second."""
    last = {o.hold_id: o for pending in writes if isinstance(o := pending.operation, Checkpoint)}
    return [t for t in writes if not isinstance(t.operation, Checkpoint) or last[t.operation.hold_id] is t.operation]


def wake_callers(batch: Sequence[PendingWrite]) -> None:
    """Resolve the futures of a batch, with one wake-up per event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[PendingWrite]] = {}
    for pending in batch:
        if pending.future is not None and pending.is_done:
            loops.setdefault(pending.future.get_loop(), []).append(pending)
        elif pending.watch is not None and pending.is_lost:
            _call_soon(pending.watch.loop, pending.watch.on_lost, pending.result)
    for loop, waiting in loops.items():
        _call_soon(loop, _resolve, waiting)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[Any], None], argument: Any) -> None:
    try:
        loop.call_soon_threadsafe(callback, argument)
    except RuntimeError:
        # The event loop is closed, so no caller is left. The writes stay committed.
        log.debug("event loop closed before results were delivered")


def _resolve(waiting: list[PendingWrite]) -> None:
    for pending in waiting:
        future = pending.future
        if future is None:
            continue
        if future.done():
            if pending.on_late is not None and pending.failure is None:
                pending.on_late(pending.operation, pending.result)
            continue
        if pending.failure is not None:
            future.set_exception(pending.failure)
        else:
            future.set_result(pending.result)


MAX_BATCH = 512
#: A settle shares the commit of the next hold, or is written after this delay (decision 0007).
SETTLE_DELAY_S = 0.010
#: Write a settle without delay if the last hold is longer ago than this many times SETTLE_DELAY_S.
IDLE_FACTOR = 2
#: Maximum number of queued holds. Further ones raise Overloaded (503).
MAX_QUEUED_HOLDS = 4096
FIRST_RETRY_S = 0.05
MAX_RETRY_S = 2.0
#: How long a batch waits for a database that became unavailable before its holds are refused. A restart is shorter.
RECONNECT_WINDOW_S = 2.0


class Writer:
    """Owner of the connection that writes. `submit` may be called from any thread and never blocks."""

    def __init__(
        self,
        database: Database,
        decide: ledger.Decide,
        *,
        settle_delay_s: float = SETTLE_DELAY_S,
        steady_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._decide = decide
        self._settle_delay_s = settle_delay_s
        #: Monotonic clock, and the sleep between reconnects. Simulations replace both.
        self._steady_s = steady_s
        self._pause = pause
        self._queue: deque[PendingWrite] = deque()
        self._lock = threading.Lock()
        #: Held while the thread is idle. A plain lock wakes a thread faster than a Condition.
        self._wakeup = threading.Lock()
        self._wakeup.acquire()
        self._urgent = 0
        self._is_due = False
        self._has_timer = False
        #: Event loop that will wake the thread at the end of its current turn.
        self._waking_loop: asyncio.AbstractEventLoop | None = None
        self._last_hold_s = 0.0
        self._stopping = False
        self._is_unavailable = False
        self._healthy_since_s = self._steady_s()
        self._deferred: list[PendingWrite] = []
        self._retry_at_s = 0.0
        self._retry_delay_s = FIRST_RETRY_S
        self._thread: threading.Thread | None = None
        #: Receives the results of settles that came too late for their callers.
        self.on_late: OnLate | None = None
        self.counts = WriterCounts()

    def start(self) -> None:
        """Open the connection and start the thread. Raise StoreError if the database cannot be opened."""
        connection = self._database.connect()
        self._thread = threading.Thread(target=self._run, args=(connection,), name="writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write everything queued, then end the thread."""
        with self._lock:
            self._stopping = True
            self._wake()
        if self._thread is not None:
            self._thread.join()

    def healthy_for_s(self) -> float:
        """Return the seconds since the start, or since the database was last unavailable."""
        return 0.0 if self._is_unavailable else self._steady_s() - self._healthy_since_s

    def backlog(self) -> tuple[int, int]:
        """Return the number of queued writes and of charges that are deferred until the database recovers."""
        return len(self._queue), len(self._deferred)

    def submit(
        self, operation: Operation, *, wait: bool = True, is_last: bool = False
    ) -> asyncio.Future[Result] | None:
        """Queue a ledger operation. With `wait`, return a future of its result, resolved once it is durable.

        Raise Overloaded for a hold if too many are queued. All other operations are always accepted. `is_last`: no
        other request is in flight, so waiting for another operation to share the commit would be useless.
        """
        is_hold = isinstance(operation, PlaceHold)
        if is_hold and self._urgent >= MAX_QUEUED_HOLDS:
            raise Overloaded("too many requests are queued; try again", retry_after_s=1)
        future = asyncio.get_running_loop().create_future() if wait else None
        on_late = self.on_late if type(operation) is Settle else None
        self._put(
            PendingWrite(operation, None, future, is_hold, last=is_last, must_succeed=not is_hold, on_late=on_late)
        )
        return future

    def renew(self, checkpoint: Checkpoint, on_lost: Callable[[Result], None]) -> None:
        """Queue a checkpoint without a future. `on_lost` is called with any result but `Renewed`."""
        watch = Watch(asyncio.get_running_loop(), on_lost)
        self._put(PendingWrite(checkpoint, None, None, urgent=False, must_succeed=True, watch=watch))

    def submit_change(self, change: WriteFunction, *, is_first: bool = False) -> asyncio.Future[Any]:
        """Queue a function of a connection for the next transaction, and return a future of its result.

        `is_first`: operations that are queued later are not committed before it.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(PendingWrite(None, change, future, urgent=True, first=is_first))
        return future

    async def run(self, change: WriteFunction) -> Any:
        """Run a function of a connection in the next transaction, and return its result once it is durable.

        Raise Overloaded if the database is unavailable and nothing was written, StoreError if the write failed.
        """
        try:
            return await self.submit_change(change)
        except CommitInDoubt:
            raise
        except ConnectionLost as error:
            raise Overloaded(
                "the database is temporarily unavailable; nothing was written; try again", retry_after_s=2
            ) from error

    def _put(self, pending: PendingWrite) -> None:
        with self._lock:
            if self._stopping:
                raise Overloaded("the server is stopping; try again", retry_after_s=1)
            self._queue.append(pending)
            if pending.urgent:
                self._urgent += 1
                self._last_hold_s = self._steady_s()
                self._wake_after_turn()
            elif pending.last or not self._delay_settle(pending) or len(self._queue) >= MAX_BATCH:
                self._is_due = True
                self._wake()

    def _wake_after_turn(self) -> None:
        """Wake the thread after this turn of the event loop, so that all its writes share a COMMIT (decision 0011).

        Called with the lock held.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._wake()
            return
        # Do not rely on another event loop: it may be closing.
        if self._waking_loop is not loop:
            self._waking_loop = loop
            loop.call_soon(self._on_turn_end)

    def _on_turn_end(self) -> None:
        with self._lock:
            self._waking_loop = None
            # If the thread was already awake, it has taken them.
            if self._urgent:
                self._wake()

    def _wake(self) -> None:
        """Wake the thread. Called with the lock held."""
        if self._wakeup.locked():
            self._wakeup.release()

    def _delay_settle(self, pending: PendingWrite) -> bool:
        """Delay a write with a timer of the event loop and return True, or return False if it should not be delayed.

        Waking the thread for a single settle costs more than its SQL.
        """
        if pending.future is not None and self._steady_s() - self._last_hold_s > IDLE_FACTOR * self._settle_delay_s:
            return False
        if not self._has_timer:
            try:
                asyncio.get_running_loop().call_later(self._settle_delay_s, self._settle_delay_is_over)
            except RuntimeError:
                return False
            self._has_timer = True
        return True

    def _settle_delay_is_over(self) -> None:
        with self._lock:
            self._has_timer = False
            if self._queue:
                self._is_due = True
                self._wake()

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, connection: Connection) -> None:
        while batch := self._next_batch():
            self._write_all(connection, batch)
        connection.close()

    def run_once(self, connection: Connection) -> bool:
        """Do one round of the thread's work, and return False if there is none. Only for a writer without a thread."""
        with self._lock:
            batch = self._pop_batch() if self._has_work() else []
        if batch:
            self._write_all(connection, batch)
        return bool(batch)

    def _write_all(self, connection: Connection, batch: Sequence[PendingWrite]) -> None:
        self.counts.largest_batch = max(self.counts.largest_batch, len(batch))
        for together in self._transactions(batch):
            self._write(connection, together)
            wake_callers(together)

    def _next_batch(self) -> list[PendingWrite]:
        """Wait for work and return it, at most MAX_BATCH. An empty list means stop."""
        while True:
            with self._lock:
                if self._has_work():
                    return self._pop_batch()
            self._wakeup.acquire(timeout=self._retry_delay_s if self._deferred else -1)

    def _pop_batch(self) -> list[PendingWrite]:
        size = min(len(self._queue), MAX_BATCH)
        batch = [self._queue.popleft() for _ in range(size)]
        self._is_due = bool(self._queue)
        self._urgent = sum(pending.urgent for pending in self._queue)
        if self._deferred and (self._retry_is_due() or self._stopping or any(map(_recovers, batch))):
            batch = self._deferred + batch
            self._deferred = []
        return batch

    def _has_work(self) -> bool:
        return self._urgent > 0 or self._is_due or self._stopping or self._retry_is_due()

    def _retry_is_due(self) -> bool:
        return bool(self._deferred) and self._steady_s() >= self._retry_at_s

    def _transactions(self, batch: Sequence[PendingWrite]) -> Iterable[Sequence[PendingWrite]]:
        """Split a batch into transactions: one for everything, or on a shared database one for all ledger operations.

        Ledger operations lock accounts in ascending order. Any other change may lock any row, which could deadlock
        in the same transaction, so each gets its own.
        """
        if not self._database.is_shared:
            return [batch]
        operations = [pending for pending in batch if pending.operation is not None]
        changes = [[pending] for pending in batch if pending.change is not None and not pending.first]
        first = [[pending] for pending in batch if pending.first]
        return [*first, operations, *changes] if operations else [*first, *changes]

    def _write(self, connection: Connection, batch: Sequence[PendingWrite]) -> None:
        """Write a batch in one transaction or, after an unexpected error, each write in its own."""
        try:
            self._commit_with_retries(connection, batch)
        except ConnectionLost as error:
            self._defer(batch, error)
        except Exception as error:  # noqa: BLE001 - each write is tried alone below, where its error is reported
            log.warning("rolled back a batch of %d, replaying it one by one: %s", len(batch), error)
            self.counts.replays += 1
            for pending in batch:
                self._write_alone(connection, pending)
            self._retry_later()
        else:
            self._retry_delay_s = FIRST_RETRY_S

    def _commit_with_retries(self, connection: Connection, batch: Sequence[PendingWrite]) -> None:
        """Commit, reconnecting with exponential backoff for RECONNECT_WINDOW_S.

        If the database was already unavailable for the last batch, try only once.
        """
        give_up_s = self._steady_s() + (0.0 if self._is_unavailable or self._stopping else RECONNECT_WINDOW_S)
        delay_s = FIRST_RETRY_S
        while True:
            try:
                self._commit(connection, batch)
            except CommitInDoubt:
                self._is_unavailable = True
                raise
            except ConnectionLost as error:
                self._healthy_since_s = self._steady_s()
                if self._steady_s() + delay_s > give_up_s:
                    self._is_unavailable = True
                    raise
                log.warning("%s; reconnecting", error)
                self._pause(delay_s)
                delay_s *= 2
            else:
                if self._is_unavailable:
                    self._is_unavailable, self._healthy_since_s = False, self._steady_s()
                return

    def _defer(self, batch: Sequence[PendingWrite], error: ConnectionLost) -> None:
        """Keep the charges of a batch for a retry, and fail its other writes, because the database is unavailable."""
        self.counts.failures += 1
        for pending in batch:
            if pending.must_succeed and not self._stopping:
                pending.in_doubt = pending.in_doubt or isinstance(error, CommitInDoubt)
                self._deferred.append(pending)
            else:
                pending.fail(error)
        self._deferred = drop_superseded_checkpoints(self._deferred)
        self._retry_later()

    def _retry_later(self) -> None:
        if self._deferred:
            log.error("%d charges could not be written, will retry", len(self._deferred))
            self._retry_at_s = self._steady_s() + self._retry_delay_s
            self._retry_delay_s = min(self._retry_delay_s * 2, MAX_RETRY_S)

    def _write_alone(self, connection: Connection, pending: PendingWrite) -> None:
        """Write one entry in its own transaction. A charge that fails is deferred, and its caller keeps waiting."""
        if self._deferred and _recovers(pending) and self._owes_charge_of(pending):
            self._deferred.append(pending)
            return
        try:
            self._commit(connection, [pending])
        except StoreError as error:
            self.counts.failures += 1
            if pending.must_succeed and not self._stopping:
                self._deferred.append(pending)
            else:
                pending.fail(error)
        except Exception as error:
            self.counts.failures += 1
            log.exception("a write failed with an unexpected error and was dropped")
            pending.fail(error)

    def _owes_charge_of(self, pending: PendingWrite) -> bool:
        """Return True if the charge for the same hold is deferred. No recovery may come before it."""
        hold_id = getattr(pending.operation, "hold_id", None)
        return any(isinstance(o := other.operation, Settle) and o.hold_id == hold_id for other in self._deferred)

    def _commit(self, connection: Connection, batch: Sequence[PendingWrite]) -> None:
        operations = [pending.operation for pending in batch if pending.operation is not None]
        began_s = self._steady_s()
        with connection.transaction():
            results = iter(ledger.apply(connection, operations, self._decide) if operations else ())
            for pending in batch:
                pending.result = result = pending.change(connection) if pending.change else next(results)
                if type(result) is Settled and result.repeated and isinstance(pending.operation, Settle):
                    differs = not ledger.carries(connection, pending.operation)
                    pending.result = msgspec.structs.replace(result, differs=differs)
                    if differs:
                        late_results.record(connection, pending.operation)
        for pending in batch:
            pending.is_done = True
            result = pending.result
            # Written by this very operation, unless the ledger has another outcome than it asked for.
            is_own = pending.in_doubt and not (isinstance(result, Settled) and result.differs)
            if is_own and isinstance(result, Settled | Credited | Reversed | Refunded):
                pending.result = result = msgspec.structs.replace(result, repeated=False)
            if type(result) is Settled and result.shortfall and not result.repeated:
                self.counts.shortfall += result.shortfall
        self.counts.record_commit(len(batch), int((self._steady_s() - began_s) * 1_000_000))


def _recovers(pending: PendingWrite) -> bool:
    return isinstance(pending.operation, Recover)
