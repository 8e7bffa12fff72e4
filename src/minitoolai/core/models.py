"""Rows as the services see them: frozen, without behaviour. Amounts in nano-dollars, times in ms since 1970."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Literal

import msgspec

# (merged from budgets) What a key may spend: a day, a month and in all. Days and months are UTC.
# (merged from budgets)
# (merged from budgets) Counted is what its holds promise and what was captured of those that ended, in the day and month in which they were
# (merged from budgets) placed. The rule stands in services/ledger.py, so that no two requests can both have the last nano-dollar.

Period = Literal["day", "month", "total"]
PERIODS: tuple[Period, ...] = ("day", "month", "total")


class Budget(msgspec.Struct, frozen=True):
    """The budget behind a key, in nano-dollars; None is no limit. Keys that follow one another share its `id`."""

    id: str
    day: int | None = None
    month: int | None = None
    total: int | None = None

    def limit(self, period: Period) -> int | None:
        """What may be spent in such a period."""
        return {"day": self.day, "month": self.month, "total": self.total}[period]


class Spending(msgspec.Struct):
    """What was promised or taken in one period."""

    used: int = 0
    dirty: bool = False


def period_ids(budget_id: str, now_ms: int) -> dict[Period, str]:
    """The name of each period that this moment lies in."""
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    return {
        "day": f"{budget_id}/{moment:%Y-%m-%d}",
        "month": f"{budget_id}/{moment:%Y-%m}",
        "total": f"{budget_id}/total",
    }


# (merged from key_rules) What a key may do: spend so much, until a moment, with some models, from some addresses, so often.


class RateLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much at most. Nothing, as None or 0, is no limit. `dollars_per_minute` in nano-dollars."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    dollars_per_minute: int | None = None
    #: Answers under way at once.
    streams: int | None = None


class KeyRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rules of one key. Budgets in nano-dollars, counted in UTC; nothing given is nothing forbidden."""

    budget_daily: int | None = None
    budget_monthly: int | None = None
    budget_total: int | None = None
    expires_ms: int | None = None
    models: tuple[str, ...] = ()
    #: Addresses and networks that it may be used from.
    allow_ip: tuple[str, ...] = ()
    rate: RateLimits = RateLimits()
    #: Made by a page of the portal for itself: it is not among the keys that the account's people see.
    for_pages: bool = False

    def budget(self, budget_id: str) -> Budget | None:
        """What may be spent; None where there is no limit to it."""
        if self.budget_daily is self.budget_monthly is self.budget_total is None:
            return None
        return Budget(budget_id, self.budget_daily, self.budget_monthly, self.budget_total)

    def allows_address(self, address: str) -> bool:
        """Whether it may be used from there; an address that cannot be read is nowhere."""
        if not self.allow_ip:
            return True
        try:
            here = ip_address(address)
        except ValueError:
            return False
        # On a socket for both families an IPv4 caller arrives as ::ffff:192.0.2.1.
        here = getattr(here, "ipv4_mapped", None) or here
        return any(here in ip_network(network) for network in self.allow_ip)


UNRESTRICTED = KeyRules()


