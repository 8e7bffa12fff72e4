"""Payments on temporary books as the cashier stores them: paid, refunded, with their invoices."""

from __future__ import annotations

from itertools import count

from minitoolai.billing.payments import transfer_difference
from minitoolai.billing.selling import invoices as issuing
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.clock import Clock
from minitoolai.core.models import Payment
from minitoolai.storage.database import Connection
from minitoolai.storage.selling.invoices import InvoiceRow
from minitoolai.storage.tables import payments
from tests.support.books import TemporaryBooks

CENT = 10_000_000
_numbers = count(10**6)


def set_state(
    connection: Connection, clock: Clock, catalog: Catalog, payment: Payment, paid: int, back: int
) -> list[InvoiceRow]:
    """Store that so many cents were paid and reversed, and return the documents that this issued."""
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [payment.account_id], lock=True)
    now = payments.find_payment(connection, payment.id)
    assert now is not None
    seen = Payment(
        now.id, now.account_id, now.provider, now.provider_ref, now.intent, now.asked, paid * CENT, back * CENT,
        now.moved, now.version, now.looks + 1, "paid", now.created_ms, clock.now_ms(),
    )  # fmt: skip
    payments.update_payment(connection, seen)
    return issuing.issue(connection, clock, catalog, transfer_difference(connection, clock, seen))


def new_payment(books: TemporaryBooks, account: int, cents: int) -> Payment:
    number = next(_numbers)
    with books.connection.transaction():
        payments.insert_payment(books.connection, number, account, cents * CENT, books.clock.now_ms())
    found = payments.find_payment(books.connection, number)
    assert found is not None
    return found


def pay(books: TemporaryBooks, catalog: Catalog, payment: Payment, paid: int, back: int = 0) -> list[InvoiceRow]:
    with books.connection.transaction():
        return set_state(books.connection, books.clock, catalog, payment, paid, back)
