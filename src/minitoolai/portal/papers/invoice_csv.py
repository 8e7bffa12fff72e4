"""Invoices and credit notes as lines of CSV, for the accountant: on the admin pages and by `minitoolai invoice`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from minitoolai.billing.selling.invoices import read_document
from minitoolai.core.models import Payment
from minitoolai.core.money import format_dollars
from minitoolai.http.exports import csv_lines
from minitoolai.portal.rendering.charts import escape_formula
from minitoolai.storage.selling.invoices import InvoiceRow

COLUMNS = (
    "number", "date", "kind", "account", "name", "country", "tax_number", "net", "tax_rate", "tax", "total", "currency",
    "reverse_charge", "provider", "payment", "provider_reference", "paid_currency", "paid_amount", "refers_to",
)  # fmt: skip


def encode_invoices(rows: Iterable[tuple[InvoiceRow, Payment]]) -> bytes:
    """Return invoices with their payments as lines of CSV."""
    return csv_lines(_line(invoice, payment) for invoice, payment in rows)


def _line(invoice: InvoiceRow, payment: Payment) -> tuple[object, ...]:
    document = read_document(invoice)
    sign = 1 if invoice.kind == "invoice" else -1
    charged = "" if document.charged is None else f"{document.charged // 100}.{document.charged % 100:02d}"
    moment = datetime.fromtimestamp(invoice.issued_ms / 1000, UTC)
    net, tax, total = (
        format_dollars(sign * nano)[:-7] for nano in (invoice.total - invoice.tax, invoice.tax, invoice.total)
    )
    return (
        invoice.name, moment.date().isoformat(), invoice.kind, invoice.account_id, escape_formula(document.buyer.name),
        document.buyer.country, escape_formula(document.buyer.tax_number), net,
        f"{document.tax.rate // 100}.{document.tax.rate % 100:02d}", tax, total, "USD",
        int(document.tax.is_reverse_charge), document.provider, payment.id, payment.provider_ref or "",
        document.currency or "", charged, document.refers_to or "",
    )  # fmt: skip