Kind = Literal["chat", "image", "speech"]
HoldStatus = Literal["pending", "posted", "voided"]
GenerationState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class IdempotencyClaim(msgspec.Struct):
    """A request's Idempotency-Key: for 24 hours it stands for the first paid request sent under it.

    `id` names account and key together; `fingerprint` is of the request; `hold_id` is set once money was asked for.
    """

    id: str
    fingerprint: bytes
    hold_id: int | None = None


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request: the account that pays and the key that was shown."""

    account_id: int
    key_id: str
    claim: IdempotencyClaim | None = None
    #: What the key may do, where anything is forbidden to it; and whose limits and budgets it shares.
    rules: KeyRules | None = None
    rotation_group: str = ""


class EngineAttempt(msgspec.Struct, frozen=True):
    """One engine asked for one piece of work: how it failed, or None; when it was asked, and for how long it had it."""

    engine: str
    error_code: str | None
    #: Milliseconds, the first counted from the moment the work was begun.
    after_ms: int
    took_ms: int


class NewGeneration(msgspec.Struct, frozen=True):
    """What is known of paid work when its hold is placed. Prices are nano-dollars a unit, fixed here."""

    kind: Kind
    model: str
    engine: str
    price_input: int
    price_output: int
    state: GenerationState = "running"
    request: str | None = None
    #: Of a job: what decides the picture, what it can be drawn together with, and whom to tell of its end.
    seed: int | None = None
    size: str | None = None
    webhook_url: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """How paid work ended: units used, what really answered, and whether we had to estimate."""

    state: GenerationState
    input_units: int = 0
    output_units: int = 0
    cached_units: int = 0
    estimated: bool = False
    served_model: str | None = None
    error_code: str | None = None
    first_token_ms: int | None = None
    #: Set where another engine answered than the one asked first: who, and every attempt as JSON.
    engine: str | None = None
    attempts: str | None = None
    #: What the engine charges us, in nano-dollars, where the catalog says so.
    upstream_cost: int | None = None
    #: Of a job: where its result lies, or why there is none, in a sentence.
    result: str | None = None
    error: str | None = None


class Generation(msgspec.Struct, frozen=True):
    """One piece of paid work, as its owner may see it."""

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


class Balance(msgspec.Struct, frozen=True):
    """posted is what was paid in less what was used; held is promised to work under way."""

    posted: int
    held: int

    @property
    def available(self) -> int:
        return self.posted - self.held


class UsageRow(msgspec.Struct, frozen=True):
    """One line of the usage report."""

    group: str
    kind: Kind
    requests: int
    input_units: int
    output_units: int
    cost: int


class UsageCell(msgspec.Struct, frozen=True):
    """What one key used of one model on one day (UTC, counted since 1970). Cost in nano-dollars."""

    day: int
    kind: Kind
    model: str
    key_id: str
    requests: int
    input_units: int
    output_units: int
    cost: int


class RecentRequest(msgspec.Struct, frozen=True):
    """One of the last requests of an account, as its owner sees it in a list."""

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
    cost: int
    #: Money is still held for it: what it costs is not known yet.
    is_pending: bool


class AdminAction(msgspec.Struct, frozen=True):
    """What an admin did to an account; `admin` is the admin's e-mail address as it is now."""

    id: int
    admin_id: int
    account_id: int
    action: Literal["grant", "revoke_keys"]
    amount: int | None
    note: str | None
    created_ms: int
    admin: str = ""
    email: str = ""


class RevenueRow(msgspec.Struct, frozen=True):
    """One day and kind of all accounts: nano-dollars sold, and what engines charge for it as far as that is known."""

    day: int
    kind: Kind
    requests: int
    sold: int
    upstream_cost: int


class JobRow(msgspec.Struct, frozen=True):
    """A job as an admin sees it: without prompt and picture."""

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
    """What one engine answered for one model: nano-dollars sold, bought, and sold where the purchase is known."""

    model: str
    engine: str
    requests: int
    sold: int
    upstream_cost: int
    sold_with_known_cost: int


class KeyRow(msgspec.Struct, frozen=True):
    """A key as its owner sees it; the secret is not here, nor anywhere."""

    id: str
    account_id: int
    name: str
    secret_hmac: bytes
    created_ms: int
    revoked_ms: int | None
    rules: KeyRules = UNRESTRICTED
    #: The first of the keys that took each other's place; they share limits and budgets. None: itself.
    rotation_group: str | None = None


class User(msgspec.Struct, frozen=True):
    """Somebody who signs in, with the money of the account as it stands."""

    account_id: int
    email: str
    is_admin: bool
    language: str | None
    created_ms: int
    posted: int
    held: int

    @property
    def available(self) -> int:
        return self.posted - self.held


class MailLink(msgspec.Struct, frozen=True):
    """What a link sent by mail stands for. Of somebody who signs up: the password to be, and the browser that asked."""

    purpose: Literal["signup", "reset"]
    email: str
    password_hash: str | None
    browser_hash: bytes | None
    expires_ms: int


class Voucher(msgspec.Struct, frozen=True):
    """A code that is worth money once. `hint`: the end of the code; the code itself is kept nowhere."""

    hint: str
    amount: int
    note: str | None
    created_ms: int
    expires_ms: int | None
    redeemed_ms: int | None = None
    account_id: int | None = None


class Payment(msgspec.Struct, frozen=True):
    """Money that a provider takes for us. The account should have `paid - reversed` of it, and has `moved`."""

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

    @property
    def owed(self) -> int:
        """What was reversed and could not be taken back yet."""
        return max(self.moved - (self.paid - self.reversed), 0)


class StatementRow(msgspec.Struct, frozen=True):
    """One movement of an account: `amount` is added (or, below zero, taken); `version` counts movements from 1.

    Of usage, the generation that it paid for.
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
