"""Rows of vouchers, payments and handled webhook events of the payment provider.

Plain functions of a connection; the caller owns the transaction.
"""

from __future__ import annotations

from minitoolai.core.models import Payment, Voucher
from minitoolai.core.money import NANO_PER_DOLLAR
from minitoolai.ledger.types import FUNDING
from minitoolai.storage.database import Connection

#: The columns of a `Payment`, in its order.
PAYMENT_COLUMNS = _PAYMENT = (
    "id, account_id, provider, provider_ref, intent, asked, paid, reversed, moved, version, looks, state,"
    " created_ms, changed_ms, is_auto, currency, charged, problem, subscription_id"
)
_VOUCHER = "hint, amount, note, created_ms, expires_ms, redeemed_ms, account_id, batch, cancelled_ms"


def insert_voucher(connection: Connection, code_hmac: bytes, voucher: Voucher) -> None:
    """Insert a voucher. Its code must not exist yet."""
    connection.execute(
        f"INSERT INTO vouchers ({_VOUCHER}, code_hmac) VALUES (?, ?, ?, ?, ?, NULL, NULL, ?, NULL, ?)",
        (voucher.hint, voucher.amount, voucher.note, voucher.created_ms, voucher.expires_ms, voucher.batch, code_hmac),
    )


def find_voucher(connection: Connection, code_hmac: bytes) -> Voucher | None:
    """Return the voucher with this code, redeemed or not."""
    rows = connection.execute(f"SELECT {_VOUCHER} FROM vouchers WHERE code_hmac = ?", (code_hmac,))
    return Voucher(*rows[0]) if rows else None


def mark_redeemed(connection: Connection, code_hmac: bytes, account_id: int, now_ms: int) -> bool:
    """Mark a voucher as redeemed and return True, unless it is redeemed, cancelled or expired (compare and set)."""
    changed = connection.execute_many(
        "UPDATE vouchers SET redeemed_ms = ?, account_id = ?"
        " WHERE code_hmac = ? AND redeemed_ms IS NULL AND cancelled_ms IS NULL"
        " AND (expires_ms IS NULL OR expires_ms > ?)",
        [(now_ms, account_id, code_hmac, now_ms)],
    )
    return changed == 1


def mark_cancelled(connection: Connection, code_hmac: bytes, now_ms: int) -> bool:
    """Mark a voucher as cancelled and return True, unless it is already redeemed or cancelled (compare and set)."""
    changed = connection.execute_many(
        "UPDATE vouchers SET cancelled_ms = ? WHERE code_hmac = ? AND redeemed_ms IS NULL AND cancelled_ms IS NULL",
        [(now_ms, code_hmac)],
    )
    return changed == 1


def vouchers_of_batch(connection: Connection, batch: str) -> list[tuple[bytes, Voucher]]:
    """Return the vouchers of a batch with the HMACs of their codes, in the order of these."""
    rows = connection.execute(
        f"SELECT code_hmac, {_VOUCHER} FROM vouchers WHERE batch = ? ORDER BY code_hmac", (batch,)
    )
    return [(bytes(row[0]), Voucher(*row[1:])) for row in rows]


def is_redeemed(connection: Connection, code_hmac: bytes) -> bool:
    """Return True if the voucher has been redeemed."""
    rows = connection.execute("SELECT 1 FROM vouchers WHERE code_hmac = ? AND redeemed_ms IS NOT NULL", (code_hmac,))
    return bool(rows)


#: Where a page of vouchers ends: time of creation and HMAC of the code.
VoucherPlace = tuple[int, bytes]


def list_vouchers(
    connection: Connection, limit: int, before: VoucherPlace | None = None, batch: str | None = None
) -> tuple[list[Voucher], VoucherPlace | None]:
    """Return a page of vouchers, newest first, and where it ends, or None after the last one (keyset pagination)."""
    rows, place = voucher_page(connection, limit, before, batch)
    return [voucher for _, voucher in rows], place


def voucher_page(
    connection: Connection, limit: int, before: VoucherPlace | None = None, batch: str | None = None
) -> tuple[list[tuple[bytes, Voucher]], VoucherPlace | None]:
    """Return the same with the HMACs of the codes; of all vouchers or of one batch."""
    rows = connection.execute(
        f"SELECT {_VOUCHER}, code_hmac FROM vouchers WHERE (created_ms, code_hmac) < (?, ?)"
        f"{'' if batch is None else ' AND batch = ?'} ORDER BY created_ms DESC, code_hmac DESC LIMIT ?",
        (*(before or (2**62, b"")), *(() if batch is None else (batch,)), limit),
    )
    place = (rows[-1][3], bytes(rows[-1][-1])) if len(rows) == limit else None
    return [(bytes(row[-1]), Voucher(*row[:-1])) for row in rows], place


# ── payments ──────────────────────────────────────────────────────────────────────────────────────────────


def insert_payment(
    connection: Connection,
    payment_id: int,
    account_id: int,
    asked: int,
    now_ms: int,
    provider: str = "stripe",
    *,
    is_auto: bool = False,
    ref: str | None = None,
    subscription_id: int | None = None,
) -> None:
    """Insert an open payment, before the customer is redirected to the provider. `ref`: if the provider has it."""
    connection.execute(
        "INSERT INTO payments (id, account_id, provider, provider_ref, asked, created_ms, changed_ms, is_auto,"
        " subscription_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (payment_id, account_id, provider, ref, asked, now_ms, now_ms, int(is_auto), subscription_id),
    )


