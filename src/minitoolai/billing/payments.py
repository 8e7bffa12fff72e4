"""Credit and debit accounts from outside: grants, vouchers and payments.

Every transfer carries a unique reference and is applied once.
"""

from __future__ import annotations

import hmac
import re
from typing import Literal

import msgspec

from minitoolai.core.clock import MS_PER_DAY, Clock, random_text
from minitoolai.core.errors import InvalidRequest, NotFound
from minitoolai.core.models import AdminAction, Payment, Voucher
from minitoolai.core.money import LARGEST_TOTAL_NANO, NANO_PER_DOLLAR, short_dollars
from minitoolai.core.signing import all_keys
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Credit, Credited, Reverse, Reversed
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts, ledger, payments, reports

#: Leaves out letters and digits that look alike on paper.
CODE_ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_LENGTH = 16
#: Credits from here on are checked against LARGEST_TOTAL_NANO. Of smaller ones, it would take 400,000 to reach it.
LARGE_CREDIT_NANO = 10_000 * NANO_PER_DOLLAR


def grant(
    connection: Connection, clock: Clock, account_id: int, amount: int, *, reason: str, reference: str | None = None
) -> Credited:
    """Credit `amount` nano-dollars, inside the caller's transaction.

    With a `reference`, a repeated call changes nothing and returns `repeated`. Raises NotFound if there is no such
    account, InvalidRequest if the amount does not fit into the ledger.
    """
    return credit_once(connection, clock, account_id, amount, "grant", f"grant:{reference or random_text(20)}", reason)


def credit_once(
    connection: Connection, clock: Clock, account_id: int, amount: int, kind: str, reference: str, reason: str | None
) -> Credited:
    """Credit an account once per reference, and deduct its debts. Raises NotFound or InvalidRequest, as `grant`."""
    _check_fits(connection, amount, reference)
    credit = Credit(account_id, amount, kind, reference, clock.now_ms(), reason)
    result = ledger.apply(connection, [credit], decide)[0]
    if not isinstance(result, Credited):
        raise NotFound(f"There is no account {account_id}.")
    # Deduct refunds that could not be taken earlier because the money was already spent.
    deducted = sum(
        old.moved - transfer_difference(connection, clock, old).moved
        for old in payments.payments_owing(connection, account_id)
    )
    return Credited(result.posted - deducted, result.repeated)


def _fits(connection: Connection, amount: int, reference: str) -> bool:
    """Return True if all credits together stay within LARGEST_TOTAL_NANO, or if this one was made before.

    The database, the audit and the backup add amounts in 64 bits.
    """
    if amount < LARGE_CREDIT_NANO or payments.is_credited(connection, reference):
        return True
    return payments.total_credited(connection) + amount <= LARGEST_TOTAL_NANO


def _check_fits(connection: Connection, amount: int, reference: str) -> None:
    """Raise InvalidRequest, before anything is written, if the credit does not fit into the ledger."""
    if not _fits(connection, amount, reference):
        total = short_dollars(payments.total_credited(connection))
        raise InvalidRequest(
            f"A credit of ${short_dollars(amount)} does not fit into the ledger: all credits together may be at most "
            f"${LARGEST_TOTAL_NANO // NANO_PER_DOLLAR:,}, and ${total} have been credited. Credit less.",
            param="amount",
        )


# ── vouchers ──────────────────────────────────────────────────────────────────────────────────────────────


class NewVoucher(msgspec.Struct, frozen=True):
    """A new voucher. Its code is available only here; the database stores an HMAC of it."""

    code: str
    code_hmac: bytes
    row: Voucher


def make_voucher(
    secret_key: bytes, clock: Clock, amount: int, *, note: str | None, days: int | None, batch: str | None = None
) -> NewVoucher:
    """Generate a code `XXXX-XXXX-XXXX-XXXX` that can be redeemed once for `amount` nano-dollars.

    It expires after `days` days, or never if that is None.
    """
    characters = ""
    while len(characters) < CODE_LENGTH:
        characters += "".join(c for c in random_text(64).upper() if c in CODE_ALPHABET)
    text, now_ms = characters[:CODE_LENGTH], clock.now_ms()
    code = "-".join(text[i : i + 4] for i in range(0, CODE_LENGTH, 4))
    expires_ms = None if days is None else now_ms + days * MS_PER_DAY
    row = Voucher(text[-4:], amount, note, now_ms, expires_ms, batch=batch)
    return NewVoucher(code, code_hmac(text, secret_key), row)


def code_hmac(code: str, secret_key: bytes) -> bytes:
    """Return the HMAC that is stored for a code. Ignores case, spaces and hyphens."""
    plain = re.sub(r"[^0-9A-Z]", "", code.upper())[:64]
    return hmac.digest(secret_key, b"voucher:" + plain.encode(), "sha256")


