"""Plans: buy, renew, change and cancel them, and let credit that is left at their end expire.

A plan is always paid from the balance: a payment for a plan first credits the balance. So a payment for a plan that
cannot be bought any more, or not at this price, is not lost. Each function runs in the caller's transaction, and
returns a refusal as a value, because an exception would roll back other writes of the same commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import msgspec

from minitoolai.billing.corrections import log_action
from minitoolai.billing.selling.coupons import Discount, NoCoupon, discount, use
from minitoolai.billing.selling.notices import announce
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.clock import MS_PER_DAY, Clock, random_text
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.core.models import Payment
from minitoolai.core.plans import period_end
from minitoolai.ledger.rules import decide, unused_part
from minitoolai.ledger.types import Bought, BuyPlan, ExpireCredit, Expired, PurseState
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.selling import purses, subscriptions
from minitoolai.storage.selling.purses import Purse
from minitoolai.storage.tables import accounts, ledger
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

#: The next period of a plan is paid this long before the end of the present one, so that no request meets a gap.
RENEW_AHEAD_MS = 600_000
#: A renewal that the balance does not cover is tried for this long after the end.
GRACE_MS = 3 * MS_PER_DAY
SWEEP_EVERY_S = 5.0
#: A customer is notified this long before a plan ends that is not renewed, or not covered by the balance.
ENDING_MS = 3 * MS_PER_DAY
#: Look for plans that are about to end at every so many sweeps.
ENDING_EVERY = 60
PURSES_AT_ONCE = 200

Renewal = Literal["none", "balance", "provider"]


class Refused(msgspec.Struct, frozen=True):
    """Why a plan was not bought. Nothing changed.

    `price_changed`: `price` is the present one. `poor`: the balance is `available`. `owned`: the account has a plan
    that has not ended; change it instead. `renewed`: its next period is paid already; change it when that has begun.
    `subscribed`: a payment provider renews the present plan; cancel that first, or it would be charged again.
    """

    reason: Literal["unknown", "closed", "price_changed", "poor", "owned", "renewed", "subscribed"] | NoCoupon
    price: int = 0
    available: int = 0


def current(connection: Connection, account_id: int, now_ms: int) -> Purse | None:
    """Return the purse of the plan that the account has now, or of the one that begins next."""
    found = [purse for purse in purses.open_purses(connection, account_id) if purse.ends_ms > now_ms]
    return found[0] if found else None


def buy(
    connection: Connection,
    clock: Clock,
    account_id: int,
    plan: Plan | None,
    *,
    expected_price: int,
    reference: str,
    renewal: Renewal = "balance",
    replace: bool = False,
    coupon: str | None = None,
) -> Purse | Refused:
    """Buy a plan from the balance, once per `reference`. Its first period begins now.

    `expected_price` is the listed price that the customer has seen. With `replace`, it takes the place of the present
    plan, of which the unused part is given back to the balance (`unused_part`). With `coupon`, the price is lower.
    """
    now_ms = clock.now_ms()
    purses.lock_owner(connection, account_id)
    if (done := purses.by_reference(connection, reference)) is not None:
        return done
    if plan is None or plan.is_closed:
        return Refused("unknown" if plan is None else "closed")
    if plan.price != expected_price:
        return Refused("price_changed", price=plan.price)
    balance = accounts.balance_of(connection, account_id)
    old = current(connection, account_id, now_ms)
    if old is not None and not replace:
        return Refused("owned")
    if renewal != "provider" and old is not None and old.renewal == "provider":
        return Refused("subscribed")
    if any(purse.begins_ms > now_ms for purse in purses.open_purses(connection, account_id) if purse != old):
        return Refused("renewed")
    off: Discount | None = None
    if coupon:
        found = discount(connection, clock, account_id, coupon, plan.price)
        if not isinstance(found, Discount):
            return Refused(found)
        off = found
    price = plan.price - (off.amount if off else 0)
    back = 0 if old is None else unused_part(_state_of(old), old.available, now_ms)
    if balance.available + back < price:
        return Refused("poor", price=price, available=balance.available + back)
    if off is not None and not use(connection, clock, account_id, off, reference):
        return Refused("coupon_spent")
    for later in purses.open_purses(connection, account_id):
        purses.set_renewal(connection, later.id, "none")
    purse = _fill(connection, account_id, plan, price, now_ms, reference, renewal, now_ms, old)
    if old is not None:
        purses.close(connection, old)
    connection.notify(accounts.KEYS_CHANNEL, f"{accounts.ACCOUNT_PREFIX}{account_id}")
    return purse


def _state_of(purse: Purse) -> PurseState:
    return PurseState(purse.owner_id, purse.begins_ms, purse.ends_ms, purse.price, purse.credit, purse.windows)


def _fill(
    connection: Connection,
    account_id: int,
    plan: Plan,
    price: int,
    begins_ms: int,
    reference: str,
    renewal: Renewal,
    now_ms: int,
    old: Purse | None = None,
) -> Purse:
    """Make a purse and fill it. The caller has locked the owner, and has checked that the balance covers the price."""
    windows, ends_ms = plan.windows, period_end(begins_ms, plan.period)
    limits = (windows.five_hours, windows.week, windows.month)
    row = Purse(
        0, account_id, plan.name, price, plan.credit, *limits, plan.period, begins_ms, ends_ms, 0, "open", renewal,
        None, reference, now_ms,
    )  # fmt: skip
    purse = purses.insert(connection, row)
    operation = BuyPlan(
        account_id, purse.id, price, plan.credit, reference, now_ms, plan.title, None if old is None else old.id
    )
    (result,) = ledger.apply(connection, [operation], decide)
    assert isinstance(result, Bought), "the price was checked under the lock of the account"
    return purses.find(connection, purse.id) or purse


def cancel(connection: Connection, account_id: int, now_ms: int) -> Purse | None:
    """Do not renew the plan of an account. It stays until its end. Return it, or None if there is none."""
    purses.lock_owner(connection, account_id)
    found = [purse for purse in purses.open_purses(connection, account_id) if purse.renewal != "none"]
    for purse in found:
        purses.set_renewal(connection, purse.id, "none")
    return current(connection, account_id, now_ms) or (found[-1] if found else None)


def resume(connection: Connection, account_id: int, now_ms: int) -> Purse | None:
    """Renew the plan of an account from its balance again, after it was cancelled. None if there is none."""
    purses.lock_owner(connection, account_id)
    found = [purse for purse in purses.open_purses(connection, account_id) if purse.ends_ms > now_ms]
    if found:
        purses.set_renewal(connection, found[-1].id, "balance")
    return found[-1] if found else None


# ── payments ──────────────────────────────────────────────────────────────────────────────────────────────


def buy_with_payment(
    connection: Connection, clock: Clock, account_id: int, plan: Plan | None, *, expected_price: int, payment_id: int,
    renewal: Renewal = "balance",
) -> Purse | Refused:  # fmt: skip
    """Buy a plan with money that a payment has just credited to the balance, in the same transaction.

    Repeating it changes nothing. If the account has this plan already, its next period follows the present one. After
    any refusal, the money stays on the balance.
    """
    reference, now_ms = f"plan:payment:{payment_id}", clock.now_ms()
    purses.lock_owner(connection, account_id)
    if (done := purses.by_reference(connection, reference)) is not None:
        return done
    last = next(reversed(purses.open_purses(connection, account_id)), None)
    if plan is not None and last is not None and last.plan == plan.name and last.ends_ms > now_ms:
        return _renew(connection, clock, last, plan, reference, expected_price, renewal)
    return buy(
        connection, clock, account_id, plan, expected_price=expected_price, reference=reference, renewal=renewal,
        replace=True,
    )  # fmt: skip


def pay_period(connection: Connection, clock: Clock, catalog: Catalog, payment: Payment) -> Purse | Refused | None:
    """Buy the period that a charge of a subscription has paid, in the transaction that credits the charge.

    The price is the one that the customer agreed to, even if that of the catalog has changed. After any refusal, and
    if the charge was less than the price, the money stays on the balance.
    """
    subscription = None
    if payment.subscription_id is not None:
        subscription = subscriptions.find(connection, payment.subscription_id)
    if subscription is None:
        return None
    plan = catalog.plans.get(subscription.plan)
    if payment.moved < subscription.price:
        log.error("payment %d is less than the price of the plan %s; not bought", payment.id, subscription.plan)
        return Refused("poor", price=subscription.price, available=payment.moved)
    if plan is not None:
        plan = msgspec.structs.replace(plan, price=subscription.price)
    done = buy_with_payment(
        connection, clock, payment.account_id, plan, expected_price=subscription.price, payment_id=payment.id,
        renewal="provider",
    )  # fmt: skip
    if isinstance(done, Refused):
        log.error(
            "payment %d renews the plan %s, which cannot be bought (%s); the money is on the balance",
            payment.id, subscription.plan, done.reason,
        )  # fmt: skip
    return done


def follow_subscription(connection: Connection, account_id: int, plan: str, now_ms: int, *, renews: bool) -> None:
    """Set whether the running period of a subscription's plan is renewed by the provider."""
    purses.lock_owner(connection, account_id)
    wanted, other = ("provider", "none") if renews else ("none", "provider")
    found = [one for one in purses.open_purses(connection, account_id) if one.plan == plan and one.ends_ms > now_ms]
    if found and found[-1].renewal == other:
        purses.set_renewal(connection, found[-1].id, wanted)


