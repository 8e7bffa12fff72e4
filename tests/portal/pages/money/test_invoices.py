"""Pages of invoices: the address, three countries and a credit note in all languages, PDF, statements, CSV."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from decimal import Decimal

import pytest

from minitoolai.core.catalog.shop import Logo, Shop
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.papers.paper_pdf import render_pdf
from minitoolai.portal.papers.papers import invoice_paper, month_bounds
from minitoolai.storage.selling import invoices
from minitoolai.storage.tables import accounts, users
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess
from tests.support.storm import checkout, environment, tell
from tests.support.stripe import Stripe

SHOP = """
[shop]
name = "Acme AI"
company = "Acme Yapay Zekâ A.Ş."
address = "İstiklal Cd. 1\\n34430 Beyoğlu/İstanbul"
country = "DE"
tax_number = "DE136695976"
support = "help@acme.example"
[tax]
reverse_charge = true
rates = { DE = "19", FR = "20" }
"""
MARK = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="9" height="9" fill="#0b6e4f"/></svg>'


@pytest.fixture(scope="module")
def server(stripe: Stripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("invoices")
    with ServerProcess(folder, catalog=CATALOG + SHOP, env=environment(stripe)) as server:
        yield server


def buy(member: Visitor, server: ServerProcess, stripe: Stripe, amount: str = "20", back: int = 0) -> None:
    """Pay an amount, and get some cents back."""
    session = checkout(member, amount)
    stripe.pay(session)
    assert tell(server, stripe.event("checkout.session.completed", stripe.sessions[session])) == 200
    if back:
        stripe.refund(session, back)
        assert tell(server, stripe.event("charge.refunded", stripe.charge(session))) == 200


def rows_of(server: ServerProcess, email: str) -> list[invoices.InvoiceRow]:
    account = server.read(lambda c: users.find_user(c, email)[0].account_id)
    return server.read(lambda c: invoices.invoices_of_account(c, account, 99))


BUYER = {"name": "Müller & Söhne GmbH", "address": "Hauptstraße 5\r\n75001 Paris", "country": "FR"}


def test_an_invoice_shows_seller_buyer_tax_and_rounding(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    member.open("/invoices")
    member.submit("/invoices/address", **BUYER, tax_number="")
    assert "Future invoices show this address" in member.page.text
    buy(member, server, stripe)
    (row,) = rows_of(server, email)
    page = member.open(f"/invoices/{row.name}").text
    for words in (
        "Acme Yapay Zekâ A.Ş.", "Müller &amp; Söhne GmbH", "75001 Paris", "France", "VAT 20%", "$3.33", "$16.67",
        "$20.00", "rounded half up to the cent", email,
    ):  # fmt: skip
        assert words in page, words
    pdf = member.open(f"/invoices/{row.name}.pdf")
    assert pdf.headers["content-type"] == "application/pdf"
    assert pdf.content.startswith(b"%PDF-1.")


def test_a_business_in_the_eu_owes_the_tax_itself(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    member.open("/invoices")
    member.submit("/invoices/address", **BUYER, tax_number="FR 40 303 265 045")
    buy(member, server, stripe, back=500)
    note, invoice = sorted(rows_of(server, email), key=lambda row: row.kind)
    assert (note.name[:3], note.total, note.tax, invoice.tax) == ("CN-", 5 * 10**9, 0, 0)
    page = member.open(f"/invoices/{note.name}").text
    assert "Credit note" in page
    assert invoice.name in page
    assert "Reverse charge" in page
    assert "FR40303265045" in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "Enter a name"),
        ({"name": "x\u202e"}, "Enter a name"),
        ({"address": "a\n" * 9}, "at most 7 lines"),
        ({"country": "XX"}, "Choose a country."),
        ({"country": ""}, "Choose a country."),
        ({"tax_number": "FR41303265045"}, "The check digit of this tax number is wrong"),
        ({"tax_number": "FR4030326504"}, "has another length"),
        ({"tax_number": "FR4030326504é"}, "This is not how tax numbers"),
    ],
)
def test_a_wrong_address_is_refused_next_to_its_field(
    member: Visitor, email: str, server: ServerProcess, changes: dict[str, str], words: str
) -> None:
    member.open("/invoices")
    member.submit("/invoices/address", **(BUYER | {"tax_number": ""} | changes))
    assert member.page.status_code == 422
    assert words in member.page.text
    account = server.read(lambda c: users.find_user(c, email)[0].account_id)
    assert server.read(lambda c: invoices.find_buyer(c, account)) is None


def test_invoices_of_others_are_hidden(member: Visitor, email: str, server: ServerProcess, stripe: Stripe) -> None:
    buy(member, server, stripe)
    (row,) = rows_of(server, email)
    other = Visitor(server).sign_up(f"other-{email}")
    for name in (row.name, f"{row.name}.pdf", "INV-999999", "INV-1", f"INV-0{row.number:06d}", "CN-000000"):
        assert other.open(f"/invoices/{name}").status_code == 404, name
    assert other.open(f"/admin/invoices/{row.name}").status_code == 404
    assert other.open("/admin/invoices").status_code == 404


def test_papers_in_every_language_have_all_letters(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe, caplog: pytest.LogCaptureFixture
) -> None:
    member.open("/invoices")
    member.submit("/invoices/address", **BUYER, tax_number="")
    buy(member, server, stripe, back=100)
    with caplog.at_level(logging.WARNING):
        for row in rows_of(server, email):
            for lang in LANGUAGES:
                paper = invoice_paper(row, lang)
                assert paper.lines[-1][1].strip(), lang
                first = render_pdf(paper, Shop(name="Acme AI", logo=Logo(MARK, "image/svg+xml")), lang)
                assert first.startswith(b"%PDF-1.")
    assert caplog.messages == []


def test_the_monthly_statement_ends_with_the_balance(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    buy(member, server, stripe, back=250)
    server.command("credit", "grant", email, "0.123456789", "--reason", "welcome")
    balance = server.read(lambda c: accounts.balance_of(c, users.find_user(c, email)[0].account_id)).posted
    assert balance == 17_623_456_789
    listed = member.open("/invoices").text
    month = listed.split("/invoices/statements/")[1][:7]
    page = member.open(f"/invoices/statements/{month}").text
    assert page.index("Opening balance") < page.index("$20.00") < page.index("$17.623456789")
    assert "-$2.50" in page
    assert member.open(f"/invoices/statements/{month}.pdf").content.startswith(b"%PDF")
    for wrong in ("2999-01", "2026-13", "x", "2026-1.pdf.pdf"):
        assert member.open(f"/invoices/statements/{wrong}").status_code == 404, wrong


def test_the_accountants_file_adds_up_to_the_ledger(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    member.open("/invoices")
    member.submit("/invoices/address", **(BUYER | {"name": "=cmd()"}), tax_number="")
    buy(member, server, stripe, back=333)
    server.command("account", "admin", email)
    assert rows_of(server, email)[0].name in member.open("/admin/invoices").text
    lines = list(csv.DictReader(io.StringIO(member.open("/admin/invoices/invoices.csv").text.removeprefix("\ufeff"))))
    account = server.read(lambda c: users.find_user(c, email)[0].account_id)
    mine = [line for line in lines if line["account"] == str(account)]
    assert [line["kind"] for line in mine] == ["invoice", "credit_note"]
    assert mine[0]["name"] == "'=cmd()"
    for line in lines:
        assert Decimal(line["net"]) + Decimal(line["tax"]) == Decimal(line["total"])
    credited = server.read(
        lambda c: c.execute("SELECT sum(CASE kind WHEN 'payment' THEN amount ELSE -amount END) FROM transfers"
                            " WHERE kind IN ('payment', 'refund')")
    )[0][0]  # fmt: skip
    assert sum(Decimal(line["total"]) for line in lines) * 10**9 == credited
    month = mine[0]["date"][:7]
    only = member.open(f"/admin/invoices/invoices.csv?month={month}").text
    assert only.count("\n") == len(lines) + 1
    assert member.open("/admin/invoices/invoices.csv?month=2020-02").text.count("\n") == 1
    assert member.open("/admin/invoices/invoices.csv?month=never").status_code == 404


def test_a_month_has_its_true_length() -> None:
    for month, days in (("2024-02", 29), ("2026-02", 28), ("2026-12", 31)):
        begin, end = month_bounds(month) or (0, 0)
        assert (end - begin) // 86_400_000 == days
