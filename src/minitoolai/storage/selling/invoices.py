"""Rows of invoices, credit notes and their numbers, and of the addresses of buyers.

Plain functions of a connection; the caller owns the transaction.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from minitoolai.core.models import Payment
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.tables.payments import PAYMENT_COLUMNS

#: As shown to the operator if it is violated.
INVOICES = "invoices are numbered without a gap, and equal what was paid and credited"
_INVOICE = "series, number, account_id, payment_id, kind, total, tax, issued_ms, document"
InvoiceKind = Literal["invoice", "credit_note"]


class Buyer(msgspec.Struct, frozen=True):
    """Name and address of a customer for invoices. `country` is an ISO 3166 code."""

    name: str = ""
    address: str = ""
    country: str = ""
    tax_number: str = ""


class InvoiceRow(msgspec.Struct, frozen=True):
    """An invoice or a credit note. Amounts are nano-dollars; the total contains the tax."""

    series: str
    number: int
    account_id: int
    payment_id: int
    kind: InvoiceKind
    total: int
    tax: int
    issued_ms: int
    document: str

    @property
    def name(self) -> str:
        """Return the number as it is printed."""
        return f"{self.series}-{self.number:06d}"

    @property
    def signed(self) -> int:
        """Return the total, negative for a credit note."""
        return self.total if self.kind == "invoice" else -self.total


def next_number(connection: Connection, series: str) -> int:
    """Return the next number of a series. The row stays locked until the commit, so that no number is left out."""
    rows = connection.execute(
        "INSERT INTO invoice_series (name, last) VALUES (?, 1)"
        " ON CONFLICT (name) DO UPDATE SET last = invoice_series.last + 1 RETURNING last",
        (series,),
    )
    return int(rows[0][0])


def insert_invoice(connection: Connection, invoice: InvoiceRow) -> None:
    """Insert an invoice or a credit note."""
    connection.execute(f"INSERT INTO invoices ({_INVOICE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _values(invoice))


def _values(invoice: InvoiceRow) -> tuple[object, ...]:
    return tuple(getattr(invoice, name) for name in _INVOICE.split(", "))


def find_invoice(connection: Connection, series: str, number: int) -> InvoiceRow | None:
    """Return the invoice with this number."""
    rows = connection.execute(f"SELECT {_INVOICE} FROM invoices WHERE series = ? AND number = ?", (series, number))
    return InvoiceRow(*rows[0]) if rows else None


def invoices_of_payment(connection: Connection, payment_id: int) -> list[InvoiceRow]:
    """Return the invoices and credit notes of a payment, oldest first."""
    rows = connection.execute(
        f"SELECT {_INVOICE} FROM invoices WHERE payment_id = ? ORDER BY issued_ms, series, number", (payment_id,)
    )
    return [InvoiceRow(*row) for row in rows]


def invoices_of_account(
    connection: Connection, account_id: int, limit: int, before_ms: int | None = None
) -> list[InvoiceRow]:
    """Return the last invoices of an account, newest first (keyset pagination)."""
    rows = connection.execute(
        f"SELECT {_INVOICE} FROM invoices WHERE account_id = ? AND issued_ms < ?"
        " ORDER BY issued_ms DESC, series DESC, number DESC LIMIT ?",
        (account_id, 2**62 if before_ms is None else before_ms, limit),
    )
    return [InvoiceRow(*row) for row in rows]


#: Where a page of all invoices ends: time, series and number.
InvoicePlace = tuple[int, str, int]
FIRST_PLACE: InvoicePlace = (-1, "", 0)


def invoices_between(
    connection: Connection, after: InvoicePlace, until_ms: int, limit: int
) -> list[tuple[InvoiceRow, Payment]]:
    """Return invoices of all accounts after a place and before a time with their payments, oldest first."""
    listed = ", ".join(f"i.{name}" for name in _INVOICE.split(", "))
    paid = ", ".join(f"p.{name}" for name in PAYMENT_COLUMNS.split(", "))
    rows = connection.execute(
        f"SELECT {listed}, {paid} FROM invoices i JOIN payments p ON p.id = i.payment_id"
        " WHERE (i.issued_ms, i.series, i.number) > (?, ?, ?) AND i.issued_ms < ?"
        " ORDER BY i.issued_ms, i.series, i.number LIMIT ?",
        (*after, until_ms, limit),
    )
    return [(InvoiceRow(*row[:9]), Payment(*row[9:])) for row in rows]


def latest_invoices(connection: Connection, limit: int, before: InvoicePlace | None = None) -> list[InvoiceRow]:
    """Return the last invoices of all accounts, newest first (keyset pagination)."""
    rows = connection.execute(
        f"SELECT {_INVOICE} FROM invoices WHERE (issued_ms, series, number) < (?, ?, ?)"
        " ORDER BY issued_ms DESC, series DESC, number DESC LIMIT ?",
        (*(before or (2**62, "", 0)), limit),
    )
    return [InvoiceRow(*row) for row in rows]


def find_buyer(connection: Connection, account_id: int) -> Buyer | None:
    """Return the name and address of a customer for invoices."""
    rows = connection.execute(
        "SELECT name, address, country, tax_number FROM buyers WHERE account_id = ?", (account_id,)
    )
    return Buyer(*rows[0]) if rows else None


def save_buyer(connection: Connection, account_id: int, buyer: Buyer, now_ms: int) -> None:
    """Insert or replace the name and address of a customer."""
    connection.execute(
        "INSERT INTO buyers (account_id, name, address, country, tax_number, changed_ms) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (account_id) DO UPDATE SET name = excluded.name, address = excluded.address,"
        " country = excluded.country, tax_number = excluded.tax_number, changed_ms = excluded.changed_ms",
        (account_id, buyer.name, buyer.address, buyer.country, buyer.tax_number, now_ms),
    )


# ── checks ────────────────────────────────────────────────────────────────────────────────────────────────

_TOTALS = """
    SELECT CAST(p.id AS TEXT), 'paid, reversed, invoiced', p.paid, p.reversed, p.total FROM (SELECT p.*,
        (SELECT sum(CASE kind WHEN 'invoice' THEN total ELSE -total END) FROM invoices WHERE payment_id = p.id) AS total
        FROM payments p) AS p WHERE p.paid - p.reversed <> p.total"""
_CREDITS = """
    SELECT CAST(p.id AS TEXT), 'credited, in the ledger', p.moved, coalesce(t.amount, 0), 0 FROM payments p
        LEFT JOIN transfers t ON t.external_ref = 'payment:' || p.id || ':' || p.version
        WHERE p.version > 0 AND (t.amount IS NULL OR (p.version = 1 AND t.amount <> p.moved))"""
#: Returns series with a gap or a number too many; payments with other invoices less credit notes than was kept of them;
#: payments without an invoice, since there are invoices; and payments without their last transfer in the ledger.
WRONG_INVOICES = f"""
    SELECT s.name, 'last number, count, highest number', s.last, count(i.number), coalesce(max(i.number), 0)
        FROM invoice_series s LEFT JOIN invoices i ON i.series = s.name GROUP BY s.name, s.last
        HAVING s.last <> count(i.number) OR s.last <> coalesce(max(i.number), 0)
    UNION ALL SELECT i.series, 'without a series', i.number, 0, 0 FROM invoices i
        WHERE NOT EXISTS (SELECT 1 FROM invoice_series s WHERE s.name = i.series)
    UNION ALL {_TOTALS}
    UNION ALL SELECT CAST(p.id AS TEXT), 'without an invoice', p.paid, p.reversed, 0 FROM payments p
        WHERE p.state = 'paid' AND p.created_ms > (SELECT min(issued_ms) FROM invoices)
        AND NOT EXISTS (SELECT 1 FROM invoices i WHERE i.payment_id = p.id)
    UNION ALL {_CREDITS}"""


def wrong_invoices(connection: Connection, limit: int) -> list[Row]:
    """Return wrong numbers and totals of invoices: see WRONG_INVOICES."""
    return connection.execute(f"{WRONG_INVOICES} LIMIT {limit}")


def wrong_invoices_since(connection: Connection, since_ms: int) -> list[Row]:
    """Return series whose last number is not the highest, and wrong totals of payments with invoices since then."""
    wrong = connection.execute(
        "SELECT name, 'last number, highest number', last, highest, 0 FROM (SELECT name, last,"
        " (SELECT max(number) FROM invoices WHERE series = invoice_series.name) AS highest FROM invoice_series) AS s"
        " WHERE last <> coalesce(highest, 0)"
    )
    rows = connection.execute("SELECT payment_id FROM invoices WHERE issued_ms >= ?", (since_ms,))
    payments = list({row[0] for row in rows})
    wrong += connection.select_by_ids(f"{_TOTALS} AND p.id IN (…)", payments)
    return wrong + connection.select_by_ids(f"{_CREDITS} AND p.id IN (…)", payments)


# ── monthly statements ────────────────────────────────────────────────────────────────────────────────────


def credits_by_kind(connection: Connection, account_id: int, until_ms: int, since_ms: int = 0) -> dict[str, int]:
    """Return credits less reversals between two times, by kind of transfer. Without usage."""
    sums: dict[str, int] = {}
    for side, sign in (("credit", 1), ("debit", -1)):
        rows = connection.execute(
            f"SELECT kind, sum(amount) FROM transfers WHERE {side} = ? AND kind <> 'usage'"
            " AND created_ms >= ? AND created_ms < ? GROUP BY kind",
            (account_id, since_ms, until_ms),
        )
        for kind, amount in rows:
            sums[kind] = sums.get(kind, 0) + sign * int(amount)
    return sums


def usage_by_model(
    connection: Connection, account_id: int, until_day: int, since_day: int = 0
) -> list[tuple[str, str, int, int]]:
    """Return usage of the days between two: kind, model, requests and cost, the most expensive first."""
    rows = connection.execute(
        "SELECT kind, model, sum(requests), sum(cost) FROM usage_days WHERE account_id = ? AND day >= ? AND day < ?"
        " GROUP BY kind, model ORDER BY sum(cost) DESC, kind, model",
        (account_id, since_day, until_day),
    )
    return [(row[0], row[1], int(row[2]), int(row[3])) for row in rows]
