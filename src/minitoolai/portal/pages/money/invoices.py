"""Invoices, credit notes and monthly statements of a customer, their address, and all invoices for admins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from babel import Locale
from starlette.responses import Response

from minitoolai.billing.selling.invoices import read_document
from minitoolai.billing.selling.tax_numbers import Fault, InvalidTaxNumber, normalize_tax_number
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.threads import DOCUMENTS, EXPORTS
from minitoolai.http.exports import Parts, csv_lines
from minitoolai.portal.papers.invoice_csv import COLUMNS, encode_invoices
from minitoolai.portal.papers.paper_pdf import render_pdf
from minitoolai.portal.papers.papers import Paper, invoice_paper, month_bounds, party, read_month, statement_paper
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, not_found, page
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import invoices, purses
from minitoolai.storage.selling.invoices import Buyer

PAGE_SIZE = 50
#: List the statements of this many months.
MONTHS = 12
CSV_PART = 500
#: After every request.
FAR_MS = 2**62
#: Not countries: unions, and codes for unknown places.
_NO_COUNTRIES = ("EU", "EZ", "UN", "QO", "XA", "XB", "ZZ")


def countries(lang: str) -> list[tuple[str, str]]:
    """Return code and name of every country, sorted by name."""
    names = Locale.parse(lang).territories
    found = [
        (code, name) for code, name in names.items() if re.fullmatch("[A-Z]{2}", code) and code not in _NO_COUNTRIES
    ]
    return sorted(found, key=lambda pair: pair[1].casefold())


@page("/invoices", access="user", action="read")
async def invoice_list(page: PageRequest) -> Response:
    """Show the invoices, the monthly statements, and the form of the address."""
    buyer = await page.site.database.read_async(invoices.find_buyer, page.member.account_id) or Buyer()
    for name in Buyer.__struct_fields__:
        page.form.values.setdefault(name, getattr(buyer, name))
    return await _render_list(page)


async def _render_list(page: PageRequest, status: int = 200) -> Response:
    before = page.query_number("before")
    rows = await page.site.database.read_async(
        invoices.invoices_of_account, page.member.account_id, PAGE_SIZE + 1, before
    )
    older = rows[PAGE_SIZE - 1] if len(rows) > PAGE_SIZE else None
    return page.render(
        "money/invoices.html", status, rows=rows[:PAGE_SIZE], older=older, newer=before is not None,
        countries=countries(page.lang), months=list(_months(page)),
    )  # fmt: skip


def _months(page: PageRequest) -> Iterator[str]:
    """Yield the last months in which the account existed, the present one first."""
    moment = datetime.fromtimestamp(page.site.clock.now_ms() // 1000, UTC)
    first = f"{datetime.fromtimestamp(page.member.created_ms // 1000, UTC):%Y-%m}"
    year, month = moment.year, moment.month
    for _ in range(MONTHS):
        if (name := f"{year:04d}-{month:02d}") < first:
            return
        yield name
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)


@form("/invoices/address", access="user", action="pay", draft_fields=("name", "address", "country", "tax_number"))
async def address(page: PageRequest) -> Response:
    """Save the name and address for future invoices. Those that were issued stay as they are."""
    _ = page.gettext
    name, text, country = (page.form[field].replace("\r\n", "\n") for field in ("name", "address", "country"))
    if not name or len(name) > 100 or not name.isprintable():
        page.form.add_error("name", _("Enter a name of at most %(num)d characters.") % {"num": 100})
    if len(text) > 400 or not text.replace("\n", "").isprintable() or text.count("\n") > 6:
        page.form.add_error("address", _("Enter an address of at most %(num)d lines.") % {"num": 7})
    if country not in dict(countries(page.lang)):
        page.form.add_error("country", _("Choose a country."))
    number = ""
    try:
        number = normalize_tax_number(country, page.form["tax_number"])
    except InvalidTaxNumber as error:
        page.form.add_error("tax_number", _tax_number_error(page, error.fault))
    if not page.form.is_valid:
        return await _render_list(page, 422)
    buyer, now_ms, account_id = Buyer(name, text, country, number), page.site.clock.now_ms(), page.member.account_id

    def change(connection: Connection) -> None:
        invoices.save_buyer(connection, account_id, buyer, now_ms)
        page.log_action(connection, "billing_address", name)

    await page.site.writer.run(change)
    return page.redirect("/invoices", flash=_("Saved. Future invoices show this address."))


def _tax_number_error(page: PageRequest, fault: Fault) -> str:
    _ = page.gettext
    if fault == "length":
        return _("A tax number of this country has another length. Check for missing or extra characters.")
    if fault == "check_digit":
        return _("The check digit of this tax number is wrong. Check it for typos.")
    return _("This is not how tax numbers of this country look. Enter it with its prefix, such as DE136695976.")


@page("/invoices/{invoice}", access="user", action="read")
async def invoice(page: PageRequest) -> Response:
    """Show an invoice or a credit note of the customer; with `.pdf` as a file."""
    return await _show_invoice(page, page.member.account_id)


@page("/admin/invoices/{invoice}", access="admin")
async def any_invoice(page: PageRequest) -> Response:
    """Show an invoice of any customer; with `.pdf` as a file."""
    return await _show_invoice(page, None)


async def _show_invoice(page: PageRequest, account_id: int | None) -> Response:
    found = re.fullmatch(r"(INV|CN)-(\d{6,12})(\.pdf)?", page.request.path_params["invoice"])
    if found is None:
        return not_found(page)
    row = await page.site.database.read_async(invoices.find_invoice, found[1], int(found[2]))
    if row is None or row.name != found[1] + "-" + found[2] or account_id not in (None, row.account_id):
        return not_found(page)
    paper = invoice_paper(row, page.lang)
    if found[3]:
        return await _pdf(page, paper)
    back = "/invoices" if account_id is not None else "/admin/invoices"
    return page.render("money/paper.html", paper=paper, back=back, pdf=f"{back}/{row.name}.pdf")


async def _pdf(page: PageRequest, paper: Paper) -> Response:
    async def parts() -> Parts:
        yield await DOCUMENTS.run(render_pdf, paper, page.site.shop, page.lang, page.site.pdf_font)

    return await page.export(parts(), "application/pdf", f"{paper.number}.pdf")


@page("/invoices/statements/{month}", access="user", action="read")
async def statement(page: PageRequest) -> Response:
    """Show the statement of a month; with `.pdf` as a file."""
    month = page.request.path_params["month"]
    bounds = month_bounds(month.removesuffix(".pdf"))
    if bounds is None or bounds[0] > page.site.clock.now_ms():
        return not_found(page)
    shop, account_id = page.site.shop, page.member.account_id
    sums = await page.report(read_month, account_id, *bounds)
    if spent := await page.site.database.read_async(purses.spent_of, account_id):
        archive = page.site.reports.archive
        since = await archive.paid_by_plans(account_id, bounds[0], FAR_MS)
        sums = sums.with_plans(spent - since, await archive.paid_by_plans(account_id, *bounds))
    buyer = await page.site.database.read_async(invoices.find_buyer, account_id) or Buyer()
    paper = statement_paper(
        sums, *bounds, lang=page.lang,
        seller=party(shop.company or shop.name, shop.address, shop.country, shop.tax_number, shop.support, page.lang),
        buyer=party(buyer.name, buyer.address, buyer.country, buyer.tax_number, page.member.email, page.lang),
    )  # fmt: skip
    if month.endswith(".pdf"):
        return await _pdf(page, paper)
    return page.render("money/paper.html", paper=paper, back="/invoices", pdf=f"/invoices/statements/{month}.pdf")


# ── administrators ────────────────────────────────────────────────────────────────────────────────────────


@page("/admin/invoices", access="admin")
async def all_invoices(page: PageRequest) -> Response:
    """Show the invoices and credit notes of all customers."""
    before = page.query_number("before")
    place = None if before is None else (before, "", 0)
    rows = await page.report(invoices.latest_invoices, PAGE_SIZE + 1, place)
    older = rows[PAGE_SIZE - 1] if len(rows) > PAGE_SIZE else None
    return page.render(
        "money/all_invoices.html", rows=rows[:PAGE_SIZE], older=older, newer=before is not None,
        months=list(_months(page)), read_document=read_document,
    )  # fmt: skip


@page("/admin/invoices/invoices.csv", access="admin")
async def invoices_csv(page: PageRequest) -> Response:
    """Download the invoices and credit notes of a month (`month=2026-11`), or all, for the accountant."""
    month = page.query.get("month", "")
    bounds = month_bounds(month) if month else (0, page.site.clock.now_ms() + MS_PER_DAY)
    if bounds is None:
        return not_found(page)
    return await page.export(_csv(page, *bounds), "text/csv", f"invoices{'-' if month else ''}{month}.csv")


async def _csv(page: PageRequest, begin_ms: int, end_ms: int) -> Parts:
    yield csv_lines([COLUMNS])
    place = (begin_ms - 1, "￿", 0)
    while rows := await page.report(invoices.invoices_between, place, end_ms, CSV_PART):
        yield await EXPORTS.run(encode_invoices, rows)
        last = rows[-1][0]
        place = last.issued_ms, last.series, last.number


HANDLERS: list[Handler] = [
    invoice_list, address, invoice, any_invoice, statement, all_invoices, invoices_csv,
]  # fmt: skip
