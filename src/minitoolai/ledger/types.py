"""Ledger types: operations, their results, and the state in memory that a batch reads and changes.

All amounts are in nano-dollars. The rules are in ledger/rules.py, the SQL is in storage/tables/ledger.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from minitoolai.core.models import (
    Budget,
    IdempotencyClaim,
    Kind,
    NewGeneration,
    Outcome,
    Period,
    ServingModel,
    Spending,
    StoredResponse,
    join_budget_ids,
)
from minitoolai.core.plans import PlanWindow, Windows, window_at, window_begin, window_id

#: System accounts. Their balances are derived from transfers, because a stored one would be a hot row.
REVENUE = 1
FUNDING = 2
FIRST_CUSTOMER = 1000
#: Lifetime of an Idempotency-Key.
IDEMPOTENCY_TTL_MS = 24 * 3_600_000


class Work(NamedTuple):
    """What a hold was placed for: it decides which row of `usage_days` counts the generation."""

    key_id: str
    model: str
    created_ms: int


# ── operations ────────────────────────────────────────────────────────────────────────────────────────────


class PlaceHold(msgspec.Struct, frozen=True):
    """Reserve money before the work: `base` (the prompt) plus `unit` for each of up to `units` of output.

    If the account cannot pay for all units, fewer are granted, but never fewer than `least_units`.
    """

    hold_id: int
    account_id: int
    key_id: str
    kind: Kind
    base: int
    unit: int
    units: int
    least_units: int
    lease_until_ms: int | None
    now_ms: int
    generation: NewGeneration
    #: For queued work: the maximum number of queued jobs of the account.
    queue_limit: int | None = None
    #: Written in the same commit, with its answer if that is known already, so that a second request with the same
    #: Idempotency-Key places no second hold.
    claim: IdempotencyClaim | None = None
    #: Budgets of the key and of the member who owns it, checked together with the balance.
    budget: Budget | None = None
    team_budget: Budget | None = None


def budgets_of(hold: PlaceHold) -> list[Budget]:
    """Return the budgets that a new hold counts against."""
    if hold.budget is None and hold.team_budget is None:
        return []
    return [budget for budget in (hold.budget, hold.team_budget) if budget is not None]


def stored_budgets(hold: PlaceHold) -> str | None:
    """Return what the row of a new hold stores for its budgets."""
    team, key = hold.team_budget, hold.budget
    return join_budget_ids(team.id if team else None, key.id if key else None)


class ClaimAnswer(NamedTuple):
    """Response to a request with an Idempotency-Key: `claim_id` is the ID of the key's row."""

    claim_id: str
    response: StoredResponse


class Settle(msgspec.Struct, frozen=True):
    """Capture min(cost, hold), release the remainder, and record how the work ended. Cost 0 releases everything.

    With an `attempt`, only if it is still the running one, so that a worker that lost its lease changes nothing.
    """

    hold_id: int
    account_id: int
    cost: int
    now_ms: int
    outcome: Outcome
    attempt: int | None = None
    #: What the hold was placed for, if the caller knows it; it is read from the generation's row otherwise.
    work: Work | None = None
    #: Written in the same commit, so that a charged request can be repeated whenever this process is lost.
    answer: ClaimAnswer | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """Record the cost so far as `progress` and extend the lease.

    `serving`: the model that the progress is for, if it is not the one of the generation's row.
    """

    hold_id: int
    account_id: int
    progress: int
    lease_until_ms: int
    serving: ServingModel | None = None


class Recover(msgspec.Struct, frozen=True):
    """Settle an abandoned hold at its last checkpoint. Refused while the lease runs, unless `forced`.

    `lease_now_ms` is the time on the clock for leases, which differs from that for records (`now_ms`).
    """

    hold_id: int
    account_id: int
    now_ms: int
    forced: bool = False
    lease_now_ms: int = 0


