"""The ledger once more, as plainly as possible: dictionaries, no rows, no batches. The real one must agree with it."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from minitoolai.core.models import Budget, NewGeneration, Outcome
from minitoolai.ledger.types import (
    Checkpoint,
    Credit,
    Credited,
    DuplicateRequest,
    Held,
    InsufficientFunds,
    Operation,
    OverBudget,
    PlaceHold,
    QueueFull,
    Recover,
    Renewed,
    Requeue,
    Requeued,
    Result,
    Reverse,
    Reversed,
    Settle,
    Settled,
    StillLeased,
    Superseded,
    UnknownAccountOrHold,
)
from tests.support.books import NOON_MS, checkpoint, credit, hold, recover, requeue, reverse, settle

DAY_MS = 86_400_000
IMAGE = NewGeneration("image", "dreamshaper", "fake", 0, 1_500_000, state="queued")
DRAWN = Outcome("succeeded", output_units=1, result="a" * 64, error="none")


class Model:
    """What everybody has and what became of every hold."""

    def __init__(self, accounts: list[int]) -> None:
        self.posted = dict.fromkeys(accounts, 0)
        self.holds: dict[int, dict[str, Any]] = {}
        #: The hold that stands behind each Idempotency-Key.
        self.claims: dict[str, tuple[int, int]] = {}
        #: (account, what was added or taken, hold or reference, balance after, when, why), in order.
        self.moves: list[tuple[int, int, int | str, int, int, str | None]] = []
        self.begin_batch()

    def begin_batch(self) -> None:
        """Turns and room in the queue are judged by how it stood before the batch, and what the batch itself adds."""
        waiting = {n: h for n, h in self.holds.items() if h["generation"][0] == "queued"}
        self.first_turn = min((h["turn"] for h in waiting.values()), default=0)
        self.waiting = {a: [h["turn"] for h in waiting.values() if h["account"] == a] for a in self.posted}

    def queue(self) -> list[int]:
        """The jobs that wait, first come first."""
        waiting = [(h["turn"], n) for n, h in self.holds.items() if h["generation"][0] == "queued"]
        return [number for _, number in sorted(waiting)]

    def claim(self, number: int, lease_ms: int) -> None:
        """Somebody begins to work on it."""
        known = self.holds[number]
        known.update(generation=("running", *known["generation"][1:]), attempt=known["attempt"] + 1, job_lease=lease_ms)

    def held(self, account: int) -> int:
        return sum(h["amount"] for h in self.holds.values() if h["account"] == account and h["state"] == "pending")

    def judge(self, operation: Operation) -> Result:
        if operation.account_id not in self.posted:
            return UnknownAccountOrHold()
        if isinstance(operation, Credit):
            return self._credit(operation)
        if isinstance(operation, Reverse):
            return self._reverse(operation)
        if isinstance(operation, PlaceHold):
            return self._place(operation)
        known = self.holds.get(operation.hold_id)
        if known is None or known["account"] != operation.account_id:
            return UnknownAccountOrHold()
        if known["state"] != "pending":
            return Settled(known["settled"], known["shortfall"], repeated=True)
        if isinstance(operation, Checkpoint):
            known["progress"] = sorted((known["progress"], operation.progress, known["amount"]))[1]
            known["lease"] = max(known["lease"] or 0, operation.lease_until_ms)
            return Renewed()
        if isinstance(operation, Requeue):
            return self._requeue(operation, known)
        if isinstance(operation, Recover):
            if known["lease"] is None or (not operation.forced and known["lease"] > operation.lease_now_ms):
                return StillLeased()
            ended = ("failed", known["progress"], operation.now_ms, "interrupted", 1)
        else:
            if operation.attempt is not None and not self._is_drawn(known, operation.attempt):
                return Superseded()
            outcome = operation.outcome
            ended = (outcome.state, operation.cost, operation.now_ms, outcome.error_code, 0)
            if known["turn"]:
                known.update(result=outcome.result, error=outcome.error)
        return self._end(operation.hold_id, known, ended)

    def _is_drawn(self, known: dict[str, Any], attempt: int) -> bool:
        return bool(known["generation"][0] == "running" and known["attempt"] == attempt)

    def _requeue(self, ask: Requeue, known: dict[str, Any]) -> Result:
        if not (known["turn"] and self._is_drawn(known, ask.attempt)):
            return Superseded()
        if ask.reason == "lapsed" and not ask.forced and known["job_lease"] > ask.lease_now_ms:
            return StillLeased()
        failures = known["failures"] + {"lapsed": 1, "failed": 1, "handed_back": 0}[ask.reason]
        if failures >= ask.most_failures:
            known.update(error=ask.error)
            return self._end(ask.hold_id, known, ("failed", 0, ask.now_ms, ask.error_code, 0))
        known.update(generation=("queued", *known["generation"][1:]), failures=failures, job_lease=None)
        return Requeued(failures)

    def _credit(self, ask: Credit) -> Result:
        if any(move[2] == ask.external_ref for move in self.moves):
            return Credited(self.posted[ask.account_id], repeated=True)
        self._move(ask.account_id, ask.amount, ask.external_ref, ask.now_ms, ask.reason)
        return Credited(self.posted[ask.account_id])

    def _reverse(self, ask: Reverse) -> Result:
        has = self.posted[ask.account_id]
        if any(move[2] == ask.external_ref for move in self.moves):
            return Reversed(has, 0, repeated=True)
        taken = sorted((0, ask.amount, has - self.held(ask.account_id)))[1]
        if taken:
            self._move(ask.account_id, -taken, ask.external_ref, ask.now_ms, ask.reason)
        return Reversed(self.posted[ask.account_id], taken)

    def _place(self, ask: PlaceHold) -> Result:
        known = self.holds.get(ask.hold_id)
        if known is not None:
            same = known["account"] == ask.account_id
            return Held(known["amount"], known["units"]) if same else UnknownAccountOrHold()
        if ask.claim is not None and not self._is_free(ask.claim.id, ask.now_ms):
            return DuplicateRequest()
        available, period = self.posted[ask.account_id] - self.held(ask.account_id), None
        if ask.budget is not None:
            for name, limit in (("day", ask.budget.day), ("month", ask.budget.month), ("total", ask.budget.total)):
                left = None if limit is None else limit - self.spent(ask.budget.id, name, ask.now_ms)
                if left is not None and left < available:
                    available, period = left, name
        fewest = min(ask.least_units, ask.units) if ask.unit else ask.units
        for units in range(ask.units, fewest - 1, -1):
            amount = ask.base + units * ask.unit
            if amount <= available:
                turn = None
                if ask.queue_limit is not None:
                    waiting = self.waiting[ask.account_id]
                    if len(waiting) >= ask.queue_limit:
                        return QueueFull(len(waiting))
                    turn = max([self.first_turn, *waiting]) + 1
                    waiting.append(turn)
                self.holds[ask.hold_id] = {
                    "account": ask.account_id, "amount": amount, "units": units, "state": "pending", "progress": 0,
                    "budget": None if ask.budget is None else (ask.budget.id, ask.now_ms),
                    "settled": 0, "shortfall": 0, "lease": ask.lease_until_ms,
                    "generation": (ask.generation.state, 0, None, None, 0),
                    "turn": turn, "attempt": 0, "failures": 0, "job_lease": None, "result": None, "error": None,
                }  # fmt: skip
                if ask.claim is not None:
                    self.claims[ask.claim.id] = (ask.hold_id, ask.now_ms)
                return Held(amount, units)
        needed = ask.base + ask.least_units * ask.unit
        return InsufficientFunds(needed, available) if period is None else OverBudget(period, needed, available)

    def spent(self, budget: str, period: str, now_ms: int) -> int:
        """What holds of a budget promise or took that were placed in the period of this moment (all in one month)."""
        return sum(
            h["amount"] if h["state"] == "pending" else h["settled"]
            for h in self.holds.values()
            if h["budget"] is not None
            and h["budget"][0] == budget
            and (period != "day" or h["budget"][1] // DAY_MS == now_ms // DAY_MS)
        )

    def _is_free(self, claim: str, now_ms: int) -> bool:
        """An Idempotency-Key stands for its first request for a day, or until that ends without a charge."""
        first = self.claims.get(claim)
        return first is None or now_ms - first[1] >= DAY_MS or self.holds[first[0]]["state"] == "voided"

    def _end(self, hold_id: int, known: dict[str, Any], ended: tuple[Any, ...]) -> Result:
        cost, now_ms = ended[1:3]
        taken = cost if cost < known["amount"] else known["amount"]
        known.update(state="posted" if taken else "voided", settled=taken, shortfall=cost - taken, generation=ended)
        known.update(job_lease=None)
        if taken:
            self._move(known["account"], -taken, hold_id, now_ms, None)
        return Settled(taken, cost - taken)

    def _move(self, account: int, change: int, cause: int | str, now_ms: int, reason: str | None) -> None:
        self.posted[account] += change
        self.moves.append((account, change, cause, self.posted[account], now_ms, reason))


class Customers:
    """Draws operations on a few accounts and holds, small enough that they meet often. Also foreign ones."""

    def __init__(self, accounts: list[int], draw: random.Random) -> None:
        self.accounts = accounts
        self.draw = draw
        #: How often what comes next follows from the last operation.
        self.follows = draw.choice((0.0, 0.1, 0.4))
        self.past: list[Operation] = []
        self._holds: list[tuple[int, int]] = []
        self._borrowed = 0
        self._last_hold = 0

    def batch(self, largest: int) -> list[Operation]:
        return [self.operation() for _ in range(self.draw.randint(1, largest))]

    def operation(self) -> Operation:
        draw = self.draw
        if self.past and draw.random() < 0.15:
            return draw.choice(self.past[-3:] if draw.random() < 0.5 else self.past)
        often = (self._place, self._place, self._settle, self._checkpoint, self._recover, self._requeue, self._credit)
        operation = self._sequel() if draw.random() < self.follows else None
        if operation is None:
            operation = self._reverse() if draw.random() < 0.04 else draw.choice(often)()
        self.past.append(operation)
        return operation

    def _sequel(self) -> Operation | None:
        """What follows the last operation closely, so that both meet in one batch."""
        last = self.past[-1] if self.past else None
        if isinstance(last, Requeue):
            # Whoever lost a job, or gave it back, ends it all the same.
            return settle(last.hold_id, last.account_id, 20, attempt=last.attempt, outcome=DRAWN)
        if isinstance(last, PlaceHold) and last.claim is not None:
            return settle(last.hold_id, last.account_id, self.draw.choice((0, 0, 20)))
        if isinstance(last, Settle) and len(self.past) > 1 and isinstance(first := self.past[-2], PlaceHold):
            # Its caller comes again under the same Idempotency-Key.
            self._last_hold += 1
            self._holds.append((self._last_hold, first.account_id))
            return msgspec.structs.replace(first, hold_id=self._last_hold)
        return None

    def _account(self) -> int:
        return self.draw.choice(self.accounts) if self.draw.random() < 0.97 else self.draw.choice((1, 2, 777))

    def _known(self) -> tuple[int, int]:
        hold_id, account = self.draw.choice(self._holds[-6:] or [(1, self.accounts[0])])
        return (hold_id, account) if self.draw.random() < 0.93 else (hold_id, self._account())

    def _place(self) -> PlaceHold:
        draw = self.draw
        self._last_hold += 1
        number, account = self._last_hold, self._account()
        if len(self._holds) > self._borrowed and draw.random() < 0.04:
            # Somebody else's hold: its number must answer nobody but its owner.
            number, owner = self._holds[self._borrowed]
            self._borrowed += 1
            account = draw.choice([other for other in self.accounts if other != owner])
        else:
            self._holds.append((number, account))
        base, unit = draw.choice((1, 7, 40, 100, 100)), draw.choice((0, 0, 1, 3, 10, 100))
        units = draw.randint(1, 20)
        least = min(units, draw.choice((1, 1, 4, 16)))
        if draw.random() < 0.4:
            limit = draw.choice((1, 2, 3, 3, 8))
            return hold(number, account, base, lease_ms=None, generation=IMAGE, queue_limit=limit)
        lease_ms = NOON_MS + draw.choice((0, 5, 10, 15))
        # A new word every few holds: most of the old ones are spent.
        claim = draw.choice(("a", "b", f"c{number // 8}", f"c{number // 8}", None, None, None))
        budget, now_ms = None, NOON_MS
        if draw.random() < 0.3:
            limits = (draw.choice((None, None, 100, 150, 400)) for _ in range(3))
            budget, now_ms = Budget(f"key-of-{account}", *limits), NOON_MS + draw.choice((0, 0, DAY_MS))
        return hold(
            number, account, base, unit=unit, units=units, least=least, lease_ms=lease_ms, claim=claim, budget=budget,
            now_ms=now_ms,
        )  # fmt: skip

    def _settle(self) -> Settle:
        cost = self.draw.choice((0, 0, 1, 5, 20, 40, 100, 300))
        if self.draw.random() < 0.5:
            return settle(*self._known(), cost, attempt=self.draw.choice((1, 1, 2)), outcome=DRAWN)
        return settle(*self._known(), cost)

    def _requeue(self) -> Requeue:
        draw = self.draw
        return requeue(
            *self._known(),
            attempt=draw.choice((1, 1, 1, 2, 3)),
            now_ms=NOON_MS + draw.choice((0, 5, 10, 15, 30)),
            reason=draw.choice(("lapsed", "lapsed", "failed", "handed_back")),
            most_failures=draw.choice((1, 2, 3)),
            forced=draw.random() < 0.2,
        )

    def _checkpoint(self) -> Checkpoint:
        return checkpoint(*self._known(), self.draw.choice((0, 1, 5, 30, 500)), NOON_MS + self.draw.choice((0, 5, 20)))

    def _recover(self) -> Recover:
        return recover(*self._known(), NOON_MS + self.draw.choice((0, 5, 10, 15, 30)), forced=self.draw.random() < 0.2)

    def _reverse(self) -> Reverse:
        return reverse(self._account(), self.draw.choice((1, 30, 200, 900)), f"grant:{self.draw.randint(1, 400)}")

    def _credit(self) -> Credit:
        return credit(
            self._account(), self.draw.choice((1, 30, 100, 100, 200, 700)), f"grant:{self.draw.randint(1, 400)}"
        )
