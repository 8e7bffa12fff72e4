"""Invoices, as an operator lists, shows and exports them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.storage.selling import invoices
from minitoolai.storage.selling.invoices import Buyer
from tests.support.books import TemporaryBooks
from tests.support.cli import CATALOG, Cli
from tests.support.purchases import new_payment, pay

SHOP = '\n[shop]\nname = "Acme AI"\ncompany = "Acme GmbH"\naddress = "1 Main St"\ncountry = "DE"\n'


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Two customers; the first paid $20 and got $5 back, the second paid $7 in another name."""
    made = Cli(tmp_path, CATALOG + SHOP).with_books()
    books = TemporaryBooks(f"sqlite:///{made.database}")
    catalog = parse_catalog(CATALOG + SHOP)
    first, second = books.account(), books.account()
    with books.connection.transaction():
        invoices.save_buyer(books.connection, second, Buyer("=1\x1b[2J 株式会社", "2 Side St", "JP"), 0)
    paid = new_payment(books, first, 2000)
    pay(books, catalog, paid, 2000)
    pay(books, catalog, paid, 2000, 500)
    pay(books, catalog, new_payment(books, second, 700), 700)
    made.env["FIRST"] = books.rows("SELECT email FROM users ORDER BY account_id")[0][0]
    books.database.close()
    return made


def test_documents_are_listed_newest_first_and_by_account(cli: Cli) -> None:
    lines = cli.ok_within("invoice", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["INV-000002", "INV-000001", "CN-000001"]
    assert "-$5.00" in lines[2]
    assert lines[2].endswith("refers to INV-000001")
    assert "=1?[2J 株式会社" in lines[0]
    assert cli.ok_within("invoice", "list", "--limit", "1").splitlines() == lines[:1]
    assert cli.ok_within("invoice", "list", cli.env["FIRST"]).splitlines() == lines[1:]
    assert "There is no account" in cli.within("invoice", "list", "nobody@example.com").err
    assert "--limit must be" in cli.within("invoice", "list", "--limit", "0").err


def test_a_document_is_shown_in_any_language_and_written_as_pdf(cli: Cli, tmp_path: Path) -> None:
    shown = cli.ok_within("invoice", "show", "INV-000001")
    for words in ("Invoice INV-000001", "Acme GmbH", "$20.00"):
        assert words in shown
    assert "Rechnung INV-000001" in cli.ok_within("invoice", "show", "INV-000001", "--language", "de")
    file = tmp_path / "invoice.pdf"
    assert cli.ok_within("invoice", "show", "INV-000002", "--pdf", str(file)) == f"{file}\n"
    assert file.read_bytes().startswith(b"%PDF-1.")
    assert file.stat().st_mode & 0o077 == 0
    assert "cannot be written" in cli.within("invoice", "show", "INV-000002", "--pdf", str(file)).err
    assert "--language must be one of" in cli.within("invoice", "show", "INV-000001", "--language", "xx").err


@pytest.mark.parametrize("number", ["INV-000009", "INV-1", "INV-0000001", "XX-000001", "inv-000001", ""])
def test_a_number_that_does_not_exist_is_refused(cli: Cli, number: str) -> None:
    said = cli.within("invoice", "show", number)
    assert said.status == 1
    assert f"there is no invoice {number!r}; see minitoolai invoice list" in said.err


def test_the_export_has_every_document_of_the_month(cli: Cli) -> None:
    rows = list(csv.DictReader(io.StringIO(cli.ok_within("invoice", "export"))))
    assert [row["number"] for row in rows] == ["CN-000001", "INV-000001", "INV-000002"]
    assert sorted(row["total"] for row in rows) == ["-5.00", "20.00", "7.00"]
    assert rows[2]["name"].startswith("'=1")
    month = rows[0]["date"][:7]
    assert len(cli.ok_within("invoice", "export", "--month", month).splitlines()) == 4
    assert len(cli.ok_within("invoice", "export", "--month", "2020-02").splitlines()) == 1
    assert "--month must be a month such as 2026-11" in cli.within("invoice", "export", "--month", "2026-13").err
