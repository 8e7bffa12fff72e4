"""Coupons: codes for many customers, and each may use a code once, until its uses are spent or it ends.

A coupon with a percentage lowers the price of a plan; one with an amount credits the balance. Credit for signing up is
given in the same way, once per mailbox.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from minitoolai.billing.corrections import log_action
from minitoolai.billing.payments import credit_once
from minitoolai.core.clock import Clock
from minitoolai.core.errors import SettingsError
from minitoolai.core.money import NANO_PER_DOLLAR, parse_dollars
from minitoolai.core.signing import all_keys
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import coupons
from minitoolai.storage.selling.coupons import Coupon
from minitoolai.storage.tables import accounts, payments

#: Why a coupon does not apply. A value, not an exception, as for vouchers.
NoCoupon = Literal["no_coupon", "coupon_used", "coupon_spent", "coupon_expired", "not_for_plans", "only_for_plans"]
#: Below LARGE_CREDIT_NANO, so that it is never refused because of the total of all credits.
MAX_SIGN_UP_CREDIT_NANO = 1000 * NANO_PER_DOLLAR
_CODE = re.compile(r"[0-9A-Z]{3,40}")


class Discount(NamedTuple):
    """What a coupon takes off a price."""

    coupon: Coupon
    amount: int


def plain_code(text: str) -> str:
    """Return a code as it is stored: upper case, without blanks and hyphens; "" if it cannot be a code."""
    code = re.sub(r"[\s-]", "", text).upper()
    return code if _CODE.fullmatch(code) else ""


def _usable(connection: Connection, clock: Clock, account_id: int, code: str) -> Coupon | NoCoupon:
    # The lock of the account: an account uses a coupon once, however often it asks at the same time.
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
    coupon = coupons.find(connection, plain_code(code))
    if coupon is None or coupon.cancelled_ms is not None:
        return "no_coupon"
    if coupons.has_used(connection, coupon.id, account_id):
        return "coupon_used"
    if coupon.expires_ms is not None and coupon.expires_ms <= clock.now_ms():
        return "coupon_expired"
    return coupon if coupon.used < coupon.uses else "coupon_spent"


def discount(connection: Connection, clock: Clock, account_id: int, code: str, price: int) -> Discount | NoCoupon:
    """Return what a coupon takes off a price, rounded down to whole nano-dollars, or why it does not."""
    coupon = _usable(connection, clock, account_id, code)
    if isinstance(coupon, str):
        return coupon
    if coupon.percent is None:
        return "not_for_plans"
    return Discount(coupon, price * coupon.percent // 100)


def use(connection: Connection, clock: Clock, account_id: int, off: Discount, reference: str) -> bool:
    """Use a coupon for a discount. Return False if another account has taken its last use since it was read."""
    if not coupons.count_use(connection, off.coupon.id, clock.now_ms()):
        return False
    coupons.insert_use(connection, off.coupon.id, account_id, clock.now_ms(), off.amount, reference)
    return True


def redeem_coupon(connection: Connection, clock: Clock, account_id: int, code: str) -> int | NoCoupon:
    """Credit the amount of a coupon and return it, or the reason why not."""
    coupon = _usable(connection, clock, account_id, code)
    if isinstance(coupon, str):
        return coupon
    if coupon.amount is None:
        return "only_for_plans"
    now_ms, reference = clock.now_ms(), f"coupon:{coupon.id}:{account_id}"
    if not coupons.count_use(connection, coupon.id, now_ms):
        return "coupon_spent"
    coupons.insert_use(connection, coupon.id, account_id, now_ms, coupon.amount, reference)
    credit_once(connection, clock, account_id, coupon.amount, "coupon", reference, coupon.code)
    return coupon.amount


def create_coupon(connection: Connection, clock: Clock, coupon: Coupon, admin_id: int | None = None) -> bool:
    """Add a coupon. Return False if there is one with this code."""
    if not coupons.insert(connection, coupon):
        return False
    subject, amount, note = coupon.code, coupon.amount, coupon.note
    log_action(connection, clock, admin_id, admin_id, "create_coupon", amount=amount, note=note, subject=subject)
    return True


def cancel_coupon(
    connection: Connection, clock: Clock, code: str, *, note: str | None, admin_id: int | None = None
) -> bool:
    """Cancel a coupon. Earlier uses stay. Return False if there is no such coupon that is not cancelled."""
    plain = plain_code(code)
    if not coupons.cancel(connection, plain, clock.now_ms()):
        return False
    log_action(connection, clock, admin_id, admin_id, "cancel_coupon", note=note, subject=plain)
    return True


# ── credit for signing up ─────────────────────────────────────────────────────────────────────────────────


def mailbox_identity(email: str) -> str:
    """Return what tells mailboxes apart for the credit: without a tag after `+`, and without dots for Gmail.

    Such forms of an address reach the same mailbox. `email` is as it is stored (accounts/addresses.py).
    """
    local, _, domain = email.rpartition("@")
    local = local.partition("+")[0] or local
    if domain in ("gmail.com", "googlemail.com"):
        return f"{local.replace('.', '')}@gmail.com"
    return f"{local}@{domain}"


def sign_up_credit(
    settings: Settings, clock: Clock, secret_key: bytes
) -> Callable[[Connection, int, str], None] | None:
    """Return what credits new accounts as MINITOOLAI_SIGNUP_CREDIT says, None if it is empty. Raises SettingsError."""
    if not settings.signup_credit.strip():
        return None
    try:
        amount = parse_dollars(settings.signup_credit)
    except ValueError as error:
        raise SettingsError(f"MINITOOLAI_SIGNUP_CREDIT is wrong: {error}") from error
    if amount > MAX_SIGN_UP_CREDIT_NANO:
        raise SettingsError("MINITOOLAI_SIGNUP_CREDIT is wrong: it may be at most 1000.00")

    def credit(connection: Connection, account_id: int, email: str) -> None:
        credit_sign_up(connection, clock, secret_key, account_id, email, amount)

    return credit


def credit_sign_up(
    connection: Connection, clock: Clock, secret_key: bytes, account_id: int, email: str, amount: int
) -> int:
    """Credit a new account, once per mailbox, also if an earlier account of it was deleted. Return the amount.

    Only a keyed hash of the mailbox is kept, as the reference of the transfer.
    """
    identity = mailbox_identity(email).encode()
    references = [f"signup:{hmac.digest(key, b'signup:' + identity, 'sha256').hex()}" for key in all_keys(secret_key)]
    # Two accounts of one mailbox may be created at the same time. All new accounts take this lock.
    accounts.lock_numbering(connection)
    if any(payments.is_credited(connection, reference) for reference in references):
        return 0
    credit_once(connection, clock, account_id, amount, "signup", references[0], None)
    return amount
