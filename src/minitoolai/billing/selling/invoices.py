"""Issue an invoice for each payment and a credit note for each refund, in the commit that stores the payment's state.

Numbers have no gaps: the row of the series is raised in the same commit, and stays locked until it ends. Invoices less
credit notes of a payment always equal its paid amount less its reversed amount. Each document keeps the seller, buyer
and tax of the time when it was issued.
"""

from __future__ import annotations

import msgspec

from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.tax import TaxRule
from minitoolai.core.clock import Clock
from minitoolai.core.models import Payment
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import invoices
from minitoolai.storage.selling.invoices import Buyer, InvoiceKind, InvoiceRow
from minitoolai.storage.tables import users

#: Series of numbers.
SERIES: dict[InvoiceKind, str] = {"invoice": "INV", "credit_note": "CN"}


class Seller(msgspec.Struct, frozen=True):
    """The operator, as `[shop]` of the catalog names it."""

    name: str
    address: str = ""
    country: str = ""
    tax_number: str = ""
    support: str = ""


class Document(msgspec.Struct, frozen=True):
    """What an invoice shows beside its amounts."""

    seller: Seller
    buyer: Buyer
    email: str
    tax: TaxRule
    language: str
    #: Of the payment: how it was paid, and what the customer paid in another currency, in its cents.
    provider: str
    currency: str | None = None
    charged: int | None = None
    #: The invoice that a credit note is about.
    refers_to: str | None = None


def read_document(invoice: InvoiceRow) -> Document:
    """Return what an invoice shows."""
    return msgspec.json.decode(invoice.document, type=Document)


def issue(connection: Connection, clock: Clock, catalog: Catalog, payment: Payment) -> list[InvoiceRow]:
    """Issue the missing documents so that invoices less credit notes equal `paid - reversed`, and return it.

    The caller holds the account's lock. Repeating the call issues nothing.
    """
    rows = invoices.invoices_of_payment(connection, payment.id)
    issued: list[InvoiceRow] = []
    if not rows and payment.paid:
        first = _new(connection, clock, payment, _document(connection, catalog, payment), "invoice", payment.paid)
        rows, issued = [first], [first]
    difference = payment.paid - payment.reversed - sum(row.signed for row in rows)
    if rows and difference:
        document = msgspec.structs.replace(read_document(rows[0]), refers_to=rows[0].name)
        kind: InvoiceKind = "invoice" if difference > 0 else "credit_note"
        # The tax of all documents together is that of the amount kept, so a whole refund leaves no cent of tax.
        taxed = sum(row.tax if row.kind == "invoice" else -row.tax for row in rows)
        tax = abs(document.tax.contained(payment.paid - payment.reversed) - taxed)
        issued.append(_new(connection, clock, payment, document, kind, abs(difference), tax))
    return issued


def _new(
    connection: Connection,
    clock: Clock,
    payment: Payment,
    document: Document,
    kind: InvoiceKind,
    total: int,
    tax: int | None = None,
) -> InvoiceRow:
    series = SERIES[kind]
    row = InvoiceRow(
        series=series,
        number=invoices.next_number(connection, series),
        account_id=payment.account_id,
        payment_id=payment.id,
        kind=kind,
        total=total,
        tax=document.tax.contained(total) if tax is None else tax,
        issued_ms=clock.now_ms(),
        document=msgspec.json.encode(document).decode(),
    )
    invoices.insert_invoice(connection, row)
    return row


def _document(connection: Connection, catalog: Catalog, payment: Payment) -> Document:
    shop, buyer = catalog.shop, invoices.find_buyer(connection, payment.account_id) or Buyer()
    found = users.find_user_of(connection, payment.account_id)
    user = found[0] if found else None
    rule = catalog.tax.rule(shop.country, buyer.country, buyer.tax_number)
    return Document(
        seller=Seller(shop.company or shop.name, shop.address, shop.country, shop.tax_number, shop.support),
        buyer=buyer,
        email=user.email if user else "",
        tax=rule,
        language=(user.language if user else None) or shop.language,
        provider=payment.provider,
        currency=payment.currency,
        charged=payment.charged,
    )