class Requeue(msgspec.Struct, frozen=True):
    """Return a job to the queue after an attempt without a result, or fail it after `most` of these.

    `lapsed`: the attempt was lost with its worker or machine, which counts as a loss; refused while the lease runs,
    unless `forced`. `failed`: the engine failed. `handed_back`: the worker is stopping, which counts as neither.
    `lease_now_ms` is as in `Recover`.
    """

    hold_id: int
    account_id: int
    attempt: int
    now_ms: int
    reason: Literal["lapsed", "failed", "handed_back"]
    most: int
    error_code: str = "interrupted"
    error: str | None = None
    forced: bool = False
    lease_now_ms: int = 0


class Credit(msgspec.Struct, frozen=True):
    """Move external money into an account, once per `external_ref`."""

    account_id: int
    amount: int
    kind: str
    external_ref: str
    now_ms: int
    reason: str | None = None


class Reverse(msgspec.Struct, frozen=True):
    """Move external money back out, as much of `amount` as is available, once per `external_ref`."""

    account_id: int
    amount: int
    kind: str
    external_ref: str
    now_ms: int
    reason: str | None = None


class Refund(msgspec.Struct, frozen=True):
    """Give back a part of what a settled hold took, or the remainder if `amount` is None, once per `external_ref`.

    All refunds of a hold together never exceed its charge.
    """

    hold_id: int
    account_id: int
    amount: int | None
    external_ref: str
    now_ms: int
    reason: str | None = None


class BuyPlan(msgspec.Struct, frozen=True):
    """Take the price of a plan from the balance and fill its purse with the credit, once per `external_ref`.

    The purse exists and is empty. `replaces`: the purse of the present plan, which ends now. Of its price, the unused
    part is given back first: see `unused_part` in ledger/rules.py.
    """

    account_id: int
    purse_id: int
    price: int
    credit: int
    external_ref: str
    now_ms: int
    reason: str | None = None
    replaces: int | None = None


class ExpireCredit(msgspec.Struct, frozen=True):
    """Take the credit that is left in a purse after its end. What its pending holds hold stays until they are settled.

    Repeating it changes nothing, because nothing is left then.
    """

    account_id: int
    purse_id: int
    now_ms: int


Operation = PlaceHold | Settle | Checkpoint | Recover | Requeue | Credit | Reverse | Refund | BuyPlan | ExpireCredit
#: Operations on money without a hold.
ExternalOperation = Credit | Reverse | BuyPlan | ExpireCredit
#: Operations that are applied once per reference.
ReferencedOperation = Credit | Reverse | Refund | BuyPlan


# ── results ───────────────────────────────────────────────────────────────────────────────────────────────


class Held(msgspec.Struct, frozen=True):
    """The hold is placed: `amount` for `units` of output."""

    amount: int
    units: int


class InsufficientFunds(msgspec.Struct, frozen=True):
    """The account cannot pay `needed`; it has `available`. Nothing changed.

    `window`: what keeps the account from spending more of its plan's credit, until the window ends.
    """

    needed: int
    available: int
    window: PlanWindow | None = None


class QueueFull(msgspec.Struct, frozen=True):
    """The account already has the maximum of `queued` jobs. Nothing changed."""

    queued: int


class Settled(msgspec.Struct, frozen=True):
    """The hold is settled. `repeated`: it was settled before, and nothing changed.

    `differs`, on a repeated `Settle` only: the ledger has another cost, state or usage than this one asked for. The
    writer sets it, because it reads the row of the generation.
    """

    cost: int
    shortfall: int = 0
    repeated: bool = False
    differs: bool = False


class OverBudget(msgspec.Struct, frozen=True):
    """The budget of the key for this period has only `left` of the `needed` amount. Nothing changed.

    `is_team`: it is the budget of the member who owns the key.
    """

    period: Period
    needed: int
    left: int
    is_team: bool = False


class DuplicateRequest(msgspec.Struct, frozen=True):
    """Another request was made with this Idempotency-Key. Nothing changed."""


