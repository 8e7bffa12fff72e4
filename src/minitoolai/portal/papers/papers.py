"""Invoices, credit notes and monthly statements in any language: what they show, for the page and the PDF alike."""

from __future__ import annotations

import calendar
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from babel import Locale

from minitoolai.billing.selling.invoices import read_document
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.portal.i18n import N_, formatter, translations
from minitoolai.storage.database import Connection
from minitoolai.storage.selling.invoices import InvoiceRow, credits_by_kind, usage_by_model

Translate = Callable[[str], str]


class Paper(msgspec.Struct, frozen=True):
    """A document: heading, facts, both parties, lines with amounts, and notes below. All in one language."""

    title: str
    number: str
    facts: tuple[tuple[str, str], ...]
    seller: tuple[str, ...]
    buyer: tuple[str, ...]
    #: Text, amount, and whether the line is a sum.
    lines: tuple[tuple[str, str, bool], ...]
    notes: tuple[str, ...]
    issued_ms: int


def invoice_paper(invoice: InvoiceRow, lang: str) -> Paper:
    """Return an invoice or a credit note in a language."""
    _, formats = translations(lang).gettext, formatter(lang)
    document = read_document(invoice)
    tax, seller, buyer = document.tax, document.seller, document.buyer
    facts = [(_("Number"), invoice.name), (_("Date"), formats.day(invoice.issued_ms))]
    if document.refers_to:
        facts.append((_("Refers to"), document.refers_to))
    notes = []
    if tax.is_reverse_charge:
        notes.append(_("Reverse charge: the customer owes the tax."))
    elif tax.rate:
        notes.append(_("The total contains the tax: total × rate ÷ (100 + rate), rounded half up to the cent."))
        if invoice.kind == "credit_note" or document.refers_to:
            notes.append(_("An invoice and its credit notes together contain the tax of the amount that was kept."))
    if document.currency and document.charged is not None:
        paid = formats.foreign(document.charged, document.currency)
        notes.append(_("Paid as %(amount)s.") % {"amount": paid})
    return Paper(
        title=_title(invoice, _, has_seller=bool(seller.address)),
        number=invoice.name,
        facts=tuple(facts),
        seller=party(seller.name, seller.address, seller.country, seller.tax_number, seller.support, lang),
        buyer=party(buyer.name, buyer.address, buyer.country, buyer.tax_number, document.email, lang),
        lines=(
            (_("Prepaid credit"), formats.money(invoice.total - invoice.tax), False),
            (f"{tax.name} {formats.rate(tax.rate)}", formats.money(invoice.tax), False),
            (_("Total"), formats.money(invoice.total), True),
        ),
        notes=tuple(notes),
        issued_ms=invoice.issued_ms,
    )


def _title(invoice: InvoiceRow, _: Translate, *, has_seller: bool) -> str:
    if invoice.kind == "credit_note":
        return _("Credit note")
    return _("Invoice") if has_seller else _("Receipt")


def party(name: str, address: str, country: str, tax_number: str, email: str, lang: str) -> tuple[str, ...]:
    """Return the lines of an address."""
    _ = translations(lang).gettext
    land = Locale.parse(lang).territories.get(country, country)
    number = f"{_('Tax number')}: {tax_number}" if tax_number else ""
    return tuple(line for line in (name, *address.splitlines(), land, number, email) if line)


#: Names of the kinds of transfers on a statement.
KINDS = {
    "grant": N_("Credit"),
    "voucher": N_("Voucher"),
    "payment": N_("Payment"),
    "refund": N_("Refunded"),
    "reversal": N_("Credit taken back"),
    "usage_refund": N_("Refund of usage"),
    "coupon": N_("Coupon"),
    "signup": N_("Credit for signing up"),
    "plan": N_("Plan"),
    "plan_refund": N_("Unused part of a plan"),
}


class MonthSums(msgspec.Struct, frozen=True):
    """The sums of one month of an account, in nano-dollars."""

    opening: int
    credits: dict[str, int]
    #: Kind, model, requests and cost.
    usage: list[tuple[str, str, int, int]]
    #: Of that, what plans paid instead of the balance.
    paid_by_plans: int = 0

    @property
    def closing(self) -> int:
        used = sum(cost for *_, cost in self.usage) - self.paid_by_plans
        return self.opening + sum(self.credits.values()) - used

    def with_plans(self, before: int, within: int) -> MonthSums:
        """Return the sums with what plans paid before the month and within it, which did not change the balance."""
        return msgspec.structs.replace(self, opening=self.opening + before, paid_by_plans=within)


def month_bounds(month: str) -> tuple[int, int] | None:
    """Return beginning and end of a month such as "2026-11" in milliseconds (UTC), None if it is none."""
    try:
        begin = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        return None
    days = calendar.monthrange(begin.year, begin.month)[1]
    begin_ms = int(begin.timestamp()) * 1000
    return begin_ms, begin_ms + days * MS_PER_DAY


def read_month(connection: Connection, account_id: int, begin_ms: int, end_ms: int) -> MonthSums:
    """Read the sums of a month. Usage belongs to the day on which a request began (UTC)."""
    first, last = begin_ms // MS_PER_DAY, end_ms // MS_PER_DAY
    before = sum(credits_by_kind(connection, account_id, begin_ms).values())
    used = sum(cost for *_, cost in usage_by_model(connection, account_id, first))
    return MonthSums(
        before - used,
        credits_by_kind(connection, account_id, end_ms, begin_ms),
        usage_by_model(connection, account_id, last, first),
    )


def statement_paper(
    sums: MonthSums, begin_ms: int, end_ms: int, *, seller: tuple[str, ...], buyer: tuple[str, ...], lang: str
) -> Paper:
    """Return the statement of a month in a language."""
    _, formats = translations(lang).gettext, formatter(lang)
    translate = translations(lang).gettext
    credited = [
        (translate(KINDS[kind]) if kind in KINDS else kind, amount) for kind, amount in sorted(sums.credits.items())
    ]
    used = [(f"{model} × {formats.number(requests)}", -cost) for _kind, model, requests, cost in sums.usage]
    by_plans = [(_("Usage paid by plans"), sums.paid_by_plans)]
    until_ms = end_ms - MS_PER_DAY
    return Paper(
        title=_("Statement"),
        number=f"{datetime.fromtimestamp(begin_ms // 1000, UTC):%Y-%m}",
        facts=((_("Period"), f"{formats.day(begin_ms)} – {formats.day(until_ms)}"),),
        seller=seller,
        buyer=buyer,
        lines=(
            (_("Opening balance"), formats.money(sums.opening), True),
            *((text, formats.money(amount), False) for text, amount in credited + used + by_plans if amount),
            (_("Closing balance"), formats.money(sums.closing), True),
        ),
        notes=(_("Amounts are exact. Usage counts for the day (UTC) on which a request began."),),
        issued_ms=end_ms,
    )
