"""Data types of accounts, keys, generations and payments: frozen structs.

Amounts are in nano-dollars, times in milliseconds since 1970, days and months in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Literal, NamedTuple, Protocol

import msgspec

from minitoolai.core.roles import Role

# ── budgets ───────────────────────────────────────────────────────────────────────────────────────────────────────
#
# A budget limits what a key, or all keys of a member, may spend per day, per month and in total. Spending is the sum of
# pending holds and of captured amounts, counted in the day and month in which the hold was placed. The ledger checks
# it (ledger/rules.py), so that two requests cannot both spend the last nano-dollar.

Period = Literal["day", "month", "total"]
PERIODS: tuple[Period, ...] = ("day", "month", "total")


class Budget(msgspec.Struct, frozen=True):
    """Budget of a key or of members, in nano-dollars. None is no limit.

    All keys of a rotation group share its `id`, and so do all members who are given the same budget.
    """

    id: str
    day: int | None = None
    month: int | None = None
    total: int | None = None

    def limit(self, period: Period) -> int | None:
        """Return the limit for a period."""
        return {"day": self.day, "month": self.month, "total": self.total}[period]


#: IDs of budgets of members begin so, and all have this length. No ID of a key has a hyphen.
TEAM_PREFIX = "team-"
TEAM_ID_LENGTH = len(TEAM_PREFIX) + 12


def join_budget_ids(team_id: str | None, key_id: str | None) -> str | None:
    """Return what a hold stores for the budgets that count it: the members' and the key's, if there are any."""
    return "+".join(part for part in (team_id, key_id) if part) or None


def split_budget_ids(stored: str | None) -> tuple[str, ...]:
    """Return the IDs of the budgets that count a hold."""
    if stored is None:
        return ()
    return tuple(stored.split("+", 1)) if stored.startswith(TEAM_PREFIX) else (stored,)


class Spending(msgspec.Struct):
    """Nano-dollars held or captured in one period."""

    used: int = 0
    dirty: bool = False


def period_ids(budget_id: str, now_ms: int) -> dict[Period, str]:
    """Return the row ID of each period that contains this time."""
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    return {
        "day": f"{budget_id}/{moment:%Y-%m-%d}",
        "month": f"{budget_id}/{moment:%Y-%m}",
        "total": f"{budget_id}/total",
    }


# ── key rules ─────────────────────────────────────────────────────────────────────────────────────────────────────


class RateLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rate limits of a key. None or 0 is no limit. `dollars_per_minute` is in nano-dollars."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    dollars_per_minute: int | None = None
    #: Concurrent responses.
    streams: int | None = None


class KeyRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rules of one key: budgets, expiry, models, networks and rate limits. The default allows everything."""

    budget_daily: int | None = None
    budget_monthly: int | None = None
    budget_total: int | None = None
    expires_ms: int | None = None
    models: tuple[str, ...] = ()
    #: IP addresses and networks from which the key may be used. Empty: all.
    allow_ip: tuple[str, ...] = ()
    rate: RateLimits = RateLimits()
    #: Created by a portal page for its own use. Hidden from the customer's list of keys.
    for_pages: bool = False

    def budget(self, budget_id: str) -> Budget | None:
        """Return the budget, or None if there is no limit."""
        if self.budget_daily is self.budget_monthly is self.budget_total is None:
            return None
        return Budget(budget_id, self.budget_daily, self.budget_monthly, self.budget_total)

    def allows_address(self, address: str) -> bool:
        """Return True if the key may be used from this IP address. An invalid address never matches."""
        if not self.allow_ip:
            return True
        try:
            caller = ip_address(address)
        except ValueError:
            return False
        # On a dual-stack socket an IPv4 caller appears as ::ffff:192.0.2.1.
        caller = getattr(caller, "ipv4_mapped", None) or caller
        return any(caller in ip_network(network) for network in self.allow_ip)


UNRESTRICTED = KeyRules()


Kind = Literal["chat", "image", "speech", "transcription"]
HoldStatus = Literal["pending", "posted", "voided"]
GenerationState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class StoredResponse(msgspec.Struct, frozen=True):
    """Response to the first request under an Idempotency-Key, as its row stores it."""

    status: int
    #: List of pairs, as JSON.
    headers: str
    #: Compressed with deflate.
    body: bytes


#: Status of a row that stores the IDs of image jobs, as JSON, for which its request waits.
JOBS_SUBMITTED = 102


