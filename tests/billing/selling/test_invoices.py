"""Invoices: one for each payment and refund, numbered without gaps, adding up to the ledger, on both databases."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from minitoolai.billing.selling.invoices import read_document
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.storage.opening import open_database
from minitoolai.storage.selling import invoices
from minitoolai.storage.selling.invoices import Buyer, InvoiceRow
from tests.support.books import TemporaryBooks
from tests.support.purchases import CENT, new_payment, pay, set_state

TAXED = (
    '[shop]\nname = "Acme AI"\ncompany = "Acme GmbH"\naddress = "Weg 1\\n10115 Berlin"\ncountry = "DE"\n'
    'tax_number = "DE136695976"\n[tax]\nreverse_charge = true\nrates = { DE = "19", FR = "20" }\n'
)


@pytest.fixture
def catalog() -> Catalog:
    return parse_catalog(TAXED)


@pytest.fixture
def checked(books: TemporaryBooks) -> Iterator[TemporaryBooks]:
    yield books
    assert invoices.wrong_invoices(books.connection, 9) == []


def live_with(books: TemporaryBooks, account: int, buyer: Buyer) -> None:
    with books.connection.transaction():
        invoices.save_buyer(books.connection, account, buyer, 1)


def shown(rows: list[InvoiceRow]) -> list[tuple[str, int, int]]:
    return [(row.name, row.signed // CENT, row.tax // CENT) for row in rows]


def test_each_payment_has_an_invoice_and_each_refund_a_credit_note(checked: TemporaryBooks, catalog: Catalog) -> None:
    account = checked.account()
    payment = new_payment(checked, account, 2000)
    assert shown(pay(checked, catalog, payment, 2000)) == [("INV-000001", 2000, 319)]
    assert pay(checked, catalog, payment, 2000) == []
    (note,) = pay(checked, catalog, payment, 2000, 500)
    assert shown([note]) == [("CN-000001", -500, 80)]
    assert read_document(note).refers_to == "INV-000001"
    # The refund fails later: the money is back.
    assert shown(pay(checked, catalog, payment, 2000, 0)) == [("INV-000002", 500, 80)]
    assert shown(pay(checked, catalog, payment, 2000, 2000)) == [("CN-000002", -2000, 319)]
    assert checked.money(account).posted == 0


def test_taxes_of_many_partial_refunds_add_up_to_nothing(checked: TemporaryBooks, catalog: Catalog) -> None:
    draw, payment = random.Random(3), new_payment(checked, checked.account(), 999)
    rows, back = pay(checked, catalog, payment, 999), 0
    while back < 999:
        back = min(999, back + draw.randint(1, 90))
        rows += pay(checked, catalog, payment, 999, back)
    assert sum(row.signed for row in rows) == 0
    assert sum(row.tax if row.kind == "invoice" else -row.tax for row in rows) == 0
    assert all(0 <= row.tax <= row.total for row in rows)


@pytest.mark.parametrize(
    ("buyer", "rate", "is_reversed", "tax"),
    [
        (Buyer(), 1900, False, 319),
        (Buyer("Ann", "1 rue", "FR"), 2000, False, 333),
        (Buyer("SA", "1 rue", "FR", "FR40303265045"), 0, True, 0),
        (Buyer("Inc", "1 St", "US", "12-3456789"), 0, False, 0),
    ],
)
def test_the_buyers_address_decides_the_tax(
    checked: TemporaryBooks, catalog: Catalog, buyer: Buyer, rate: int, is_reversed: bool, tax: int
) -> None:
    account = checked.account()
    if buyer.name:
        live_with(checked, account, buyer)
    (row,) = pay(checked, catalog, new_payment(checked, account, 2000), 2000)
    document = read_document(row)
    assert (document.tax.rate, document.tax.is_reverse_charge, row.tax // CENT) == (rate, is_reversed, tax)
    assert (document.seller.name, document.buyer) == ("Acme GmbH", buyer)


def test_an_issued_invoice_keeps_its_address_and_its_credit_note_has_the_same(
    checked: TemporaryBooks, catalog: Catalog
) -> None:
    account = checked.account()
    live_with(checked, account, Buyer("Ann", "1 rue", "FR"))
    payment = new_payment(checked, account, 2000)
    pay(checked, catalog, payment, 2000)
    live_with(checked, account, Buyer("Bob", "2 rue", "DE"))
    (note,) = pay(checked, catalog, payment, 2000, 1000)
    assert (read_document(note).buyer.name, read_document(note).tax.rate) == ("Ann", 2000)


def test_a_rolled_back_payment_leaves_no_gap(checked: TemporaryBooks, catalog: Catalog) -> None:
    account = checked.account()
    payments = [new_payment(checked, account, 100) for _ in range(3)]
    pay(checked, catalog, payments[0], 100)
    with contextlib.suppress(ZeroDivisionError), checked.connection.transaction():
        set_state(checked.connection, checked.clock, catalog, payments[1], 100, 0)
        raise ZeroDivisionError
    assert shown(pay(checked, catalog, payments[2], 100)) == [("INV-000002", 100, 16)]


def test_processes_that_number_at_the_same_time_leave_no_gap(postgres_books: TemporaryBooks, catalog: Catalog) -> None:
    account = postgres_books.account()
    payments = [new_payment(postgres_books, account, 100) for _ in range(80)]

    def work(part: int) -> None:
        database = open_database(postgres_books.url, serving=False)
        connection = database.connect()
        for payment in payments[part::4]:
            with connection.transaction():
                set_state(connection, postgres_books.clock, catalog, payment, 100, 0)
        connection.close()
        database.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    rows = invoices.invoices_of_account(postgres_books.connection, account, 99)
    assert sorted(row.number for row in rows) == list(range(1, 81))
    assert invoices.wrong_invoices(postgres_books.connection, 9) == []
    assert postgres_books.money(account).posted == 80 * 100 * CENT


#: Pays without end, each payment in a commit of its own, until it is killed.
ENDLESS = """
import sys
from minitoolai.core.catalog.catalog import Catalog
from tests.support.books import TemporaryBooks
from tests.support.purchases import new_payment, pay
from tests.support import purchases
import itertools
books = TemporaryBooks(sys.argv[1])
purchases._numbers = itertools.count(int(sys.argv[2]))
account = int(sys.argv[3])
print("ready", flush=True)
while True:
    pay(books, Catalog({}, {}), new_payment(books, account, 100), 100)
"""


@pytest.mark.acceptance
def test_a_killed_process_leaves_no_gap(checked: TemporaryBooks) -> None:
    draw, url = random.Random(1), checked.url
    account = str(checked.account())
    if url.startswith("sqlite"):
        checked.connection.close()
        checked.database.close()
    for turn in range(12):
        command = [sys.executable, "-c", ENDLESS, url, str(10**7 * (turn + 1)), account]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        time.sleep(draw.uniform(0.01, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if url.startswith("sqlite"):
        checked.database = open_database(url, serving=True)
        checked.connection = checked.database.connect()
    issued = checked.rows("SELECT count(*) FROM invoices")[0][0]
    assert issued > 12
    unpaid = "SELECT count(*) FROM payments WHERE paid > 0 AND id NOT IN (SELECT payment_id FROM invoices)"
    assert checked.rows(unpaid)[0][0] == 0
