"""The vocabulary of the ledger: what may be asked of the books, what they answer, and the part of them in memory.

Every amount is in nano-dollars. The rules live in services/ledger.py, the rows in storage/ledger.py.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from minitoolai.core.budgets import Budget, Period, Spending
from minitoolai.core.records import Claim, Kind, NewGeneration, Outcome

#: System accounts. Their balances are derived from transfers, never stored: one hot row would serialise everybody.
REVENUE = 1
FUNDING = 2
FIRST_CUSTOMER = 1000
#: How long an Idempotency-Key stands for its first request.
CLAIM_LIVES_MS = 24 * 3_600_000


# ── operations ────────────────────────────────────────────────────────────────────────────────────────────


class PlaceHold(msgspec.Struct, frozen=True):
    """Promise money before work: `base` (the prompt) plus `unit` for each of up to `units` of output.

    Where the account cannot buy all units, fewer are granted, but never fewer than `least_units`.
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
    #: For work that waits in the queue: how many of its account may wait there at once.
    queue_limit: int | None = None
    #: Written in the same commit, so that a second request under the same Idempotency-Key places no second hold.
    claim: Claim | None = None
    #: What the key may spend; judged with the balance, in the same moment.
    budget: Budget | None = None


class Settle(msgspec.Struct, frozen=True):
    """Capture min(cost, hold), release the rest, and write down how the work ended. Cost 0 releases all.

    With an `attempt`, only if that is still the one under way: a worker that slept meanwhile changes nothing.
    """

    hold_id: int
    account_id: int
    cost: int
    now_ms: int
    outcome: Outcome
    attempt: int | None = None


class Checkpoint(msgspec.Struct, frozen=True):
    """Work goes on: `progress` is the cost so far, and the lease moves forward."""

    hold_id: int
    account_id: int
    progress: int
    lease_until_ms: int


class Recover(msgspec.Struct, frozen=True):
    """Nobody renews this hold: post its last checkpoint. Refused while the lease runs, unless `forced`."""

    hold_id: int
    account_id: int
    now_ms: int
    forced: bool = False


class Requeue(msgspec.Struct, frozen=True):
    """An attempt at a job ended without its result: back to the queue, or to its end after `most_failures`.

    `lapsed`: nobody renews its lease; refused while that runs, unless `forced`. `failed`: the engine did.
    `handed_back`: the worker stops, which is nobody's failure.
    """

    hold_id: int
    account_id: int
    attempt: int
    now_ms: int
    reason: Literal["lapsed", "failed", "handed_back"]
    most_failures: int
    error_code: str = "interrupted"
    error: str | None = None
    forced: bool = False


class Credit(msgspec.Struct, frozen=True):
    """Money from outside into an account, once for each `external_ref`."""

    account_id: int
    amount: int
    kind: str
    external_ref: str
    now_ms: int
    reason: str | None = None


class Reverse(msgspec.Struct, frozen=True):
    """Money that had come from outside goes back: as much of `amount` as is available, once for each `external_ref`."""

    account_id: int
    amount: int
    kind: str
    external_ref: str
    now_ms: int
    reason: str | None = None


Operation = PlaceHold | Settle | Checkpoint | Recover | Requeue | Credit | Reverse
#: Operations of money from and to outside, each known by its reference.
Outside = Credit | Reverse


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────


class Held(msgspec.Struct, frozen=True):
    """The money is promised: `amount` for `units` of output."""

    amount: int
    units: int


class Refused(msgspec.Struct, frozen=True):
    """The account cannot pay `needed`; it has `available`. Nothing changed."""

    needed: int
    available: int


class QueueFull(msgspec.Struct, frozen=True):
    """The account has `queued` jobs waiting, its most. Nothing changed."""

    queued: int


class Settled(msgspec.Struct, frozen=True):
    """The hold is final. `repeated` when it was so before: then nothing changed.

    `differs`, on a repeated `Settle` only: the books carry another cost, state or usage than this one asked for. The
    writer sets it, because it reads the row of the generation.
    """

    cost: int
    shortfall: int = 0
    repeated: bool = False
    differs: bool = False


class OverBudget(msgspec.Struct, frozen=True):
    """The key may spend no more in this period: `needed` is more than is `left`. Nothing changed."""

    period: Period
    needed: int
    left: int