#: Why a code cannot be redeemed. A value, not an exception: an exception would roll back other writes of the same
#: commit.
NoVoucher = Literal["unknown", "used", "cancelled", "expired", "too_large"]


def redeem(connection: Connection, clock: Clock, secret_key: bytes, account_id: int, code: str) -> int | NoVoucher:
    """Credit a voucher and return its amount, or the reason why not. Never reveals who redeemed a used code."""
    now_ms = clock.now_ms()
    keys = [code_hmac(code, secret) for secret in all_keys(secret_key)]
    key, voucher = next(
        ((key, found) for key in keys if (found := payments.find_voucher(connection, key)) is not None), (keys[0], None)
    )
    if voucher is None:
        return "unknown"
    reference = f"voucher:{key.hex()}"
    if voucher.redeemed_ms is None and not _fits(connection, voucher.amount, reference):
        return "too_large"
    if not payments.mark_redeemed(connection, key, account_id, now_ms):
        # Read again: another transaction may have redeemed or cancelled it meanwhile.
        voucher = payments.find_voucher(connection, key) or voucher
        if voucher.cancelled_ms is not None:
            return "cancelled"
        return "used" if voucher.redeemed_ms is not None else "expired"
    credit_once(connection, clock, account_id, voucher.amount, "voucher", reference, f"…{voucher.hint}")
    return voucher.amount


# ── payments ──────────────────────────────────────────────────────────────────────────────────────────────


def transfer_difference(connection: Connection, clock: Clock, payment: Payment) -> Payment:
    """Transfer the difference between the present value of a payment and the amount credited for it.

    The caller holds the account's lock. A refund of money that was already spent stays owed, and is deducted from later
    credits. Repeating the call changes nothing: only the difference is transferred, and each transfer has its own
    reference.
    """
    difference = payment.paid - payment.reversed - payment.moved
    if difference == 0:
        return payment
    now_ms, version = clock.now_ms(), payment.version + 1
    reference = f"payment:{payment.id}:{version}"
    if difference > 0:
        _check_fits(connection, difference, reference)
        operation: Credit | Reverse = Credit(payment.account_id, difference, "payment", reference, now_ms)
    else:
        operation = Reverse(payment.account_id, -difference, "refund", reference, now_ms)
    result = ledger.apply(connection, [operation], decide)[0]
    if isinstance(result, Reversed):
        difference = -result.taken
    elif not isinstance(result, Credited):
        raise NotFound(f"There is no account {payment.account_id}.")
    if difference == 0:
        return payment
    moved = msgspec.structs.replace(payment, moved=payment.moved + difference, version=version, changed_ms=now_ms)
    payments.update_payment(connection, moved)
    return moved


# ── administrators: each action and its audit entry are written in one commit ──────────────────────────────────────


def grant_as_admin(
    connection: Connection,
    clock: Clock,
    admin_id: int,
    account_id: int,
    amount: int,
    *,
    note: str,
    once: str,
    source: str | None = None,
) -> bool:
    """Credit an account. Return False if it does not exist, or if the form with this `once` was already submitted."""
    if reports.find_customer(connection, account_id) is None:
        return False
    done = grant(connection, clock, account_id, amount, reason=note, reference=f"admin:{once}")
    if done.repeated:
        return False
    action = AdminAction(clock.new_id(), admin_id, account_id, "grant", amount, note, clock.now_ms(), source=source)
    reports.insert_admin_action(connection, action)
    return True


def log_catalog_reload(
    connection: Connection, clock: Clock, admin_id: int, note: str, *, source: str | None = None
) -> None:
    """Record that an admin had the catalog read again. It is not about a customer, so about the admin's own account."""
    now_ms = clock.now_ms()
    action = AdminAction(clock.new_id(), admin_id, admin_id, "reload_catalog", None, note, now_ms, source=source)
    reports.insert_admin_action(connection, action)


def revoke_keys(
    connection: Connection, clock: Clock, admin_id: int, account_id: int, *, note: str, source: str | None = None
) -> int | None:
    """Revoke every API key of an account and return their number, None if there is no such account."""
    if reports.find_customer(connection, account_id) is None:
        return None
    now_ms = clock.now_ms()
    keys = accounts.keys_of(connection, account_id) + accounts.keys_of(connection, account_id, for_pages=True)
    count = sum(accounts.revoke_key(connection, key.id, now_ms) for key in keys)
    reports.insert_admin_action(
        connection,
        AdminAction(clock.new_id(), admin_id, account_id, "revoke_keys", None, note, now_ms, source=source),
    )
    return count
