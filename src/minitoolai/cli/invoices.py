"""`minitoolai invoice`: list, show and export invoices and credit notes."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from minitoolai.accounts.keys import require_account
from minitoolai.billing.selling.invoices import read_document
from minitoolai.cli.common import Commands, add_command, add_group, read, say
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.errors import InvalidRequest, NotFound
from minitoolai.core.money import short_dollars
from minitoolai.core.private_files import private_opener
from minitoolai.paths import catalog_path
from minitoolai.settings import Settings
from minitoolai.storage.selling import invoices
from minitoolai.storage.selling.invoices import InvoicePlace, InvoiceRow

AT_ONCE = 500
#: After every document.
ALWAYS_MS = 2**62
MAX_LISTED = 100_000


def add_invoice(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `invoice list`, `show` and `export`."""
    group = add_group(commands, "invoice", "list, show and export invoices and credit notes", "show INV-000012")
    about = "list the last invoices and credit notes, newest first"
    parser = add_command(group, "list", about, list_invoices, "invoice list ann@example.com --limit 20")
    parser.add_argument("email", metavar="EMAIL", nargs="?", help="only those of this account")
    parser.add_argument("--limit", type=int, default=50, help="how many (50)")
    about = "show an invoice or a credit note; with --pdf write it to a file"
    parser = add_command(group, "show", about, show_invoice, "invoice show INV-000012 --pdf invoice.pdf")
    parser.add_argument("number", metavar="NUMBER", help="number of the document, such as INV-000012 or CN-000003")
    parser.add_argument("--language", default="en", help="language of the document (en)")
    parser.add_argument("--pdf", type=Path, metavar="FILE", help="write a PDF to this new file")
    about = "print invoices and credit notes as CSV, oldest first, for the accountant"
    parser = add_command(group, "export", about, export_invoices, "invoice export --month 2026-11 > invoices.csv")
    parser.add_argument("--month", metavar="MONTH", help="only those of this month (UTC), such as 2026-11; all")


def list_invoices(settings: Settings, options: argparse.Namespace) -> None:
    """Print one line for each document: number, date, account, total, tax and buyer."""
    if not 1 <= options.limit <= MAX_LISTED:
        raise InvalidRequest(f"--limit must be 1 to {MAX_LISTED:,}", param="--limit")
    if options.email is None:
        rows = read(settings, partial(invoices.latest_invoices, limit=options.limit))
    else:
        account_id = read(settings, lambda connection: require_account(connection, options.email))
        rows = read(settings, partial(invoices.invoices_of_account, account_id=account_id, limit=options.limit))
    for row in rows:
        say(_describe(row))


def _describe(row: InvoiceRow) -> str:
    document = read_document(row)
    sign = "" if row.kind == "invoice" else "-"
    day = datetime.fromtimestamp(row.issued_ms / 1000, UTC).date()
    to = document.buyer.name or document.email or "-"
    about = f"  refers to {document.refers_to}" if document.refers_to else ""
    return (
        f"{row.name}  {day}  {sign}${short_dollars(row.total)}  tax {sign}${short_dollars(row.tax)}"
        f"  account {row.account_id}  {_plain(to)}{about}"
    )


def _plain(text: str) -> str:
    """Return a text of a customer without control characters, which could write to the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def show_invoice(settings: Settings, options: argparse.Namespace) -> None:
    """Print a document as text, or write it as PDF. Raises NotFound."""
    # Imported here: templates and fonts take longer than most commands.
    from minitoolai.portal.i18n import LANGUAGES
    from minitoolai.portal.papers.papers import invoice_paper

    if options.language not in LANGUAGES:
        raise InvalidRequest(f"--language must be one of {', '.join(LANGUAGES)}", param="--language")
    found = re.fullmatch(r"(INV|CN)-(\d{6,12})", options.number)
    row = (
        None if found is None else read(settings, partial(invoices.find_invoice, series=found[1], number=int(found[2])))
    )
    if row is None or row.name != options.number:
        raise NotFound(f"there is no invoice {options.number!r}; see minitoolai invoice list", param="NUMBER")
    paper = invoice_paper(row, options.language)
    if options.pdf is not None:
        from minitoolai.portal.papers.paper_pdf import render_pdf

        shop = read_catalog(catalog_path(settings)).shop
        body = render_pdf(paper, shop, options.language, settings.pdf_font)
        try:
            with open(options.pdf, "xb", opener=private_opener) as file:
                file.write(body)
        except OSError as error:
            raise InvalidRequest(f"--pdf: {options.pdf} cannot be written: {error.strerror}", param="--pdf") from None
        say(str(options.pdf))
        return
    say(f"{paper.title} {paper.number}")
    for name, value in paper.facts:
        say(f"{name}: {value}")
    for title, party in (("", paper.seller), ("", paper.buyer)):
        say(title)
        for line in party:
            say(_plain(line))
    say("")
    for text, amount, _ in paper.lines:
        say(f"{text:<40} {amount:>16}")
    for note in paper.notes:
        say(note)


def export_invoices(settings: Settings, options: argparse.Namespace) -> None:
    """Print CSV. Raises InvalidRequest for a month that is none."""
    from minitoolai.http.exports import csv_lines
    from minitoolai.portal.papers.invoice_csv import COLUMNS, encode_invoices
    from minitoolai.portal.papers.papers import month_bounds

    bounds = (0, ALWAYS_MS) if options.month is None else month_bounds(options.month)
    if bounds is None:
        raise InvalidRequest(f"--month must be a month such as 2026-11, not {options.month!r}", param="--month")
    sys.stdout.write(csv_lines([COLUMNS]).decode())
    place: InvoicePlace = (bounds[0] - 1, "\uffff", 0)
    while rows := read(settings, partial(invoices.invoices_between, after=place, until_ms=bounds[1], limit=AT_ONCE)):
        sys.stdout.write(encode_invoices(rows).decode())
        last = rows[-1][0]
        place = last.issued_ms, last.series, last.number
    sys.stdout.flush()
