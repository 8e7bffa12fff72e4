"""Rows of automatic top-ups: the customer's consent, its limits, and the payment in progress.

Plain functions of a connection; the caller owns the transaction.
"""

from __future__ import annotations

import msgspec

from minitoolai.core.models import Payment
from minitoolai.storage.database import Connection
from minitoolai.storage.tables.payments import PAYMENT_COLUMNS

_COLUMNS = (
    "account_id, provider, customer, method, method_name, language, threshold, amount, daily_cap, consented_ms,"
    " changed_ms, stopped, payment_id"
)


class AutoTopup(msgspec.Struct, frozen=True):
    """What a customer consented to: top up by `amount` below `threshold`, at most `daily_cap` in a day (UTC)."""

    account_id: int
    provider: str
    #: The provider's IDs of the customer and the payment method, and how to show the method.
    customer: str
    method: str
    method_name: str
    language: str
    threshold: int
    amount: int
    daily_cap: int
    consented_ms: int
    changed_ms: int
    #: Why it has stopped, `failed` or `cancelled`; None while it runs.
    stopped: str | None = None
    #: The payment in progress.
    payment_id: int | None = None


def find(connection: Connection, account_id: int) -> AutoTopup | None:
    """Return the automatic top-up of an account, running or stopped."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM auto_topups WHERE account_id = ?", (account_id,))
    return AutoTopup(*rows[0]) if rows else None


def replace(connection: Connection, topup: AutoTopup) -> None:
    """Insert or replace the automatic top-up of an account, and keep its payment in progress."""
    connection.execute(
        f"INSERT INTO auto_topups ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (account_id) DO UPDATE SET provider = excluded.provider, customer = excluded.customer,"
        " method = excluded.method, method_name = excluded.method_name, language = excluded.language,"
        " threshold = excluded.threshold, amount = excluded.amount, daily_cap = excluded.daily_cap,"
        " consented_ms = excluded.consented_ms, changed_ms = excluded.changed_ms, stopped = excluded.stopped",
        (topup.account_id, topup.provider, topup.customer, topup.method, topup.method_name, topup.language)
        + (topup.threshold, topup.amount, topup.daily_cap, topup.consented_ms, topup.changed_ms, topup.stopped)
        + (topup.payment_id,),
    )


def stop(connection: Connection, account_id: int, reason: str, now_ms: int) -> bool:
    """Stop an automatic top-up and return True, unless it has stopped already."""
    changed = connection.execute_many(
        "UPDATE auto_topups SET stopped = ?, changed_ms = ? WHERE account_id = ? AND stopped IS NULL",
        [(reason, now_ms, account_id)],
    )
    return changed == 1


def due(connection: Connection, limit: int) -> list[AutoTopup]:
    """Return running automatic top-ups of accounts below their threshold that have no payment in progress."""
    columns = ", ".join(f"t.{name}" for name in _COLUMNS.split(", "))
    rows = connection.execute(
        f"SELECT {columns} FROM auto_topups t JOIN accounts a ON a.id = t.account_id"
        " JOIN users u ON u.account_id = t.account_id WHERE t.stopped IS NULL AND t.payment_id IS NULL"
        " AND a.posted < t.threshold AND u.suspended_ms IS NULL AND u.deleted_ms IS NULL LIMIT ?",
        (limit,),
    )
    return [AutoTopup(*row) for row in rows]


def charged_since(connection: Connection, account_id: int, since_ms: int) -> int:
    """Return the sum of the automatic payments since a time that were not given up."""
    rows = connection.execute(
        "SELECT coalesce(sum(asked), 0) FROM payments WHERE account_id = ? AND is_auto = 1 AND created_ms >= ?"
        " AND state <> 'closed'",
        (account_id, since_ms),
    )
    return int(rows[0][0])


def begin_payment(connection: Connection, topup: AutoTopup, payment_id: int) -> bool:
    """Note the payment in progress and return True, unless there is one or the top-up was changed meanwhile."""
    changed = connection.execute_many(
        "UPDATE auto_topups SET payment_id = ?"
        " WHERE account_id = ? AND payment_id IS NULL AND stopped IS NULL AND changed_ms = ?",
        [(payment_id, topup.account_id, topup.changed_ms)],
    )
    return changed == 1


def end_payment(connection: Connection, account_id: int, payment_id: int) -> None:
    """Note that the payment is no longer in progress."""
    connection.execute(
        "UPDATE auto_topups SET payment_id = NULL WHERE account_id = ? AND payment_id = ?", (account_id, payment_id)
    )


def unsent_payments(connection: Connection, before_ms: int, limit: int) -> list[Payment]:
    """Return automatic payments without a confirmation by the provider: the process may have been killed."""
    columns = ", ".join(f"p.{name}" for name in PAYMENT_COLUMNS.split(", "))
    rows = connection.execute(
        f"SELECT {columns} FROM auto_topups t JOIN payments p ON p.id = t.payment_id"
        " WHERE t.stopped IS NULL AND p.state = 'open' AND p.provider_ref IS NULL AND p.created_ms < ? LIMIT ?",
        (before_ms, limit),
    )
    return [Payment(*row) for row in rows]