# ── renewal and end ───────────────────────────────────────────────────────────────────────────────────────


def _renew(
    connection: Connection, clock: Clock, last: Purse, plan: Plan, reference: str, expected_price: int, renewal: Renewal
) -> Purse | Refused:
    """Pay the period after the last one. It begins at its end, or now if that has passed."""
    now_ms = clock.now_ms()
    if plan.price != expected_price:
        return Refused("price_changed", price=plan.price)
    balance = accounts.balance_of(connection, last.owner_id)
    if balance.available < plan.price:
        return Refused("poor", price=plan.price, available=balance.available)
    purses.set_renewal(connection, last.id, "none")
    purse = _fill(connection, last.owner_id, plan, plan.price, max(last.ends_ms, now_ms), reference, renewal, now_ms)
    connection.notify(accounts.KEYS_CHANNEL, f"{accounts.ACCOUNT_PREFIX}{last.owner_id}")
    return purse


def end_or_renew(connection: Connection, clock: Clock, purse_id: int, plans: Mapping[str, Plan]) -> bool:
    """Renew a plan shortly before the end of its period, and end it after that. Return True if anything changed.

    The price is that of the catalog now. A plan that has left the catalog, or is closed there, is not renewed.
    """
    now_ms, known = clock.now_ms(), purses.find(connection, purse_id)
    if known is None:
        return False
    purses.lock_owner(connection, known.owner_id)
    purse = purses.find(connection, purse_id)
    if purse is None or purse.state != "open":
        return False
    changed = False
    if purse.renewal == "balance" and purse.ends_ms <= now_ms + RENEW_AHEAD_MS:
        changed = _renew_from_balance(connection, clock, purse, plans.get(purse.plan))
        purse = purses.find(connection, purse_id) or purse
    if purse.ends_ms > now_ms:
        return changed
    if purse.available:
        (result,) = ledger.apply(connection, [ExpireCredit(purse.owner_id, purse.id, now_ms)], decide)
        assert isinstance(result, Expired), "the purse has ended"
        changed = True
    # While the renewal is tried, the purse remembers it.
    if purse.renewal != "balance" and purses.close(connection, purse):
        changed = True
    return changed