class Renewed(msgspec.Struct, frozen=True):
    """The checkpoint is recorded."""


class StillLeased(msgspec.Struct, frozen=True):
    """The lease still runs, so the hold cannot be recovered. Nothing changed."""


class Requeued(msgspec.Struct, frozen=True):
    """The job is queued again, after this many losses if the attempt was lost, else after this many failures."""

    count: int


class Superseded(msgspec.Struct, frozen=True):
    """This attempt is no longer the running one, so its result is discarded. Nothing changed."""


class Credited(msgspec.Struct, frozen=True):
    """The money is credited. `repeated`: the reference was credited before, and nothing changed."""

    posted: int
    repeated: bool = False


class Reversed(msgspec.Struct, frozen=True):
    """`taken` was moved back. The caller must remember the remainder of the amount, which is still owed.

    `repeated`: the reference was used before, and nothing changed.
    """

    posted: int
    taken: int
    repeated: bool = False


class Refunded(msgspec.Struct, frozen=True):
    """`amount` was given back; all refunds of the hold together are `total`.

    `repeated`: the reference was used before, and nothing changed.
    """

    posted: int
    amount: int
    total: int
    repeated: bool = False


class NotRefundable(msgspec.Struct, frozen=True):
    """Of what the hold took, only `left` can still be given back. Nothing changed.

    `is_pending`: the hold is not settled yet, so it has not taken anything.
    """

    left: int
    is_pending: bool = False


class Bought(msgspec.Struct, frozen=True):
    """The plan is paid and its purse filled. `refunded`: the unused part of the plan that it replaces.

    `repeated`: the reference was used before, and nothing changed.
    """

    posted: int
    refunded: int = 0
    repeated: bool = False


class Expired(msgspec.Struct, frozen=True):
    """`amount` of the purse's credit has expired. `held` is left for pending holds."""

    amount: int
    held: int = 0


class PlanRunning(msgspec.Struct, frozen=True):
    """The purse's credit cannot expire before its end. Nothing changed."""


class UnknownAccountOrHold(msgspec.Struct, frozen=True):
    """No such account or hold. Nothing changed."""


Result = (
    Held
    | InsufficientFunds
    | OverBudget
    | DuplicateRequest
    | QueueFull
    | Settled
    | Renewed
    | StillLeased
    | Requeued
    | Superseded
    | Credited
    | Reversed
    | Refunded
    | NotRefundable
    | Bought
    | Expired
    | PlanRunning
    | UnknownAccountOrHold
)


# ── the state that a batch touches ────────────────────────────────────────────────────────────────────────


class AccountState(msgspec.Struct):
    """Account of a customer. `version` counts its transfers. `purse_stamp` changes whenever its purses do."""

    posted: int
    held: int
    version: int
    dirty: bool = False
    purse_stamp: int | None = None

    @property
    def available(self) -> int:
        return self.posted - self.held


class PurseState(msgspec.Struct):
    """Purse: the account of a plan's credit. Its money is in `LedgerState.accounts`, under the same ID.

    It pays holds of its owner that are placed from `begins_ms` until before `ends_ms`.
    """

    owner_id: int
    begins_ms: int
    ends_ms: int
    price: int
    credit: int
    windows: Windows = Windows()
    #: Credit that has expired.
    expired: int = 0
    dirty: bool = False
    #: The last result of `windows_at`, and from when until when it is the same.
    _windows: list[NamedWindow] = []
    _from_ms: int = 0
    _until_ms: int = 0
    #: The last result of `LedgerState.windows_of`, for the same time.
    _counted: list[CountedWindow] | None = None

    def is_open(self, now_ms: int) -> bool:
        """Return True if the purse pays for holds that are placed now."""
        return self.begins_ms <= now_ms < self.ends_ms

    def windows_at(self, purse_id: int, now_ms: int) -> list[NamedWindow]:
        """Return row ID, window and limit of each limited window that contains this time."""
        if not self._from_ms <= now_ms < self._until_ms:
            self._windows, self._from_ms, self._until_ms = _windows_at(purse_id, self.begins_ms, self.windows, now_ms)
            self._counted = None
        return self._windows

    def forget_counted(self) -> None:
        """Look the spending of its windows up again: one of them has been loaded."""
        self._counted = None


