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
from typing import Any

import msgspec

from minitoolai.core.books import (
    Checkpoint,
    Credited,
    Operation,
    PlaceHold,
    Recover,
    Reversed,
    Settle,
    Settled,
    Verdict,
)
from minitoolai.core.errors import CommitInDoubt, ConnectionLost, Overloaded, StoreError
from minitoolai.storage import ledger
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tickets import Change, Ticket, Watch, WriterCounts, wake_callers, without_old_checkpoints

log = logging.getLogger(__name__)

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
        self._tickets: deque[Ticket] = deque()
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
        self._owed: list[Ticket] = []
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

    def calm_s(self) -> float:
        """Seconds since the start, or since the database was last away."""
        return 0.0 if self._is_away else self._steady_s() - self._calm_since_s

    def waiting(self) -> tuple[int, int]:
        """Operations that wait for their commit, and charges that a sick database has put off."""
        return len(self._tickets), len(self._owed)

    def submit(
        self, operation: Operation, *, wait: bool = True, is_last: bool = False
    ) -> asyncio.Future[Verdict] | None:
        """Queue a ledger operation; the future, if asked for, resolves once it is durable.

        Holds raise Overloaded when too many wait already. Everything else is always taken; `is_last` says that
        nothing else is at work, so that waiting for company is in vain.
        """
        is_hold = isinstance(operation, PlaceHold)
        if is_hold and self._urgent >= QUEUED_HOLDS:
            raise Overloaded("too many requests are waiting for the ledger; try again", retry_after_s=1)
        future = asyncio.get_running_loop().create_future() if wait else None
        self._put(Ticket(operation, None, future, is_hold, is_last, not is_hold))
        return future

    def renew(self, checkpoint: Checkpoint, on_lost: Callable[[Verdict], None]) -> None:
        """Queue a checkpoint without a future. `on_lost` is called with any verdict but `Renewed`."""
        watch = Watch(asyncio.get_running_loop(), on_lost)
        self._put(Ticket(checkpoint, None, None, urgent=False, owed=True, watch=watch))

    async def run(self, change: Change) -> Any:
        """Run a plain function of a connection inside the next transaction; its result once durable.

        Overloaded where the database is away and nothing was written, StoreError where it could not be.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(Ticket(None, change, future, urgent=True))
        try:
            return await future
        except CommitInDoubt:
            raise
        except ConnectionLost as error:
            raise Overloaded("the database is away; nothing was written; try again", retry_after_s=2) from error

    def _put(self, ticket: Ticket) -> None:
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

    def _lingers(self, ticket: Ticket) -> bool:
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

    def _write_all(self, connection: Connection, batch: Sequence[Ticket]) -> None:
        self.counts.largest_batch = max(self.counts.largest_batch, len(batch))
        for together in self._transactions(batch):
            self._write(connection, together)
            wake_callers(together)

    def _take(self) -> list[Ticket]:
        """Whatever waits, at most LARGEST_BATCH; an empty list means: stop."""
        while True:
            with self._lock:
                if self._is_pressing():
                    return self._batch()
            self._bell.acquire(timeout=self._retry_delay_s if self._owed else -1)

    def _batch(self) -> list[Ticket]:
        size = min(len(self._tickets), LARGEST_BATCH)
        batch = [self._tickets.popleft() for _ in range(size)]
        self._is_due = bool(self._tickets)
        self._urgent = sum(ticket.urgent for ticket in self._tickets)
        if self._owed and (self._retry_is_due() or self._stopping or any(map(_recovers, batch))):
            batch = self._owed + batch
            self._owed = []
        return batch

    def _is_pressing(self) -> bool:
        return self._urgent > 0 or self._is_due or self._stopping or self._retry_is_due()

    def _retry_is_due(self) -> bool:
        return bool(self._owed) and self._steady_s() >= self._retry_at_s

    def _transactions(self, batch: Sequence[Ticket]) -> Iterable[Sequence[Ticket]]:
        """What may share a COMMIT: alone on the database everything, among others all operations of the ledger.

        They lock accounts in ascending order; a change may lock any row, and behind them that could be a deadlock.
        """
        if not self._database.is_shared:
            return [batch]
        operations = [ticket for ticket in batch if ticket.operation is not None]
        changes = [[ticket] for ticket in batch if ticket.change is not None]
        return [operations, *changes] if operations else changes

    def _write(self, connection: Connection, batch: Sequence[Ticket]) -> None:
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

    def _commit_patiently(self, connection: Connection, batch: Sequence[Ticket]) -> None:
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

    def _put_off(self, batch: Sequence[Ticket], error: ConnectionLost) -> None:
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

    def _write_alone(self, connection: Connection, ticket: Ticket) -> None:
        """What is owed and meets a sick database waits for the next try; its caller goes on waiting."""
        if self._owed and _recovers(ticket) and self._owes_charge_of(ticket):
            self._owed.append(ticket)
            return
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

    def _owes_charge_of(self, ticket: Ticket) -> bool:
        """Whether the charge for the hold of this ticket was put off. No recovery may come before it."""
        hold_id = getattr(ticket.operation, "hold_id", None)
        return any(isinstance(o := t.operation, Settle) and o.hold_id == hold_id for t in self._owed)

    def _commit(self, connection: Connection, batch: Sequence[Ticket]) -> None:
        operations = [ticket.operation for ticket in batch if ticket.operation is not None]
        began_s = self._steady_s()
        with connection.transaction():
            answers = iter(ledger.apply(connection, operations, self._decide) if operations else ())
            for ticket in batch:
                ticket.answer = answer = ticket.change(connection) if ticket.change else next(answers)
                if type(answer) is Settled and answer.repeated and isinstance(ticket.operation, Settle):
                    differs = not ledger.carries(connection, ticket.operation)
                    ticket.answer = msgspec.structs.replace(answer, differs=differs)
        for ticket in batch:
            ticket.is_over = True
            answer = ticket.answer
            # Written by this very operation, unless the books carry another outcome than it asked for.
            is_own = ticket.in_doubt and not (isinstance(answer, Settled) and answer.differs)
            if is_own and isinstance(answer, Settled | Credited | Reversed):
                ticket.answer = answer = msgspec.structs.replace(answer, repeated=False)
            if type(answer) is Settled and answer.shortfall and not answer.repeated:
                self.counts.shortfall += answer.shortfall
        self.counts.wrote(len(batch), int((self._steady_s() - began_s) * 1_000_000))


def _recovers(ticket: Ticket) -> bool:
    return isinstance(ticket.operation, Recover)