def set_provider_ref(
    connection: Connection,
    payment_id: int,
    provider_ref: str,
    now_ms: int,
    currency: str | None = None,
    charged: int | None = None,
) -> None:
    """Store the provider's reference for a payment, and its amount in another currency if it has one.

    An existing reference is never replaced.
    """
    connection.execute(
        "UPDATE payments SET provider_ref = ?, changed_ms = ?, currency = ?, charged = ?"
        " WHERE id = ? AND provider_ref IS NULL",
        (provider_ref, now_ms, currency, charged, payment_id),
    )


def close_unsent(connection: Connection, payment_id: int, now_ms: int) -> bool:
    """Close an open payment that the provider refused to begin, and return True unless its state has changed."""
    changed = connection.execute_many(
        "UPDATE payments SET state = 'closed', problem = 'failed', changed_ms = ? WHERE id = ? AND state = 'open'",
        [(now_ms, payment_id)],
    )
    return changed == 1


def find_payment(connection: Connection, payment_id: int) -> Payment | None:
    """Return the payment with this ID."""
    rows = connection.execute(f"SELECT {_PAYMENT} FROM payments WHERE id = ?", (payment_id,))
    return Payment(*rows[0]) if rows else None


def payment_by_ref(connection: Connection, provider_ref: str) -> Payment | None:
    """Return the payment with this reference of its provider, such as a checkout session."""
    rows = connection.execute(f"SELECT {_PAYMENT} FROM payments WHERE provider_ref = ?", (provider_ref,))
    return Payment(*rows[0]) if rows else None


def payment_by_intent(connection: Connection, intent: str) -> Payment | None:
    """Return the payment that a charge, refund or dispute refers to."""
    rows = connection.execute(f"SELECT {_PAYMENT} FROM payments WHERE intent = ?", (intent,))
    return Payment(*rows[0]) if rows else None


def update_payment(connection: Connection, payment: Payment) -> None:
    """Update a payment with the provider's amounts and the credited amount. The caller has locked the account."""
    connection.execute(
        "UPDATE payments SET intent = ?, paid = ?, reversed = ?, moved = ?, version = ?, looks = ?, state = ?,"
        " changed_ms = ?, currency = ?, charged = ?, problem = ? WHERE id = ?",
        (payment.intent, payment.paid, payment.reversed, payment.moved, payment.version, payment.looks, payment.state)
        + (payment.changed_ms, payment.currency, payment.charged, payment.problem, payment.id),
    )


def payments_of(connection: Connection, account_id: int, limit: int, below: int | None = None) -> list[Payment]:
    """Return the last payments of an account with IDs under `below`, newest first (keyset pagination).

    Those that never reached the provider are left out.
    """
    rows = connection.execute(
        f"SELECT {_PAYMENT} FROM payments WHERE account_id = ? AND id < ?"
        " AND (state = 'paid' OR provider_ref IS NOT NULL OR problem IS NOT NULL) ORDER BY id DESC LIMIT ?",
        (account_id, 2**63 - 1 if below is None else below, limit),
    )
    return [Payment(*row) for row in rows]


def payments_owing(connection: Connection, account_id: int) -> list[Payment]:
    """Return payments that were reversed after the money was spent, oldest first."""
    rows = connection.execute(
        f"SELECT {_PAYMENT} FROM payments WHERE account_id = ? AND moved > paid - reversed ORDER BY id", (account_id,)
    )
    return [Payment(*row) for row in rows]


def unfinished_payments(connection: Connection, since_ms: int) -> list[Payment]:
    """Return payments that are still open, and those with an amount still owed."""
    # Two queries, each with an index of its own: neither database uses both for conditions joined by OR.
    still_open = connection.execute(
        f"SELECT {_PAYMENT} FROM payments WHERE state = 'open' AND created_ms > ? ORDER BY created_ms LIMIT 1000",
        (since_ms,),
    )
    owing = connection.execute(f"SELECT {_PAYMENT} FROM payments WHERE moved > paid - reversed ORDER BY id LIMIT 1000")
    found = {row[0]: Payment(*row) for row in (*still_open, *owing)}
    return [found[number] for number in sorted(found)]


def recently_paid(connection: Connection, provider: str, since_ms: int, limit: int) -> list[Payment]:
    """Return the paid payments of a provider since a time, oldest first."""
    rows = connection.execute(
        f"SELECT {_PAYMENT} FROM payments WHERE provider = ? AND state = 'paid' AND created_ms > ?"
        " ORDER BY created_ms LIMIT ?",
        (provider, since_ms, limit),
    )
    return [Payment(*row) for row in rows]


def event_was_handled(connection: Connection, event_id: str) -> bool:
    """Return True if this webhook event was handled before."""
    return bool(connection.execute("SELECT 1 FROM webhook_events WHERE event_id = ?", (event_id,)))


def mark_event_handled(connection: Connection, event_id: str, now_ms: int, provider: str = "stripe") -> None:
    """Record that this webhook event was handled, so that a redelivery does nothing."""
    connection.execute(
        "INSERT INTO webhook_events (event_id, provider, seen_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (event_id, provider, now_ms),
    )


# ── credits ───────────────────────────────────────────────────────────────────────────────────────────────


def is_credited(connection: Connection, external_ref: str) -> bool:
    """Return True if a transfer with this reference exists."""
    return bool(connection.execute("SELECT 1 FROM transfers WHERE external_ref = ?", (external_ref,)))


def total_credited(connection: Connection) -> int:
    """Return the sum of all credits in nano-dollars. Dollars and remainders are added apart, so nothing overflows."""
    dollars, rest = connection.execute(
        f"SELECT coalesce(sum(amount / {NANO_PER_DOLLAR}), 0), coalesce(sum(amount % {NANO_PER_DOLLAR}), 0)"
        f" FROM transfers WHERE external_ref IS NOT NULL AND debit = {FUNDING}"
    )[0]
    return int(dollars) * NANO_PER_DOLLAR + int(rest)