#: Row ID, window and limit; and spending (None if it is deleted), window and limit.
NamedWindow = tuple[str, PlanWindow, int]
CountedWindow = tuple[Spending | None, PlanWindow, int]
_Span = tuple[list[NamedWindow], int, int]
#: The windows of each purse for which they were computed last. They follow from the key and the time alone.
_spans: dict[tuple[int, int, Windows], _Span] = {}
MOST_SPANS = 10_000


def _windows_at(purse_id: int, begins_ms: int, windows: Windows, now_ms: int) -> _Span:
    """Return the limited windows of a purse that contain this time, and from when until when they are the same."""
    key = purse_id, begins_ms, windows
    span = _spans.get(key)
    if span is None or not span[1] <= now_ms < span[2]:
        found = [(window_at(kind, begins_ms, now_ms), limit) for kind, limit in windows.limits()]
        from_ms = max((window_begin(window, begins_ms) for window, _ in found), default=now_ms)
        until_ms = min((window.ends_ms for window, _ in found), default=now_ms + 1)
        span = [(window_id(purse_id, window), window, limit) for window, limit in found], from_ms, until_ms
        if len(_spans) >= MOST_SPANS:
            _spans.clear()
        _spans[key] = span
    return span


class OpenPurses:
    """The purses of one account that are not closed, as a writer has last written or read them.

    They are true as long as the account has the same stamp. Each writer takes them out while it changes them, so what
    a rolled-back transaction leaves has a stamp that no row ever had.
    """

    __slots__ = ("credit", "purses", "stamp", "windows")

    def __init__(self) -> None:
        self.stamp: int | None = None
        self.purses: dict[int, PurseState] = {}
        self.credit: dict[int, AccountState] = {}
        self.windows: dict[str, Spending] = {}


class HoldState(msgspec.Struct):
    """Hold. `settled` and `shortfall` are valid once it is no longer pending."""

    account_id: int
    amount: int
    progress: int = 0
    state: str = "pending"
    settled: int = 0
    shortfall: int = 0
    lease_until_ms: int | None = None
    kind: str = "chat"
    #: The budgets that the hold counts against (`join_budget_ids`), and the time that determines day and month.
    budget_id: str | None = None
    budget_ms: int | None = None
    #: The purse that pays instead of the account.
    purse_id: int | None = None
    dirty: bool = False


class JobState(msgspec.Struct):
    """State of a job. `attempt` counts claims, `failures` those that failed, `losses` those that were lost in a row."""

    state: str
    attempt: int
    failures: int
    losses: int
    lease_until_ms: int | None
    dirty: bool = False


class QueueState(msgspec.Struct):
    """Queue of an account: number of queued jobs, and the turn of the last one (0 if there is none)."""

    queued: int = 0
    last_turn: int = 0


class IdempotencyClaimState(msgspec.Struct):
    """Known Idempotency-Key, and the state of the hold of its first request."""

    created_ms: int
    is_kept: bool
    hold_id: int
    hold_state: str
    settled: int

    def is_free(self, now_ms: int) -> bool:
        """Return True if the key can be used as if new: it expired, or nothing was charged or stored."""
        is_old = now_ms - self.created_ms >= IDEMPOTENCY_TTL_MS
        return is_old or not (self.is_kept or self.hold_state == "pending" or self.settled)


class RefundState(msgspec.Struct):
    """Refunds of one hold so far: their number and their sum."""

    count: int = 0
    total: int = 0


class NewRefund(msgspec.Struct, frozen=True):
    """Row of a refund: the `number`th of its hold, which took `cost`; all of them together are `total`."""

    hold_id: int
    number: int
    account_id: int
    external_ref: str
    amount: int
    total: int
    cost: int