class Claimed(msgspec.Struct, frozen=True):
    """Another request was made under this Idempotency-Key. Nothing changed."""


class Renewed(msgspec.Struct, frozen=True):
    """The checkpoint is written."""


class StillLeased(msgspec.Struct, frozen=True):
    """Somebody renews this hold; it is not ours to recover."""


class Requeued(msgspec.Struct, frozen=True):
    """The job waits again, after so many failures."""

    failures: int


class Superseded(msgspec.Struct, frozen=True):
    """Another attempt is under way, or none: this one's result is not wanted. Nothing changed."""


class Credited(msgspec.Struct, frozen=True):
    """The money is in. `repeated` when this reference was credited before: then nothing changed."""

    posted: int
    repeated: bool = False


class Reversed(msgspec.Struct, frozen=True):
    """`taken` went back; what was not available of the amount is still owed, and for the caller to remember.

    `repeated` when this reference was moved before: then nothing changed.
    """

    posted: int
    taken: int
    repeated: bool = False


class Unknown(msgspec.Struct, frozen=True):
    """No such account or hold. Nothing changed."""


Verdict = (
    Held
    | Refused
    | OverBudget
    | Claimed
    | QueueFull
    | Settled
    | Renewed
    | StillLeased
    | Requeued
    | Superseded
    | Credited
    | Reversed
    | Unknown
)


# ── the part of the books a batch touches ─────────────────────────────────────────────────────────────────


class AccountState(msgspec.Struct):
    """A customer's account. `version` counts its transfers."""

    posted: int
    held: int
    version: int
    dirty: bool = False

    @property
    def available(self) -> int:
        return self.posted - self.held


class HoldState(msgspec.Struct):
    """A hold. `settled` and `shortfall` mean something once it is no longer pending."""

    account_id: int
    amount: int
    progress: int = 0
    state: str = "pending"
    settled: int = 0
    shortfall: int = 0
    lease_until_ms: int | None = None
    kind: str = "chat"
    #: The budget that it counts against, and the moment that says in which day and month.
    budget_id: str | None = None
    budget_ms: int | None = None
    dirty: bool = False


class JobState(msgspec.Struct):
    """Where a job stands in the queue. `attempt` counts claims; `failures` those that came to nothing."""

    state: str
    attempt: int
    failures: int
    lease_until_ms: int | None
    dirty: bool = False


class QueueState(msgspec.Struct):
    """What an account has in the queue: how many, and the turn of the last of them (0 where there is none)."""

    queued: int = 0
    last_turn: int = 0


class ClaimState(msgspec.Struct):
    """An Idempotency-Key that was sent before, and what became of the first request under it."""

    created_ms: int
    is_kept: bool
    hold_id: int
    hold_state: str
    settled: int

    def is_free(self, now_ms: int) -> bool:
        """Whether a request may be made under it as if it were new: it is old, or nothing was charged and kept."""
        is_old = now_ms - self.created_ms >= CLAIM_LIVES_MS
        return is_old or not (self.is_kept or self.hold_state == "pending" or self.settled)


class NewTransfer(msgspec.Struct, frozen=True):
    """Money moved between two accounts, with the customer's version and balance after it."""

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


class Books:
    """The accounts, holds and jobs that a batch touches, and what it has decided to write."""

    __slots__ = (
        "accounts",
        "claims",
        "credited",
        "first_turn",
        "holds",
        "is_simple",
        "jobs",
        "outcomes",
        "placed",
        "queues",
        "spending",
        "transfers",
        "turns",
    )

    def __init__(self, accounts: dict[int, AccountState], holds: dict[int, HoldState]) -> None:
        self.accounts = accounts
        self.holds = holds
        #: No job, budget, Idempotency-Key or money from outside is touched: there is nothing to write of them.
        self.is_simple = False
        self.credited: set[str] = set()
        self.placed: list[tuple[PlaceHold, int]] = []
        self.outcomes: list[tuple[int, int, int, int, Outcome]] = []
        self.transfers: list[NewTransfer] = []
        self.spending: dict[str, Spending] = {}
        self.claims: dict[str, ClaimState] = {}
        self.jobs: dict[int, JobState] = {}
        #: What each account that asks for a place has in the queue; the lowest turn that waits there, of anybody.
        self.queues: dict[int, QueueState] = {}
        self.first_turn = 0
        #: The turns given to new jobs.
        self.turns: dict[int, int] = {}
