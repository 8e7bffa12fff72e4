"""Money from outside into accounts, and back: grants, vouchers, payments. Each piece once, by its reference."""

from __future__ import annotations

import hmac
import re
from typing import Literal

import msgspec

from minitoolai.core.clock import MS_PER_DAY, Clock, random_text
from minitoolai.core.errors import NotFound
from minitoolai.core.models import AdminAction, Payment, Voucher
from minitoolai.core.signing import all_keys
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Credit, Credited, Reverse, Reversed
from minitoolai.storage import accounts, ledger, payments, reports
from minitoolai.storage.database import Connection

#: Without letters and digits that look alike on paper.
CODE_ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_LENGTH = 16


def grant(
    connection: Connection, clock: Clock, account_id: int, amount: int, *, reason: str, reference: str | None = None
) -> Credited:
    """Credit `amount` nano-dollars; the caller holds the transaction.

    With a `reference`, a repeat changes nothing and says so. NotFound where the account is none.
    """
    return _credit(connection, clock, account_id, amount, "grant", f"grant:{reference or random_text(20)}", reason)


def _credit(
    connection: Connection, clock: Clock, account_id: int, amount: int, kind: str, reference: str, reason: str | None
) -> Credited:
    ask = Credit(account_id, amount, kind, reference, clock.now_ms(), reason)
    verdict = ledger.apply(connection, [ask], decide)[0]
    if not isinstance(verdict, Credited):
        raise NotFound(f"there is no account {account_id}")
    # What was reversed when it was spent already is taken from what comes in.
    taken = sum(
        old.moved - balance(connection, clock, old).moved for old in payments.payments_owing(connection, account_id)
    )
    return Credited(verdict.posted - taken, verdict.repeated)


# ── vouchers ──────────────────────────────────────────────────────────────────────────────────────────────


class NewVoucher(msgspec.Struct, frozen=True):
    """A voucher just made: the only moment at which its code exists."""

    code: str
    code_hmac: bytes
    row: Voucher


def make_voucher(secret_key: bytes, clock: Clock, amount: int, *, note: str | None, days: int | None) -> NewVoucher:
    """Draw a code `XXXX-XXXX-XXXX-XXXX`, worth `amount` nano-dollars once, for ever or for so many days."""
    drawn = ""
    while len(drawn) < CODE_LENGTH:
        drawn += "".join(c for c in random_text(64).upper() if c in CODE_ALPHABET)
    text, now_ms = drawn[:CODE_LENGTH], clock.now_ms()
    code = "-".join(text[i : i + 4] for i in range(0, CODE_LENGTH, 4))
    row = Voucher(text[-4:], amount, note, now_ms, None if days is None else now_ms + days * MS_PER_DAY)
    return NewVoucher(code, code_hmac(text, secret_key), row)


def code_hmac(code: str, secret_key: bytes) -> bytes:
    """What is stored instead of a code, however its owner types it."""
    plain = re.sub(r"[^0-9A-Z]", "", code.upper())[:64]
    return hmac.digest(secret_key, b"voucher:" + plain.encode(), "sha256")


#: Why a code is worth nothing. A value, not an error: an error would undo what others write in the same commit.
NoVoucher = Literal["unknown", "used", "expired"]


def redeem(connection: Connection, clock: Clock, secret_key: bytes, account_id: int, code: str) -> int | NoVoucher:
    """Credit a voucher; its amount, or why not. Who redeemed a used one is nobody else's business."""
    now_ms = clock.now_ms()
    keys = [code_hmac(code, secret) for secret in all_keys(secret_key)]
    key, voucher = next(
        ((key, found) for key in keys if (found := payments.find_voucher(connection, key)) is not None), (keys[0], None)
    )
    if voucher is None:
        return "unknown"
    if not payments.mark_redeemed(connection, key, account_id, now_ms):
        used = voucher.redeemed_ms is not None or payments.is_redeemed(connection, key)
        return "used" if used else "expired"
    _credit(connection, clock, account_id, voucher.amount, "voucher", f"voucher:{key.hex()}", f"…{voucher.hint}")
    return voucher.amount


# ── payments ──────────────────────────────────────────────────────────────────────────────────────────────


def balance(connection: Connection, clock: Clock, payment: Payment) -> Payment:
    """Give the account what it should have of a payment, or take back what it should not; the caller holds its lock.

    What cannot be taken back because it was spent stays owed, and is taken from what comes in later. Doing this
    twice changes nothing: only the difference is moved, and each transfer has a reference of its own.
    """
    difference = payment.paid - payment.reversed - payment.moved
    if difference == 0:
        return payment
    now_ms, version = clock.now_ms(), payment.version + 1
    reference = f"payment:{payment.id}:{version}"
    if difference > 0:
        ask: Credit | Reverse = Credit(payment.account_id, difference, "payment", reference, now_ms)
    else:
        ask = Reverse(payment.account_id, -difference, "refund", reference, now_ms)
    verdict = ledger.apply(connection, [ask], decide)[0]
    if isinstance(verdict, Reversed):
        difference = -verdict.taken
    elif not isinstance(verdict, Credited):
        raise NotFound(f"there is no account {payment.account_id}")
    if difference == 0:
        return payment
    moved = msgspec.structs.replace(payment, moved=payment.moved + difference, version=version, changed_ms=now_ms)
    payments.update_payment(connection, moved)
    return moved


# (merged from admins) What admins may do. Each deed and its entry in the trail are one commit.


def grant_as_admin(
    connection: Connection, clock: Clock, admin_id: int, account_id: int, amount: int, *, note: str, once: str
) -> bool:
    """Credit an account. False where there is none, or the form with this `once` was sent before."""
    if reports.find_customer(connection, account_id) is None:
        return False
    done = grant(connection, clock, account_id, amount, reason=note, reference=f"admin:{once}")
    if done.repeated:
        return False
    action = AdminAction(clock.new_id(), admin_id, account_id, "grant", amount, note, clock.now_ms())
    reports.insert_admin_action(connection, action)
    return True


def revoke_keys(connection: Connection, clock: Clock, admin_id: int, account_id: int, *, note: str) -> int | None:
    """Revoke every key of an account; how many. None where there is no such account."""
    if reports.find_customer(connection, account_id) is None:
        return None
    now_ms = clock.now_ms()
    keys = accounts.keys_of(connection, account_id) + accounts.keys_of(connection, account_id, for_pages=True)
    count = sum(accounts.revoke_key(connection, key.id, now_ms) for key in keys)
    reports.insert_admin_action(
        connection, AdminAction(clock.new_id(), admin_id, account_id, "revoke_keys", None, note, now_ms)
    )
    return count