class NewTransfer(msgspec.Struct, frozen=True):
    """Transfer between two accounts, with the customer's version and balance after it."""

    kind: str
    debit: int
    credit: int
    amount: int
    hold_id: int | None
    external_ref: str | None
    account_version: int
    balance_after: int
    created_ms: int
    reason: str | None = None


class LedgerState:
    """Accounts, holds and jobs that a batch touches, and the rows that it will write."""

    __slots__ = (
        "accounts",
        "answers",
        "claims",
        "first_turn",
        "holds",
        "is_simple",
        "jobs",
        "known_references",
        "new_holds",
        "new_refunds",
        "open_purses",
        "outcomes",
        "owned",
        "purses",
        "queues",
        "refunds",
        "serving",
        "spending",
        "transfers",
        "turns",
        "windows",
        "work",
    )

    def __init__(self, accounts: dict[int, AccountState], holds: dict[int, HoldState]) -> None:
        self.accounts = accounts
        self.holds = holds
        #: True if the batch touches no job, budget, Idempotency-Key or external money, so none of these is written.
        self.is_simple = False
        self.known_references: set[str] = set()
        self.new_holds: list[tuple[PlaceHold, int]] = []
        self.outcomes: list[tuple[int, int, int, int, Outcome]] = []
        self.transfers: list[NewTransfer] = []
        #: Refunds of each hold that this batch may refund, and those that it adds.
        self.refunds: dict[int, RefundState] = {}
        self.new_refunds: list[NewRefund] = []
        self.spending: dict[str, Spending] = {}
        self.claims: dict[str, IdempotencyClaimState] = {}
        #: Of each settled hold: the response to store under its Idempotency-Key.
        self.answers: list[tuple[int, ClaimAnswer]] = []
        self.jobs: dict[int, JobState] = {}
        #: Queue of each account that submits a job, and the lowest queued turn of all accounts.
        self.queues: dict[int, QueueState] = {}
        self.first_turn = 0
        #: Turn assigned to each new job.
        self.turns: dict[int, int] = {}
        #: Of each generation that another model serves than its row says.
        self.serving: dict[int, ServingModel] = {}
        #: Of each hold that this batch may settle or refund.
        self.work: dict[int, Work] = {}
        #: Purses of the batch's accounts that are not closed, by ascending beginning, and spending in their windows.
        self.purses: dict[int, PurseState] = {}
        self.windows: dict[str, Spending] = {}
        #: The same purses by owner. Filled when it is first needed.
        self.owned: dict[int, list[tuple[int, PurseState]]] = {}
        #: For storage: the same by owner, to be remembered until the next batch.
        self.open_purses: dict[int, OpenPurses] = {}

    def purses_of(self, owner_id: int) -> list[tuple[int, PurseState]]:
        """Return the purses of an account that are not closed, by ascending beginning."""
        if not self.owned:
            for purse_id, purse in self.purses.items():
                self.owned.setdefault(purse.owner_id, []).append((purse_id, purse))
        return self.owned.get(owner_id, [])

    def windows_of(self, purse_id: int, at_ms: int) -> list[CountedWindow]:
        """Return spending, window and limit of each limited window of a purse that contains this time."""
        purse = self.purses[purse_id]
        named = purse.windows_at(purse_id, at_ms)
        if purse._counted is None:
            purse._counted = [(self.windows.get(name), window, limit) for name, window, limit in named]
        return purse._counted

    def work_of(self, hold_id: int) -> Work:
        """Return what a hold was placed for, and the model that serves it as far as this batch knows."""
        work = self.work.get(hold_id)
        if work is None:
            placed = next(operation for operation, _ in self.new_holds if operation.hold_id == hold_id)
            work = Work(placed.key_id, placed.generation.model, placed.now_ms)
        serving = self.serving.get(hold_id)
        return work if serving is None else work._replace(model=serving.model)
