"""The ledger once more, as plainly as possible: dictionaries, no rows, no batches. The real one must agree with it."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from minitoolai.core.models import Budget, NewGeneration, Outcome, ServingModel, StoredResponse
from minitoolai.core.plans import PlanWindow
from minitoolai.ledger.types import (
    Bought,
    BuyPlan,
    Checkpoint,
    ClaimAnswer,
    Credit,
    Credited,
    DuplicateRequest,
    ExpireCredit,
    Expired,
    Held,
    InsufficientFunds,
    NotRefundable,
    Operation,
    OverBudget,
    PlaceHold,
    PlanRunning,
    QueueFull,
    Recover,
    Refund,
    Refunded,
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
from tests.support.books import DONE, NOON_MS, checkpoint, credit, hold, recover, refund, requeue, reverse, settle

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
#: The first of the purses, beside the accounts.
FIRST_PURSE = 2001
IMAGE = NewGeneration("image", "dreamshaper", "fake", 0, 1_500_000, state="queued")
#: Models that take over from the first; of one name, because workers find jobs by it.
OTHERS = (ServingModel("dreamshaper", 3, 5), ServingModel("dreamshaper", 4, 6))
DRAWN = Outcome("succeeded", output_units=1, result="a" * 64, error="none")


class Model:
    """What everybody has and what became of every hold."""

    def __init__(self, accounts: list[int]) -> None:
        self.posted = dict.fromkeys(accounts, 0)
        self.holds: dict[int, dict[str, Any]] = {}
        #: The hold that stands behind each Idempotency-Key.
        self.claims: dict[str, tuple[int, int]] = {}
        #: What is stored under each of them.
        self.answers: dict[str, StoredResponse] = {}
        #: Purse → whose it is, when it pays, what it cost and gave, its limits by window, what of it expired.
        self.purses: dict[int, dict[str, Any]] = {}
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
        return sum(h["amount"] for h in self.holds.values() if h["payer"] == account and h["state"] == "pending")

    def open_purse(self, purse: int, ask: BuyPlan, begins_ms: int, ends_ms: int, limits: dict[str, int]) -> None:
        """An empty purse, for a plan that is about to be bought."""
        self.posted[purse] = 0
        self.purses[purse] = {
            "owner": ask.account_id, "begins": begins_ms, "ends": ends_ms, "price": ask.price, "credit": ask.credit,
            "limits": limits, "expired": 0, "is_filled": False,
        }  # fmt: skip

    def forget_unfilled(self) -> list[int]:
        """Forget the purses of plans that could not be paid."""
        unfilled = [number for number, purse in self.purses.items() if not purse["is_filled"]]
        for number in unfilled:
            del self.purses[number], self.posted[number]
        return unfilled

    def windows(self, purse: int) -> dict[str, int]:
        """What the holds of a purse promise or took in each of its windows."""
        used: dict[str, int] = {}
        for h in self.holds.values():
            if h["payer"] == purse:
                for kind in self.purses[purse]["limits"]:
                    name = f"{purse}/{kind}/{self._window(purse, kind, h['began']).number}"
                    used[name] = used.get(name, 0) + (h["amount"] if h["state"] == "pending" else h["settled"])
        return used

    def _window(self, purse: int, kind: str, at_ms: int) -> PlanWindow:
        """All purses begin in January and live for days, so that their only month ends in February."""
        begins = self.purses[purse]["begins"]
        hours = {"5h": 5, "week": 7 * 24, "month": 31 * 24}[kind]
        number = (at_ms - begins) // (hours * HOUR_MS)
        return PlanWindow(kind, number, begins + (number + 1) * hours * HOUR_MS)  # type: ignore[arg-type]

    def _plan_of(self, account: int, now_ms: int) -> tuple[int, int, PlanWindow | None] | None:
        """The purse that may pay, what it may pay now, and the window that keeps it from paying all that is in it."""
        running = [
            (purse["begins"], number)
            for number, purse in self.purses.items()
            if purse["owner"] == account and purse["begins"] <= now_ms < purse["ends"]
        ]
        if not running:
            return None
        number = min(running)[1]
        left, tightest, used = self.posted[number] - self.held(number), None, self.windows(number)
        for kind, limit in self.purses[number]["limits"].items():
            window = self._window(number, kind, now_ms)
            room = limit - used.get(f"{number}/{kind}/{window.number}", 0)
            if room < left:
                left, tightest = room, window
        return number, left, tightest

    def judge(self, operation: Operation) -> Result:
        if operation.account_id not in self.posted:
            return UnknownAccountOrHold()
        if isinstance(operation, Credit):
            return self._credit(operation)
        if isinstance(operation, Reverse):
            return self._reverse(operation)
        if isinstance(operation, BuyPlan):
            return self._buy(operation)
        if isinstance(operation, ExpireCredit):
            return self._expire(operation)
        if isinstance(operation, PlaceHold):
            return self._place(operation)
        known = self.holds.get(operation.hold_id)
        if known is None or known["account"] != operation.account_id:
            return UnknownAccountOrHold()
        if isinstance(operation, Refund):
            return self._refund(operation, known)
        if known["state"] != "pending":
            return Settled(known["settled"], known["shortfall"], repeated=True)
        if isinstance(operation, Checkpoint):
            known["progress"] = sorted((known["progress"], operation.progress, known["amount"]))[1]
            known["lease"] = max(known["lease"] or 0, operation.lease_until_ms)
            known["serving"] = operation.serving or known["serving"]
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
            known["serving"] = outcome.serving or known["serving"]
            if known["turn"]:
                known.update(result=outcome.result, error=outcome.error)
            is_due = min(operation.cost, known["amount"]) or outcome.state == "succeeded"
            if is_due and (answer := operation.answer) and self.claims[answer.claim_id][0] == operation.hold_id:
                self._answer(*answer)
        return self._end(operation.hold_id, known, ended)

    def _is_drawn(self, known: dict[str, Any], attempt: int) -> bool:
        return bool(known["generation"][0] == "running" and known["attempt"] == attempt)

    def _requeue(self, ask: Requeue, known: dict[str, Any]) -> Result:
        if not (known["turn"] and self._is_drawn(known, ask.attempt)):
            return Superseded()
        if ask.reason == "lapsed" and not ask.forced and known["job_lease"] > ask.lease_now_ms:
            return StillLeased()
        name = {"lapsed": "losses", "failed": "failures", "handed_back": ""}[ask.reason]
        if name and known[name] + 1 >= ask.most:
            known.update(error=ask.error)
            return self._end(ask.hold_id, known, ("failed", 0, ask.now_ms, ask.error_code, 0))
        known.update(generation=("queued", *known["generation"][1:]), job_lease=None)
        if name:
            known[name] += 1
        return Requeued(known[name or "failures"])

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

    def _buy(self, ask: BuyPlan) -> Result:
        purse = self.purses.get(ask.purse_id)
        if purse is None or purse["owner"] != ask.account_id:
            return UnknownAccountOrHold()
        if any(move[2] == ask.external_ref for move in self.moves):
            return Bought(self.posted[ask.account_id], repeated=True)
        back = 0
        if ask.replaces is not None:
            old = self.purses.get(ask.replaces)
            if old is None or old["owner"] != ask.account_id:
                return UnknownAccountOrHold()
            left = self.posted[ask.replaces] - self.held(ask.replaces)
            whole_ms = old["ends"] - old["begins"]
            rest_ms = sorted((0, old["ends"] - ask.now_ms, whole_ms))[1]
            back = min(old["price"] * left // old["credit"], old["price"] * rest_ms // whole_ms) if whole_ms else 0
        available = self.posted[ask.account_id] - self.held(ask.account_id) + back
        if available < ask.price:
            return InsufficientFunds(ask.price, available)
        if ask.replaces is not None:
            old["ends"] = sorted((old["begins"], ask.now_ms, old["ends"]))[1]
            self._take_rest(ask.replaces, ask.now_ms)
        purse["is_filled"] = True
        for account, change, cause in (
            (ask.account_id, back, f"{ask.external_ref}:refund"),
            (ask.account_id, -ask.price, f"{ask.external_ref}:price"),
            (ask.purse_id, ask.credit, ask.external_ref),
        ):
            if change:
                self._move(account, change, cause, ask.now_ms, ask.reason)
        return Bought(self.posted[ask.account_id], back)

    def _expire(self, ask: ExpireCredit) -> Result:
        purse = self.purses.get(ask.purse_id)
        if purse is None or purse["owner"] != ask.account_id:
            return UnknownAccountOrHold()
        if purse["ends"] > ask.now_ms:
            return PlanRunning()
        return Expired(self._take_rest(ask.purse_id, ask.now_ms), self.held(ask.purse_id))

    def _take_rest(self, purse: int, now_ms: int) -> int:
        rest = self.posted[purse] - self.held(purse)
        if rest:
            self.purses[purse]["expired"] += rest
            count = sum(move[0] == purse for move in self.moves)
            self._move(purse, -rest, f"expiry:{purse}:{count + 1}", now_ms, None)
        return rest

    def _refund(self, ask: Refund, known: dict[str, Any]) -> Result:
        has, given = self.posted[ask.account_id], sum(known["refunds"])
        if any(move[2] == ask.external_ref for move in self.moves):
            return Refunded(has, 0, given, repeated=True)
        if known["state"] == "pending":
            return NotRefundable(0, is_pending=True)
        left = known["settled"] - given
        wanted = left if ask.amount is None else ask.amount
        if wanted == 0 or wanted > left:
            return NotRefundable(left)
        known["refunds"].append(wanted)
        self._move(ask.account_id, wanted, ask.external_ref, ask.now_ms, ask.reason)
        return Refunded(has + wanted, wanted, given + wanted)

    def _place(self, ask: PlaceHold) -> Result:
        known = self.holds.get(ask.hold_id)
        if known is not None:
            same = known["account"] == ask.account_id
            return Held(known["amount"], known["units"]) if same else UnknownAccountOrHold()
        if ask.claim is not None and not self._is_free(ask.claim.id, ask.now_ms):
            return DuplicateRequest()
        payer, available, window, period = ask.account_id, self.posted[ask.account_id], None, None
        available -= self.held(ask.account_id)
        rooms = {}
        budgets = [budget for budget in (ask.budget, ask.team_budget) if budget is not None]
        for budget in budgets:
            for name, limit in (("day", budget.day), ("month", budget.month), ("total", budget.total)):
                if limit is not None:
                    rooms[name, budget is ask.team_budget] = limit - self.spent(budget.id, name, ask.now_ms)
        plan = self._plan_of(ask.account_id, ask.now_ms)
        # A hold of nothing needs no credit.
        if plan is not None and ask.base + ask.units * ask.unit > 0:
            window = plan[2]
            if plan[1] >= available or plan[1] >= min([ask.base + ask.units * ask.unit, *rooms.values()]):
                payer, available = plan[:2]
        for name, room in rooms.items():
            if room < available:
                available, period = room, name
        fewest = min(ask.least_units, ask.units) if ask.unit else ask.units
        for units in range(ask.units, fewest - 1, -1):
            amount = ask.base + units * ask.unit
            if amount <= max(available, 0):
                turn = None
                if ask.queue_limit is not None:
                    waiting = self.waiting[ask.account_id]
                    if len(waiting) >= ask.queue_limit:
                        return QueueFull(len(waiting))
                    turn = max([self.first_turn, *waiting]) + 1
                    waiting.append(turn)
                self.holds[ask.hold_id] = {
                    "account": ask.account_id, "payer": payer, "amount": amount, "units": units,
                    "state": "pending", "progress": 0,
                    "budgets": [(budget.id, ask.now_ms) for budget in budgets],
                    "settled": 0, "shortfall": 0, "lease": ask.lease_until_ms, "refunds": [], "key": ask.key_id,
                    "began": ask.now_ms, "kind": ask.kind,
                    "generation": (ask.generation.state, 0, None, None, 0),
                    "serving": (ask.generation.model, ask.generation.price_input, ask.generation.price_output),
                    "turn": turn, "attempt": 0, "failures": 0, "losses": 0, "job_lease": None, "result": None,
                    "error": None,
                }  # fmt: skip
                if ask.claim is not None:
                    self.claims[ask.claim.id] = (ask.hold_id, ask.now_ms)
                    self._answer(ask.claim.id, ask.claim.answer)
                return Held(amount, units)
        needed = ask.base + ask.least_units * ask.unit
        if period is not None:
            return OverBudget(period[0], needed, available, period[1])  # type: ignore[arg-type]
        return InsufficientFunds(needed, available, window)

    def spent(self, budget: str, period: str, now_ms: int) -> int:
        """What holds of a budget promise or took that were placed in the period of this moment (all in one month)."""
        return sum(
            h["amount"] if h["state"] == "pending" else h["settled"]
            for h in self.holds.values()
            for name, at_ms in h["budgets"]
            if name == budget and (period != "day" or at_ms // DAY_MS == now_ms // DAY_MS)
        )

    def _is_free(self, claim: str, now_ms: int) -> bool:
        """An Idempotency-Key stands for its first request for a day, or until that ends without charge and answer."""
        first = self.claims.get(claim)
        if first is None or now_ms - first[1] >= DAY_MS:
            return True
        return self.holds[first[0]]["state"] == "voided" and claim not in self.answers

    def _answer(self, claim: str, answer: StoredResponse | None) -> None:
        if answer is None:
            self.answers.pop(claim, None)
        else:
            self.answers[claim] = answer

    def _end(self, hold_id: int, known: dict[str, Any], ended: tuple[Any, ...]) -> Result:
        cost, now_ms = ended[1:3]
        taken = cost if cost < known["amount"] else known["amount"]
        known.update(state="posted" if taken else "voided", settled=taken, shortfall=cost - taken, generation=ended)
        known.update(job_lease=None)
        if taken:
            self._move(known["payer"], -taken, hold_id, now_ms, None)
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
        #: The Idempotency-Key of each hold that has one.
        self._claimed: dict[int, str] = {}
        #: Plans bought so far: purse, owner, and when and with which limits the purse pays.
        self.plans: dict[int, tuple[BuyPlan, int, int, dict[str, int]]] = {}
        self.lives = draw.choice((0.0, 0.1, 0.25))

    def batch(self, largest: int) -> list[Operation]:
        return [self.operation() for _ in range(self.draw.randint(1, largest))]

    def operation(self) -> Operation:
        draw = self.draw
        if self.past and draw.random() < 0.15:
            return draw.choice(self.past[-3:] if draw.random() < 0.5 else self.past)
        often = (
            self._place, self._place, self._settle, self._checkpoint, self._recover, self._requeue, self._requeue,
            self._credit,
        )  # fmt: skip
        follows = 0.7 if self.past and isinstance(self.past[-1], Refund) else self.follows
        operation = self._sequel() if draw.random() < follows else None
        if operation is None and draw.random() < self.lives:
            operation = self._buy() if draw.random() < 0.6 else self._expire()
        if operation is None:
            seldom = {0: self._reverse, 1: self._refund, 2: self._refund}.get(draw.randrange(25))
            operation = seldom() if seldom is not None else draw.choice(often)()
        self.past.append(operation)
        return operation

    def _sequel(self) -> Operation | None:
        """What follows the last operation closely, so that both meet in one batch."""
        last = self.past[-1] if self.past else None
        if isinstance(last, Requeue):
            # Whoever lost a job, or gave it back, ends it all the same.
            return settle(last.hold_id, last.account_id, 20, attempt=last.attempt, outcome=DRAWN)
        if isinstance(last, Refund):
            # The same form again, or somebody else who refunds the same: together they must not exceed the charge.
            return last if self.draw.random() < 0.5 else self._refund(last.hold_id, last.account_id)
        if isinstance(last, BuyPlan):
            # The same form again, another plan in its place, or a request that takes all of its credit.
            follows = self.draw.random()
            if follows < 0.35:
                return last
            if follows < 0.6 and last.purse_id in self.plans:
                return self._buy(last)
            self._last_hold += 1
            self._holds.append((self._last_hold, last.account_id))
            return hold(self._last_hold, last.account_id, last.credit - self.draw.choice((0, 0, 1)) or 1)
        if isinstance(last, PlaceHold) and last.claim is not None:
            return self._answered(last.hold_id, last.account_id, self.draw.choice((0, 0, 20)), DONE)
        if isinstance(last, Settle) and len(self.past) > 1 and isinstance(first := self.past[-2], PlaceHold):
            # Its caller comes again under the same Idempotency-Key.
            self._last_hold += 1
            self._holds.append((self._last_hold, first.account_id))
            if first.claim is not None:
                self._claimed[self._last_hold] = first.claim.id
            return msgspec.structs.replace(first, hold_id=self._last_hold)
        if isinstance(last, Settle) and last.cost:
            return self._refund(last.hold_id, last.account_id)
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
        base, unit = draw.choice((0, 1, 7, 40, 100, 100)), draw.choice((0, 0, 1, 3, 10, 100))
        units = draw.randint(1, 20)
        least = min(units, draw.choice((1, 1, 4, 16)))
        if draw.random() < 0.4:
            limit = draw.choice((1, 2, 3, 3, 8))
            return hold(number, account, base, lease_ms=None, generation=IMAGE, queue_limit=limit)
        lease_ms = NOON_MS + draw.choice((0, 5, 10, 15))
        # A new word every few holds: most of the old ones are spent.
        # Most windows and purses end in between.
        now_ms = NOON_MS + draw.choice((0, 0, 0, 2 * HOUR_MS, DAY_MS)) if self.plans else NOON_MS
        claim = draw.choice(("a", "b", f"c{number // 8}", f"c{number // 8}", None, None, None))
        budget = None
        if draw.random() < 0.3:
            limits = (draw.choice((None, None, 100, 150, 400)) for _ in range(3))
            budget, now_ms = Budget(f"key-of-{account}", *limits), NOON_MS + draw.choice((0, 0, DAY_MS))
        team = None
        if draw.random() < 0.2:
            # Members of one account share it; a member of another account spends it, too, so that batches mix both.
            team = Budget("team-000000000001", *(draw.choice((None, None, 100, 150, 400)) for _ in range(3)))
        if claim is not None:
            self._claimed[number] = f"{account}/{claim}"
        # The answer to a job is known before it is drawn.
        answer = StoredResponse(200, "[]", b"job") if draw.random() < 0.1 else None
        return hold(
            number, account, base, unit=unit, units=units, least=least, lease_ms=lease_ms, claim=claim, budget=budget,
            team=team, now_ms=now_ms, answer=answer,
        )  # fmt: skip

    def _settle(self) -> Settle:
        cost = self.draw.choice((0, 0, 1, 5, 20, 40, 100, 300))
        serving = self.draw.choice((None, None, *OTHERS))
        if self.draw.random() < 0.5:
            outcome = msgspec.structs.replace(DRAWN, serving=serving)
            return settle(*self._known(), cost, attempt=self.draw.choice((1, 1, 2)), outcome=outcome)
        hold_id, account = self._known()
        return self._answered(hold_id, account, cost, msgspec.structs.replace(DONE, serving=serving))

    def _answered(self, hold_id: int, account: int, cost: int, outcome: Outcome) -> Settle:
        """A charge that often stores an answer, and sometimes is none because the work has failed."""
        draw, claim = self.draw, self._claimed.get(hold_id)
        answer = StoredResponse(200, "[]", b"%d" % hold_id)
        return settle(
            hold_id, account, cost,
            outcome=msgspec.structs.replace(outcome, state=draw.choice(("succeeded", "succeeded", "failed"))),
            answer=ClaimAnswer(claim, answer) if claim is not None and draw.random() < 0.6 else None,
        )  # fmt: skip

    def _requeue(self) -> Requeue:
        draw = self.draw
        return requeue(
            *self._known(),
            attempt=draw.choice((1, 1, 1, 2, 3)),
            now_ms=NOON_MS + draw.choice((0, 5, 10, 15, 30)),
            reason=draw.choice(("lapsed", "lapsed", "failed", "handed_back")),
            most=draw.choice((1, 2, 3)),
            forced=draw.random() < 0.2,
        )

    def _checkpoint(self) -> Checkpoint:
        draw = self.draw
        progress, lease_ms = draw.choice((0, 1, 5, 30, 500)), NOON_MS + draw.choice((0, 5, 20))
        return checkpoint(*self._known(), progress, lease_ms, serving=draw.choice((None, None, *OTHERS)))

    def _recover(self) -> Recover:
        return recover(*self._known(), NOON_MS + self.draw.choice((0, 5, 10, 15, 30)), forced=self.draw.random() < 0.2)

    def _reverse(self) -> Reverse:
        return reverse(self._account(), self.draw.choice((1, 30, 200, 900)), f"grant:{self.draw.randint(1, 400)}")

    def _refund(self, *of: int) -> Refund:
        hold_id, account = of or self._known()
        # Few references, so that they repeat, also for another hold.
        reference = f"refund:{self.draw.randint(1, 60)}" if self.draw.random() < 0.5 else None
        return refund(hold_id, account, self.draw.choice((None, 1, 1, 1, 3, 5, 19, 20, 21, 200)), reference)

    def _buy(self, old: BuyPlan | None = None) -> BuyPlan:
        """A plan, also one that begins later or has ended, in place of another one, for nothing, or too dear."""
        draw, number = self.draw, FIRST_PURSE + len(self.plans)
        account = draw.choice(self.accounts) if old is None else self.plans[old.purse_id][0].account_id
        known = [purse for purse, (ask, *_) in self.plans.items() if ask.account_id == account or draw.random() < 0.15]
        replaces = draw.choice(known[-2:]) if known and draw.random() < 0.4 else None
        if old is not None:
            replaces = old.purse_id
        ask = BuyPlan(
            account if draw.random() < 0.97 else self._account(), number, draw.choice((0, 1, 50, 100, 250)),
            draw.choice((1, 60, 100, 400, 1000)), f"plan:{draw.randint(1, 200)}",
            NOON_MS + draw.choice((0, 0, HOUR_MS, 20 * HOUR_MS, DAY_MS)), "a plan", replaces,
        )  # fmt: skip
        begins_ms = NOON_MS - draw.choice((0, 0, HOUR_MS, 4 * HOUR_MS, -2 * HOUR_MS))
        ends_ms = NOON_MS + draw.choice((2 * HOUR_MS, DAY_MS, 2 * DAY_MS, 3 * DAY_MS))
        if ends_ms <= begins_ms:
            ends_ms = begins_ms + HOUR_MS
        chosen = draw.choice(([], ["5h"], ["5h", "week"], ["month"], ["5h", "week", "month"]))
        limits = {kind: draw.choice((20, 100, 300, 5000)) for kind in chosen}
        owned = msgspec.structs.replace(ask, account_id=account)
        self.plans[number] = (owned, begins_ms, ends_ms, limits)
        return ask

    def _expire(self) -> ExpireCredit:
        number = self.draw.choice(list(self.plans)[-4:] or [FIRST_PURSE])
        owner = self.plans[number][0].account_id if number in self.plans else self.accounts[0]
        account = owner if self.draw.random() < 0.95 else self._account()
        return ExpireCredit(account, number, NOON_MS + self.draw.choice((HOUR_MS, 2 * HOUR_MS, DAY_MS, 4 * DAY_MS)))

    def _credit(self) -> Credit:
        return credit(
            self._account(), self.draw.choice((1, 30, 100, 100, 200, 700)), f"grant:{self.draw.randint(1, 400)}"
        )
