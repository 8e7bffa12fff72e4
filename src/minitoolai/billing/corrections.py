"""Stop and undo: suspend an account, take credit back, refund a charge, cancel vouchers.

Each function runs inside the caller's transaction and writes its entry of the audit log in the same commit. `admin_id`:
the admin who acts, or None for the command line.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from minitoolai.accounts.keys import barred_outcome
from minitoolai.billing.payments import code_hmac
from minitoolai.core.clock import Clock, generation_name, random_text
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import AdminAction, AdminActionKind, Voucher
from minitoolai.core.money import short_dollars
from minitoolai.core.signing import all_keys
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import NotRefundable, Refund, Refunded, Reverse, Reversed, Settle
from minitoolai.storage.archive.rows import archived_until_ms
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts, ledger, payments, refunds, reports
from minitoolai.storage.tables.refunds import Charge

#: A reason is shown on a page, in an error message and on a statement.
MAX_REASON_LENGTH = 200


def check_reason(reason: str) -> str:
    """Return a reason without surrounding whitespace. Raise InvalidRequest if it is too long or not one line."""
    reason = reason.strip()
    if len(reason) > MAX_REASON_LENGTH or not reason.isprintable():
        raise InvalidRequest(f"The reason must be one line of at most {MAX_REASON_LENGTH} characters.", param="reason")
    return reason


def log_action(
    connection: Connection,
    clock: Clock,
    admin_id: int | None,
    account_id: int | None,
    action: AdminActionKind,
    *,
    amount: int | None = None,
    note: str | None = None,
    subject: str | None = None,
    source: str | None = None,
) -> None:
    """Append to the audit log. `source` is where it was done: see AdminAction."""
    now_ms = clock.now_ms()
    entry = AdminAction(clock.new_id(), admin_id, account_id, action, amount, note or None, now_ms, subject, source)
    reports.insert_admin_action(connection, entry)


# ── suspension ────────────────────────────────────────────────────────────────────────────────────────────


class Suspension(NamedTuple):
    """What a suspension did. `is_new`: the account was not suspended before. `released`: held for its queued jobs."""

    is_new: bool
    jobs: int = 0
    released: int = 0


def suspend(
    connection: Connection,
    clock: Clock,
    admin_id: int | None,
    account_id: int,
    reason: str,
    *,
    source: str | None = None,
) -> Suspension:
    """Suspend an account, and fail its queued jobs and its images in progress unpaid.

    Every process refuses its keys and ends its running responses within a second (accounts/revocation.py). Jobs that
    were on their way are failed by the workers. Repeating it changes nothing, not even the reason.
    """
    now_ms = clock.now_ms()
    if not accounts.set_suspended(connection, account_id, now_ms, reason or None):
        return Suspension(False)
    unfinished = accounts.unfinished_jobs_of(connection, account_id)
    outcome = barred_outcome(True)
    ledger.apply(connection, [Settle(job, account_id, 0, now_ms, outcome) for job, _ in unfinished], decide)
    log_action(connection, clock, admin_id, account_id, "suspend", note=reason, source=source)
    return Suspension(True, len(unfinished), sum(held for _, held in unfinished))


def unsuspend(
    connection: Connection, clock: Clock, admin_id: int | None, account_id: int, note: str, *, source: str | None = None
) -> bool:
    """End a suspension: the keys work again. Return False if the account is not suspended."""
    if not accounts.set_suspended(connection, account_id, None, None):
        return False
    log_action(connection, clock, admin_id, account_id, "unsuspend", note=note, source=source)
    return True


# ── credit and charges ────────────────────────────────────────────────────────────────────────────────────


def reverse_credit(
    connection: Connection,
    clock: Clock,
    admin_id: int | None,
    account_id: int,
    amount: int,
    *,
    reason: str,
    once: str,
    source: str | None = None,
) -> Reversed:
    """Take credit back, as much of `amount` as is available, once per `once`.

    Credit held for running requests is not available. Raise InvalidRequest if nothing is.
    """
    operation = Reverse(account_id, amount, "reversal", f"reversal:{once or random_text(20)}", clock.now_ms(), reason)
    result = ledger.apply(connection, [operation], decide)[0]
    assert isinstance(result, Reversed), "the caller has found the account"
    if result.taken:
        log_action(connection, clock, admin_id, account_id, "reverse", amount=result.taken, note=reason, source=source)
    elif not result.repeated:
        raise InvalidRequest("Nothing is available to take back: the balance is spent or held.", param="amount")
    return result


def find_charge(connection: Connection, generation_id: int) -> Charge:
    """Return the charge of a generation. Raise InvalidRequest if there is none that can be refunded."""
    charge = refunds.find_charge(connection, generation_id)
    if charge is None:
        hint = ""
        if archived_until_ms(connection):
            hint = " If it is archived, its charge cannot be refunded any more: use credit grant, and name it there."
        raise InvalidRequest(f"There is no generation {generation_name(generation_id)}.{hint}", param="generation")
    return charge


def refund_charge(
    connection: Connection,
    clock: Clock,
    admin_id: int | None,
    generation_id: int,
    amount: int | None,
    *,
    reason: str,
    once: str,
    source: str | None = None,
) -> Refunded:
    """Give a part of a charge back, or all that remains if `amount` is None, once per `once`.

    Raise InvalidRequest if the generation is unknown, still runs, or has less left.
    """
    charge, name = find_charge(connection, generation_id), generation_name(generation_id)
    reference = f"refund:{generation_id}:{once or random_text(20)}"
    operation = Refund(generation_id, charge.account_id, amount, reference, clock.now_ms(), reason or None)
    result = ledger.apply(connection, [operation], decide)[0]
    if isinstance(result, NotRefundable):
        raise InvalidRequest(_why_not_refundable(result, name, charge), param="amount")
    assert isinstance(result, Refunded), "the generation was found, and nothing deletes one that is not archived"
    if not result.repeated:
        log_action(
            connection, clock, admin_id, charge.account_id, "refund", amount=result.amount, note=reason, subject=name,
            source=source,
        )  # fmt: skip
    return result


def _why_not_refundable(result: NotRefundable, name: str, charge: Charge) -> str:
    if result.is_pending:
        return f"{name} is still running, so nothing was charged yet. Wait until it has ended."
    cost = f"{name} cost ${short_dollars(charge.cost)}"
    if not charge.cost:
        return f"{name} cost nothing."
    if not result.left:
        return f"{cost}, and all of it was given back already."
    return f"{cost}, of which ${short_dollars(result.left)} can still be given back. Refund at most that."


# ── vouchers ──────────────────────────────────────────────────────────────────────────────────────────────


class Cancelled(msgspec.Struct, frozen=True):
    """What a cancellation did: vouchers cancelled and their value, and those that it left as they were."""

    count: int
    amount: int
    redeemed: int
    cancelled_before: int


def cancel_code(
    connection: Connection,
    clock: Clock,
    secret_key: bytes,
    admin_id: int | None,
    code: str,
    reason: str,
    *,
    source: str | None = None,
) -> Cancelled:
    """Cancel the voucher with this code. Raise InvalidRequest if there is none."""
    for secret in all_keys(secret_key):
        if payments.find_voucher(connection, key := code_hmac(code, secret)) is not None:
            return cancel_voucher(connection, clock, admin_id, key, reason, source=source)
    raise InvalidRequest("There is no such voucher. Check the code.", param="code")


def cancel_voucher(
    connection: Connection, clock: Clock, admin_id: int | None, key: bytes, reason: str, *, source: str | None = None
) -> Cancelled:
    """Cancel one voucher, unless it is redeemed. Raise InvalidRequest if there is none."""
    voucher = payments.find_voucher(connection, key)
    if voucher is None:
        raise InvalidRequest("There is no such voucher.", param="code")
    return _cancel(connection, clock, admin_id, [(key, voucher)], f"…-{voucher.hint}", reason, source)


def cancel_batch(
    connection: Connection, clock: Clock, admin_id: int | None, batch: str, reason: str, *, source: str | None = None
) -> Cancelled:
    """Cancel every voucher of a batch that is not redeemed. Raise InvalidRequest if there is no such batch."""
    found = payments.vouchers_of_batch(connection, batch)
    if not found:
        raise InvalidRequest(f"There is no batch {batch[:40]}. See minitoolai voucher list.", param="batch")
    return _cancel(connection, clock, admin_id, found, batch, reason, source)


def _cancel(
    connection: Connection,
    clock: Clock,
    admin_id: int | None,
    found: list[tuple[bytes, Voucher]],
    subject: str,
    reason: str,
    source: str | None,
) -> Cancelled:
    now_ms = clock.now_ms()
    count = amount = redeemed = before = 0
    for key, voucher in found:
        # Compare and set: a voucher that is being redeemed at the same time is redeemed or cancelled, not both.
        if payments.mark_cancelled(connection, key, now_ms):
            count, amount = count + 1, amount + voucher.amount
        elif payments.is_redeemed(connection, key):
            redeemed += 1
        else:
            before += 1
    if count:
        log_action(
            connection, clock, admin_id, None, "cancel_vouchers", amount=amount, note=reason, subject=subject,
            source=source,
        )  # fmt: skip
    return Cancelled(count, amount, redeemed, before)
