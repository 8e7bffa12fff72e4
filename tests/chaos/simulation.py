"""The writer, the charging and the recovery, as they are, in virtual time, on a store that fails as a seed decides.

The real tables lie in memory, which stands for the disk: a crash forgets everything else. Before or after a COMMIT the
process may die, or sleep beyond its leases, while another process sweeps, and go on; a COMMIT may find the database
busy, the disk full, the server away, or its answer lost. The wall clock is set to and fro, by a minute or a day. After
the last fault everything must come to rest: nothing pending, an empty audit, and every answer that somebody got is
true: no `[DONE]` that the books do not carry, and no answer broken off where nothing had failed. Some runs die by a bug
of ours and leave their holds behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from minitoolai.billing.audit import SWEEP_EVERY_S, Auditor
from minitoolai.billing.charging import LEASE_MS, Bound, Charging, Reservation, wait_until_durable
from minitoolai.billing.selling import plans
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.errors import CommitInDoubt, ConnectionLost, ServiceError, StoreError
from minitoolai.core.models import Caller, GenerationState, Outcome
from minitoolai.core.plans import Windows
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Recover, Refund
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.selling import purses
from minitoolai.storage.selling.purses import Purse
from minitoolai.storage.sqlite import SqliteConnection
from minitoolai.storage.tables import ledger
from minitoolai.storage.tables.ledger import broken_invariants
from minitoolai.storage.writer import Writer
from tests.support.books import CHAT, credit
from tests.support.ledger_run import books_in_memory, open_accounts
from tests.support.virtual import VirtualClock, VirtualLoop

ACCOUNTS = [1001, 1002]
PLANS = (
    Plan("small", "Small", 100, 300, "week", Windows()),
    Plan("large", "Large", 350, 900, "month", Windows(five_hours=500, week=600)),
)
TABLES = ("refunds", "purse_windows", "purses", "transfers", "generations", "holds", "usage_days", "accounts")
#: Seconds in which things go wrong, and until all leases have ended after that.
TROUBLE_S, REST_S = 12.0, 40.0
FAULTS = ("crash before", "crash after", "busy", "full", "away", "lost before", "lost after", "paused", "paused after")
#: Seconds for which a process is paused; some are shorter than a lease.
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 8.0, 20.0
PAUSES = 2
#: One run in so many dies by a bug of ours.
BUGS = 15
#: To what the wall clock is set, in seconds before or after the true time.
CLOCK_STEPS_S = (-86_400.0, -60.0, -5.0, 0.0, 5.0, 60.0, 3600.0)
ERRORS: dict[str, StoreError] = {
    "busy": StoreError("database is locked in BEGIN"),
    "full": StoreError("database or disk is full in COMMIT"),
    "away": ConnectionLost("the server is away"),
    "lost before": CommitInDoubt("the answer was lost"),
    "lost after": CommitInDoubt("the answer was lost"),
}


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Store:
    """A connection whose transactions fail; `faults` says which one comes next, or none."""

    disk: SqliteConnection
    fault: Callable[[], str]
    pause: Callable[[], None]
    skip_locked: str = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.disk, name)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        fault = self.fault()
        if fault in ("busy", "away"):
            raise ERRORS[fault]
        if fault == "paused":
            self.pause()
        with self.disk.transaction():
            yield
            if fault in ("crash before", "full", "lost before"):
                raise ERRORS.get(fault) or Crash
        if fault == "paused after":
            self.pause()
        if fault in ("crash after", "lost after"):
            raise ERRORS.get(fault) or Crash


class Here(Database):
    """Reads happen at once, on the only connection."""

    def __init__(self, connection: Connection, *, is_shared: bool) -> None:
        super().__init__(lambda _: connection, name="simulated", is_shared=is_shared)
        self._only = connection

    async def read_async(self, function: Callable[..., Any], *arguments: object) -> Any:
        return function(self._only, *arguments)

    async def upkeep(self, function: Callable[..., Any], *arguments: object) -> Any:
        return function(self._only, *arguments)


@dataclass
class SimulationTally:
    """What the seeds came to."""

    seeds: int = 0
    acknowledged: int = 0
    crashes: int = 0
    faults: int = 0
    pauses: int = 0
    clock_steps: int = 0
    seconds: float = 0.0
    #: Of everything that happened in all of them.
    trace: str = ""
    violations: list[str] = field(default_factory=list)


class Simulation:
    """One seed. `trace` is everything that happened, in order."""

    #: Until a charge is written.
    wait = staticmethod(wait_until_durable)

    def __init__(
        self, seed: int, disk: SqliteConnection, loop: VirtualLoop, *, is_shared: bool, decide: ledger.Decide = decide
    ) -> None:
        self._draw = random.Random(seed)
        self._loop, self._disk, self._decide = loop, disk, decide
        self._clock = VirtualClock(loop)
        self._is_shared = is_shared
        self._often = self._draw.choice((0.0, 0.05, 0.15, 0.3))
        self.trace = hashlib.sha256()
        #: hold → what its caller was told last: ("held", amount), ("charged", cost) or ("refused", 0).
        self.told: dict[int, tuple[str, int]] = {}
        #: hold → what the operator was told that a refund gave back. Drawn apart, so that seeds stay what they were.
        self.refunded: dict[int, int] = {}
        #: Reference → account and price of the plans that were bought. Drawn apart, too.
        self.bought: dict[str, tuple[int, int]] = {}
        self._shopper = random.Random(seed * 7 + 1)
        self._operator = random.Random(-seed)
        #: hold → the most that was streamed, in nano-dollars.
        self.streamed: dict[int, int] = {}
        self.crashes = self.faults = self.pauses = self.clock_steps = 0
        #: When the last fault may happen; a pause puts it off.
        self._trouble_s = TROUBLE_S
        self._last_fault_s = 0.0
        #: The holds that customers of the living process are working with.
        self._carried: set[int] = set()
        self.violations: list[str] = []

    # ── the machine ───────────────────────────────────────────────────────────────────────────────────────

    def note(self, *what: object) -> None:
        self.trace.update(f"{self._loop.time():.6f} {what}\n".encode())

    def _now_s(self) -> float:
        return self._loop.time()

    def _fault(self) -> str:
        fault = ""
        if self._now_s() < self._trouble_s and self._draw.random() < self._often:
            possible = [f for f in FAULTS if self._is_shared or f not in ("away", "lost before", "lost after")]
            if self.pauses == PAUSES:
                possible = [f for f in possible if not f.startswith("paused")]
            fault = self._draw.choice(possible)
            self.faults += 1
            self._last_fault_s = self._now_s()
        self.note("commit", fault)
        return fault

    def _pause(self) -> None:
        """This process stands still; on a shared database another one recovers what it then finds."""
        self.pauses += 1
        pause_s = self._draw.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S)
        self._trouble_s += pause_s
        self._loop.pass_time(pause_s)
        self._last_fault_s = self._now_s()
        self.note("paused", pause_s)
        if self._is_shared:
            self._recover_elsewhere()

    def _recover_elsewhere(self) -> None:
        """The sweep of another process on the same database."""
        now_ms, lease_now_ms = self._clock.now_ms(), self._clock.lease_ms()
        lost = ledger.expired_chat_holds(self._disk, lease_now_ms)
        recover = [Recover(hold.id, hold.account_id, now_ms, lease_now_ms=lease_now_ms) for hold in lost]
        with self._disk.transaction():
            ledger.apply(self._disk, recover, self._decide)

    async def _step_clock(self) -> None:
        """Somebody sets the wall clock, forward or back, until all is over."""
        while True:
            await asyncio.sleep(self._draw.uniform(0.5, 6.0))
            self._clock.wall_offset_s = self._draw.choice(CLOCK_STEPS_S)
            self.clock_steps += 1
            self.note("clock", self._clock.wall_offset_s)

    async def _others(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self._recover_elsewhere()

    async def run(self) -> None:
        """Live after live, until there was quiet for long enough; then look."""
        with self._disk.transaction():
            open_accounts(self._disk, ACCOUNTS)
            ledger.apply(self._disk, [credit(account, 3000, f"open:{account}") for account in ACCOUNTS], decide)
        while True:
            try:
                await self._live()
            except Crash:
                self.crashes += 1
                self.note("crash")
                await asyncio.sleep(self._draw.uniform(0.1, 1.0))
            else:
                break
        self._look()

    async def _live(self) -> None:
        """One process, from its start to its end or its crash."""
        store = Store(self._disk, self._fault, self._pause)
        self._carried.clear()
        database = Here(store, is_shared=self._is_shared)
        writer = Writer(database, self._decide, steady_s=self._loop.time, pause=self._loop.pass_time)
        auditor = Auditor(database, writer, self._clock, audit_every_s=1e9, in_flight=lambda: self._carried)
        charging, is_up = Charging(writer, self._clock), asyncio.Event()
        tasks = [asyncio.ensure_future(self._sweep(auditor, is_up))]
        tasks.append(asyncio.ensure_future(self._step_clock()))
        if self._is_shared:
            tasks.append(asyncio.ensure_future(self._others()))
        if self._now_s() < self._trouble_s:
            tasks += [asyncio.ensure_future(self._customer(charging, is_up)) for _ in range(self._draw.randint(1, 5))]
            tasks.append(asyncio.ensure_future(self._shop(writer, is_up)))
        try:
            while self._now_s() < self._trouble_s + REST_S:
                is_quiet = not writer.run_once(store)
                await asyncio.sleep(self._draw.uniform(0.0005, 0.02) if self._now_s() < self._trouble_s else 0.5)
                if is_quiet and self._now_s() >= self._trouble_s:
                    await asyncio.sleep(1)
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    self.violations.append(f"a task broke: {task.exception()!r}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sweep(self, auditor: Auditor, is_up: asyncio.Event) -> None:
        """As at the start of a server, which serves nobody before; and then every five seconds."""
        if not self._is_shared:
            await auditor.recover(force=True)
        is_up.set()
        await auditor.run()

    # ── the customers ─────────────────────────────────────────────────────────────────────────────────────

    async def _customer(self, charging: Charging, is_up: asyncio.Event) -> None:
        """One request after the other, as services/chat.py would have them; perhaps hanging up in the middle."""
        draw = self._draw
        await is_up.wait()
        while self._now_s() < self._trouble_s:
            await asyncio.sleep(draw.uniform(0, 2))
            caller = Caller(draw.choice(ACCOUNTS), "key000000001")
            before = self._clock._last_id
            try:
                held = await charging.reserve(caller, Bound(draw.randint(1, 50), draw.randint(1, 9), 40, 16), CHAT)
            except ServiceError as error:
                self.note("refused", type(error).__name__)
                if self._clock._last_id == before + 1:
                    self.told[self._clock._last_id] = ("refused", 0)
                continue
            self.told[held.hold_id] = ("held", held.amount)
            self.note("held", held.hold_id, held.amount)
            await self._stream(charging, held)

    async def _shop(self, writer: Writer, is_up: asyncio.Event) -> None:
        """Buy plans and change them, each by a form that is sent twice, and let them end in between."""
        draw = self._shopper
        await is_up.wait()
        while self._now_s() < self._trouble_s:
            await asyncio.sleep(draw.uniform(0.2, 4))
            account = draw.choice(ACCOUNTS)
            if draw.random() < 0.3:
                await self._end_plans(writer)
                continue
            plan, reference = draw.choice(PLANS), f"plan:{draw.getrandbits(60)}"
            change = partial(
                plans.buy, clock=self._clock, account_id=account, plan=plan, expected_price=plan.price,
                reference=reference, replace=True,
            )  # fmt: skip
            for _ in range(2):
                try:
                    done = await writer.run(change)
                except (ServiceError, StoreError) as error:
                    self.note("not bought", type(error).__name__)
                    continue
                self.note("bought", account, done)
                if isinstance(done, Purse):
                    self.bought[reference] = account, done.price

    async def _end_plans(self, writer: Writer) -> None:
        """What the background task does, by a clock that is years ahead."""
        late = VirtualClock(self._loop)
        late.wall_offset_s = 1e8
        for purse in purses.ending(self._disk, late.now_ms(), 10):
            change = partial(plans.end_or_renew, clock=late, purse_id=purse.id, plans={})
            try:
                self.note("ended", purse.id, await writer.run(change))
            except (ServiceError, StoreError) as error:
                self.note("not ended", type(error).__name__)

    async def _stream(self, charging: Charging, held: Reservation) -> None:
        draw, cost, lost = self._draw, 0, asyncio.Event()
        self._carried.add(held.hold_id)
        for _ in range(draw.randint(0, 14)):
            await asyncio.sleep(1)
            if lost.is_set():
                break
            cost = min(held.amount, cost + draw.randint(0, held.amount // 5))
            self.streamed[held.hold_id] = cost
            charging.keep_alive(held, cost, lambda _: lost.set())
        self.streamed[held.hold_id] = cost
        self._carried.discard(held.hold_id)
        if not draw.randrange(BUGS):
            self.note("died", held.hold_id)
            return
        state: GenerationState = "failed" if lost.is_set() else "succeeded"
        charge = charging.settle(held, cost, Outcome(state, output_units=cost))
        assert charge is not None
        if lost.is_set():
            self.note("lost", held.hold_id)
            if not self.faults or self._now_s() - self._last_fault_s > LEASE_MS / 1000 + SWEEP_EVERY_S:
                self.violations.append(f"hold {held.hold_id}: recovered while its process renewed it, undisturbed")
            return
        try:
            await self.wait(charge, within_s=20)
        except (StoreError, TimeoutError) as error:
            self.note("late", held.hold_id, type(error).__name__)
            if not self.faults and not self.crashes:
                self.violations.append(f"hold {held.hold_id}: {error}, undisturbed")
            return
        self.told[held.hold_id] = ("charged", cost)
        self.note("charged", held.hold_id, cost)
        if cost and self._operator.random() < 0.25:
            await self._refund(charging, held, self._operator.randint(1, cost))

    async def _refund(self, charging: Charging, held: Reservation, amount: int) -> None:
        """Give a part of a charge back, by a form that is sent twice."""
        refund = Refund(held.hold_id, held.account_id, amount, f"refund:{held.hold_id}", self._clock.now_ms())
        for _ in range(2):
            future = charging._writer.submit(refund)
            assert future is not None
            try:
                # Not `wait_for`, which on Python 3.11 forgets a cancellation that arrives together with the result.
                async with asyncio.timeout(20):
                    await future
            except (StoreError, TimeoutError) as error:
                self.note("late", held.hold_id, type(error).__name__)
                return
        self.refunded[held.hold_id] = amount
        self.note("refunded", held.hold_id, amount)

    # ── afterwards ────────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        sql = (
            "SELECT h.id, h.state, h.amount, h.settled, g.state, g.output_units FROM holds h"
            " JOIN generations g ON g.id = h.id"
        )
        rows = {row[0]: row[1:] for row in self._disk.execute(sql)}
        self.note("rows", sorted(rows.items()))
        wrong = [f"{name}: {found}" for name, found in broken_invariants(self._disk).items()]
        wrong += [f"hold {number} is still pending" for number, row in rows.items() if row[0] == "pending"]
        given = dict(self._disk.execute("SELECT generation_id, sum(amount) FROM refunds GROUP BY generation_id"))
        for reference, (account, price) in self.bought.items():
            paid = self._disk.execute(
                "SELECT debit, amount FROM transfers WHERE external_ref = ?", (f"{reference}:price",)
            )
            if paid != [(account, price)]:
                wrong.append(f"{reference}: told that {account} paid {price}, written {paid}")
        for number, amount in self.refunded.items():
            if given.get(number) != amount:
                wrong.append(f"hold {number}: told that {amount} was given back, written {given.get(number)}")
        for number, (what, amount) in self.told.items():
            row = rows.get(number)
            if what == "charged" and (row is None or row[2:] != (amount, "succeeded", amount)):
                wrong.append(f"hold {number}: told that it succeeded and cost {amount}, written {row}")
            elif what == "held" and (row is None or row[1] != amount):
                wrong.append(f"hold {number}: told that {amount} is held, written {row}")
            elif what == "refused" and row is not None and row[2]:
                wrong.append(f"hold {number}: refused, and charged {row}")
        for number, row in rows.items():
            if row[2] > self.streamed.get(number, 0):
                wrong.append(f"hold {number}: {self.streamed.get(number, 0)} was streamed, {row[2]} charged")
        self.violations += wrong


def run_simulation(
    seeds: range,
    *,
    is_shared: bool = False,
    decide: ledger.Decide = decide,
    kind: type[Simulation] = Simulation,
    stop_at: int | None = None,
) -> SimulationTally:
    """Every seed, one after the other. `is_shared`: as on PostgreSQL. `stop_at`: so many violations are enough."""
    tally, disk, started_s = SimulationTally(), books_in_memory(), time.monotonic()
    traces = hashlib.sha256()
    logging.disable(logging.CRITICAL)
    try:
        for seed in seeds:
            for table in TABLES:
                disk.execute(f"DELETE FROM {table}")
            with closing(VirtualLoop()) as loop:
                one = kind(seed, disk, loop, is_shared=is_shared, decide=decide)
                try:
                    loop.run_until_complete(one.run())
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}: {error}") from error
            traces.update(one.trace.digest())
            tally.seeds += 1
            tally.acknowledged += sum(what != "refused" for what, _ in one.told.values())
            tally.crashes += one.crashes
            tally.faults += one.faults
            tally.pauses += one.pauses
            tally.clock_steps += one.clock_steps
            tally.violations += [f"seed {seed}: {wrong}" for wrong in one.violations]
            if stop_at is not None and len(tally.violations) >= stop_at:
                break
    finally:
        logging.disable(logging.NOTSET)
        disk.close()
    tally.seconds, tally.trace = time.monotonic() - started_s, traces.hexdigest()
    return tally