def _renew_from_balance(connection: Connection, clock: Clock, purse: Purse, plan: Plan | None) -> bool:
    now_ms = clock.now_ms()
    if plan is None or plan.is_closed:
        purses.set_renewal(connection, purse.id, "none")
        return True
    done = _renew(connection, clock, purse, plan, f"plan:renewal:{purse.id}", plan.price, "balance")
    if isinstance(done, Purse):
        return True
    if now_ms >= purse.ends_ms + GRACE_MS:
        purses.set_renewal(connection, purse.id, "none")
        return True
    if purse.unpaid_ms is None:
        purses.set_renewal(connection, purse.id, "balance", now_ms)
        return True
    return False


def announce_ending(connection: Connection, clock: Clock, purse_id: int, plans: Mapping[str, Plan]) -> bool:
    """Notify the owner of a plan that ends soon, unless it goes on or the owner knows. Return True if notified."""
    now_ms, purse = clock.now_ms(), purses.find(connection, purse_id)
    if purse is None or purse.state != "open" or not now_ms < purse.ends_ms <= now_ms + ENDING_MS:
        return False
    if any(one.begins_ms >= purse.ends_ms for one in purses.open_purses(connection, purse.owner_id)):
        return False
    plan = plans.get(purse.plan)
    if purse.renewal == "provider":
        return False
    if purse.renewal == "balance" and plan is not None and not plan.is_closed:
        balance = accounts.balance_of(connection, purse.owner_id)
        if balance.available >= plan.price:
            return False
    ends = datetime.fromtimestamp(purse.ends_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    data = {"plan": plan.title if plan is not None else purse.plan, "ends": ends}
    return announce(connection, clock, purse.owner_id, "plan.ending", str(purse.id), data)


class PlanKeeper:
    """Background task: renews plans, and lets the credit of those that have ended expire."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, catalog: Catalog) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._catalog = catalog

    async def sweep(self) -> int:
        """Look at all plans that end now, and return how many have changed."""
        before_ms, count, place = self._clock.now_ms() + RENEW_AHEAD_MS, 0, (0, 0)
        while page := await self._database.upkeep(purses.ending, before_ms, PURSES_AT_ONCE, place):
            for purse in page:
                change = partial(end_or_renew, clock=self._clock, purse_id=purse.id, plans=self._catalog.plans)
                count += await self._writer.run(change)
            place = page[-1].ends_ms, page[-1].id
        return count

    async def announce_endings(self) -> int:
        """Notify the owners of plans that end soon, once for each plan, and return how many."""
        now_ms, count, place = self._clock.now_ms(), 0, 0
        while page := await self._database.upkeep(
            purses.unannounced, now_ms, now_ms + ENDING_MS, PURSES_AT_ONCE, place
        ):
            for purse in page:
                change = partial(announce_ending, clock=self._clock, purse_id=purse.id, plans=self._catalog.plans)
                count += await self._writer.run(change)
            place = page[-1].id
        return count

    async def run(self) -> None:
        """Sweep until cancelled. Database errors are logged and retried."""
        turn = 0
        while True:
            try:
                await self.sweep()
                if turn % ENDING_EVERY == 0:
                    await self.announce_endings()
            except (StoreError, ServiceError) as error:
                log.warning("renewing or ending plans failed, will retry: %s", error)
            turn += 1
            await asyncio.sleep(SWEEP_EVERY_S)


# ── operators: each action and its audit entry are written in one commit ───────────────────────────────────


def start_plan_as(
    connection: Connection, clock: Clock, admin_id: int | None, account_id: int, plan: Plan, *, note: str | None,
    once: str | None = None,
) -> Purse | Refused:  # fmt: skip
    """Start a plan for an account, paid from its balance, in place of its present one. Not renewed unless it was."""
    reference = f"plan:admin:{once or random_text(20)}"
    done = buy(connection, clock, account_id, plan, expected_price=plan.price, reference=reference, replace=True)
    if isinstance(done, Purse):
        log_action(
            connection, clock, admin_id, account_id, "start_plan", amount=done.price, note=note, subject=plan.name
        )
    return done


def cancel_plan_as(
    connection: Connection, clock: Clock, admin_id: int | None, account_id: int, *, note: str | None
) -> Purse | None:
    """Cancel the plan of an account: it is not renewed."""
    purse = cancel(connection, account_id, clock.now_ms())
    if purse is not None:
        log_action(connection, clock, admin_id, account_id, "end_plan", note=note, subject=purse.plan)
    return purse


def set_group_as(
    connection: Connection, clock: Clock, admin_id: int | None, account_id: int, group: str | None, *, note: str | None
) -> bool:
    """Put an account into a price group or into none. Return False if it is so already."""
    if not accounts.set_price_group(connection, account_id, group):
        return False
    log_action(connection, clock, admin_id, account_id, "set_group", note=note, subject=group or "-")
    return True