class AnswerRecorder(Protocol):
    """Copies the response to a request with an Idempotency-Key while it is sent."""

    async def announce(self, headers: list[tuple[bytes, bytes]], end: bytes) -> None:
        """Hand over a complete response before it is charged: the part sent so far, or these headers, then `end`."""

    def announce_jobs(self, job_ids: list[int]) -> None:
        """Hand over the jobs for which the response will wait, before the first is queued."""

    def announce_failure(self, end: bytes | None) -> None:
        """Hand over a stream that fails, before it is charged. Without an end, its caller left."""


class IdempotencyClaim(msgspec.Struct):
    """Idempotency-Key of a request: for 24 hours it stands for the first paid request sent with it.

    `id` combines account and key, `fingerprint` is a hash of the request, `hold_id` is set once a hold was requested.
    """

    id: str
    fingerprint: bytes
    hold_id: int | None = None
    recorder: AnswerRecorder | None = None
    #: Jobs of the first request with the key, if its process was lost while it waited for them.
    job_ids: tuple[int, ...] = ()
    #: Set by the recorder; written in the commit of the next hold or charge of the request.
    answer: StoredResponse | None = None


class Caller(msgspec.Struct, frozen=True):
    """Sender of a request: the account that pays, and its API key."""

    account_id: int
    key_id: str
    claim: IdempotencyClaim | None = None
    #: Rules of the key, or None if it is unrestricted; and the rotation group that shares its limits and budgets.
    rules: KeyRules | None = None
    rotation_group: str = ""
    #: The price group of the account, which may have left the catalog. None: the list prices.
    price_group: str | None = None
    #: Budget of the member who owns the key.
    team_budget: Budget | None = None
    #: Days for which requests and responses are stored, as the account has chosen. 0: they are not.
    body_days: int = 0


class EngineAttempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt of a generation at one engine, with its error code or None."""

    engine: str
    error_code: str | None
    #: Start of the attempt after the start of the generation, and its duration, in milliseconds.
    after_ms: int
    took_ms: int
    #: The model, if several models were tried.
    model: str | None = None


class NewGeneration(msgspec.Struct, frozen=True):
    """Properties of a generation when its hold is placed. Prices are nano-dollars per unit, rounded up."""

    kind: Kind
    model: str
    engine: str
    price_input: int
    price_output: int
    state: GenerationState = "running"
    request: str | None = None
    #: Image jobs: seed, size (for batching), and the URL to notify at the end.
    seed: int | None = None
    size: str | None = None
    webhook_url: str | None = None


class ServingModel(NamedTuple):
    """The model that served a generation, if it is not the first of its request, and its prices as in the row."""

    model: str
    price_input: int
    price_output: int


class Outcome(msgspec.Struct, frozen=True):
    """How a generation ended: units used, the model that served it, and whether the units are estimated."""

    state: GenerationState
    input_units: int = 0
    output_units: int = 0
    cached_units: int = 0
    estimated: bool = False
    served_model: str | None = None
    error_code: str | None = None
    first_token_ms: int | None = None
    #: Set if another engine than the first one served it: its name, and all attempts as JSON.
    engine: str | None = None
    attempts: str | None = None
    #: What the engine charges the operator, in nano-dollars, if the catalog says so.
    upstream_cost: int | None = None
    #: Image jobs: key of the image in the object store, or the error message.
    result: str | None = None
    error: str | None = None
    #: Bytes of text, audio or image that were sent or made available. None if unknown.
    delivered_bytes: int | None = None
    #: Units and prices by bucket (`core/catalog/prices.py`), as JSON, if more than units and prices of the row is
    #: needed.
    price_split: str | None = None
    #: The model that served it, if it is not the one of the generation's row.
    serving: ServingModel | None = None
    #: It was streamed, so `first_token_ms` is the time to its first token and not to its end.
    is_streamed: bool = False


class Generation(msgspec.Struct, frozen=True):
    """One generation, as shown to its account."""

    id: int
    account_id: int
    key_id: str
    kind: Kind
    model: str
    engine: str
    served_model: str | None
    state: GenerationState
    price_input: int
    price_output: int
    input_units: int
    output_units: int
    cached_units: int
    estimated: bool
    cost: int
    shortfall: int
    held: int
    error_code: str | None
    created_ms: int
    finished_ms: int | None
    first_token_ms: int | None
    attempts: str | None = None
    price_split: str | None = None
    #: Part of the cost that was given back.
    refunded: int = 0


class Balance(msgspec.Struct, frozen=True):
    """Balance of an account: `posted` is payments less usage, `held` is reserved for running generations."""

    posted: int
    held: int

    @property
    def available(self) -> int:
        return self.posted - self.held


#: Bucket with a price of its own (`core/catalog/prices.py::APART`) → units and nano-dollars, both part of other sums.
Buckets = dict[str, tuple[int, int]]


class UsageRow(msgspec.Struct, frozen=True):
    """One line of the usage report."""

    group: str
    kind: Kind
    requests: int
    input_units: int
    output_units: int
    cost: int
    buckets: Buckets = {}
    #: Part of the cost that was given back.
    refunded: int = 0


class UsageCell(msgspec.Struct, frozen=True):
    """Usage of one model by one key on one day (counted since 1970)."""

    day: int
    kind: Kind
    model: str
    key_id: str
    requests: int
    input_units: int
    output_units: int
    cost: int
    buckets: Buckets = {}
    #: Part of the cost that was given back.
    refunded: int = 0


def sum_cells(cells: list[UsageCell]) -> UsageCell:
    """Sum one or more cells. The day, kind, model and key are those of the first."""
    return msgspec.structs.replace(
        cells[0],
        requests=sum(cell.requests for cell in cells),
        input_units=sum(cell.input_units for cell in cells),
        output_units=sum(cell.output_units for cell in cells),
        cost=sum(cell.cost for cell in cells),
        buckets=sum_buckets(cell.buckets for cell in cells),
        refunded=sum(cell.refunded for cell in cells),
    )


def sum_buckets(all_buckets: Iterable[Buckets]) -> Buckets:
    """Sum units and costs by bucket."""
    sums: Buckets = {}
    for buckets in all_buckets:
        for name, (units, cost) in buckets.items():
            before = sums.get(name, (0, 0))
            sums[name] = before[0] + units, before[1] + cost
    return sums


class RecentRequest(msgspec.Struct, frozen=True):
    """One of the last requests of an account, as shown in a list."""

    id: int
    created_ms: int
    finished_ms: int | None
    kind: Kind
    model: str
    key_id: str
    state: GenerationState
    error_code: str | None
    input_units: int
    output_units: int
    cached_units: int
    cost: int
    #: Its hold is pending, so the cost is not known yet.
    is_pending: bool
    engine: str = ""
    #: Part of the cost that was given back.
    refunded: int = 0
    #: The purse of a plan that paid. None: the balance.
    purse_id: int | None = None


#: What the audit log records.
AdminActionKind = Literal[
    "grant",
    "revoke_keys",
    "reload_catalog",
    "suspend",
    "unsuspend",
    "reverse",
    "refund",
    "cancel_vouchers",
    "note",
    "view",
    "set_group",
    "start_plan",
    "end_plan",
    "create_coupon",
    "cancel_coupon",
    "reset_second_factor",
]


class AdminAction(msgspec.Struct, frozen=True):
    """Action of an admin, or of the command line if `admin_id` is None. Some are not about one account.

    `subject`: the generation, voucher or batch of vouchers that it was done to. `admin` and `email` are the current
    e-mail addresses of both accounts.
    """

    id: int
    admin_id: int | None
    account_id: int | None
    action: AdminActionKind
    amount: int | None
    note: str | None
    created_ms: int
    subject: str | None = None
    #: The IP address of the admin's browser, or user and machine of the command line.
    source: str | None = None
    admin: str = ""
    email: str = ""


class RevenueRow(msgspec.Struct, frozen=True):
    """Revenue of all accounts on one day for one kind, with the upstream cost as far as it is known."""

    day: int
    kind: Kind
    requests: int
    sold: int
    upstream_cost: int
    #: Part of `sold` that was given back.
    refunded: int = 0


class JobRow(msgspec.Struct, frozen=True):
    """Image job as shown to admins: without prompt and image."""

    id: int
    account_id: int
    model: str
    state: GenerationState
    step: int
    failures: int
    worker: str | None
    error: str | None
    created_ms: int


class MarginRow(msgspec.Struct, frozen=True):
    """Revenue and upstream cost of one model on one engine.

    `sold_with_known_cost` is the part of `sold` with a known upstream cost.
    """

    model: str
    engine: str
    requests: int
    sold: int
    upstream_cost: int
    sold_with_known_cost: int
    buckets: Buckets = {}
    #: Part of `sold` that was given back.
    refunded: int = 0


class KeyRow(msgspec.Struct, frozen=True):
    """API key. Only the HMAC of its secret is stored."""

    id: str
    account_id: int
    name: str
    secret_hmac: bytes
    created_ms: int
    revoked_ms: int | None
    rules: KeyRules = UNRESTRICTED
    #: ID of the first key of its rotation group. The keys of a group share limits and budgets. None: the key itself.
    rotation_group: str | None = None
    #: The member who owns the key. None: the account's own, made by the command line.
    member_id: int | None = None


class User(msgspec.Struct, frozen=True):
    """Portal user, and the account in which the user works, with its current balance.

    `account_id`, balance, suspension and price group are those of the account; the other fields are the user's own.
    """

    account_id: int
    email: str
    is_admin: bool
    language: str | None
    created_ms: int
    posted: int
    held: int
    has_second_factor: bool = False
    #: Since when the account is suspended, and why, as shown to the customer.
    suspended_ms: int | None = None
    suspended_reason: str | None = None
    #: None: the list prices.
    price_group: str | None = None
    #: The number of the user, which is that of the account opened at the sign-up. 0: the same as `account_id`.
    person_id: int = 0
    #: Role in the account. None: the user is no member of any account.
    role: Role | None = "owner"
    #: Name of the account: the address of the user who opened it.
    account_name: str = ""
    #: Someone with the password has asked to remove all second factors, and the mailbox has confirmed it.
    is_factor_reset_pending: bool = False

    @property
    def user_id(self) -> int:
        return self.person_id or self.account_id

    @property
    def available(self) -> int:
        return self.posted - self.held


class Device(msgspec.Struct, frozen=True):
    """What a session stores of its browser. A name is empty if it is unknown."""

    address: str = ""
    browser: str = ""
    system: str = ""


class SessionRow(msgspec.Struct, frozen=True):
    """Session of a user: the hash of its secret, and the browser that uses it."""

    secret_hash: bytes
    created_ms: int
    seen_ms: int
    device: Device


class SecondFactor(msgspec.Struct, frozen=True):
    """TOTP second factor of a user. The secret is encrypted; no code of `last_step` or before is accepted again."""

    account_id: int
    secret: bytes
    last_step: int
    created_ms: int


class EmailChange(msgspec.Struct, frozen=True):
    """Change of an e-mail address that both mailboxes must confirm, each by a link with a secret of its own."""

    account_id: int
    email: str
    new_hash: bytes
    old_hash: bytes
    is_new_confirmed: bool
    is_old_confirmed: bool
    expires_ms: int


class MailLink(msgspec.Struct, frozen=True):
    """Link sent by e-mail. A sign-up link carries hashes of the new password and of the browser that requested it."""

    purpose: Literal["signup", "reset"]
    email: str
    password_hash: str | None
    browser_hash: bytes | None
    expires_ms: int


class Voucher(msgspec.Struct, frozen=True):
    """Voucher that can be redeemed once. Only the end of the code is stored, as `hint`."""

    hint: str
    amount: int
    note: str | None
    created_ms: int
    expires_ms: int | None
    redeemed_ms: int | None = None
    account_id: int | None = None
    #: The vouchers that were created together have the same batch.
    batch: str | None = None
    cancelled_ms: int | None = None


class Payment(msgspec.Struct, frozen=True):
    """Payment through a provider. The account should get `paid - reversed`; it has got `moved` so far."""

    id: int
    account_id: int
    provider: str
    provider_ref: str | None
    intent: str | None
    asked: int
    paid: int
    reversed: int
    moved: int
    version: int
    looks: int
    state: Literal["open", "paid", "closed"]
    created_ms: int
    changed_ms: int
    #: Charged by an automatic top-up.
    is_auto: int = 0
    #: The currency that the customer pays in, if that is not the dollar, and the amount in its cents.
    currency: str | None = None
    charged: int | None = None
    #: Why it was not credited although the provider reported something.
    problem: Literal["currency", "amount", "failed"] | None = None
    #: The subscription that it pays a period of.
    subscription_id: int | None = None

    @property
    def owed(self) -> int:
        """Return the reversed amount that could not be taken back from the account yet."""
        return max(self.moved - (self.paid - self.reversed), 0)


class StatementRow(msgspec.Struct, frozen=True):
    """One transfer of an account: `amount` is signed, `version` counts the transfers of the account from 1.

    A transfer for usage carries the generation that it paid for.
    """

    version: int
    at_ms: int
    kind: str
    amount: int
    balance_after: int
    reason: str | None = None
    generation_id: int | None = None
    work: Kind | None = None
    model: str | None = None
    key_id: str | None = None
    input_units: int = 0
    output_units: int = 0
    estimated: bool = False
    cached_units: int = 0
    engine: str = ""
