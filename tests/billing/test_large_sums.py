"""Amounts that would overflow 64 bits are refused in words, and audit and backup still add up."""

from __future__ import annotations

import pytest

from minitoolai.billing.payments import grant, make_voucher, redeem, transfer_difference
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import Payment
from minitoolai.core.money import LARGEST_NANO, LARGEST_TOTAL_NANO
from minitoolai.storage.backup import customer_totals
from minitoolai.storage.tables import payments
from tests.support.books import TemporaryBooks
from tests.support.cli import Cli

SECRET = b"secret"
TOO_MUCH = r"does not fit into the ledger: all credits together may be at most \$4,000,000,000"


@pytest.fixture
def full(books: TemporaryBooks) -> TemporaryBooks:
    """Books in which four customers were given a billion each."""
    for _ in range(4):
        account = books.account()
        with books.connection.transaction():
            grant(books.connection, books.clock, account, LARGEST_NANO, reason="test")
    return books


@pytest.fixture
def account(full: TemporaryBooks) -> int:
    return full.account()


def check(books: TemporaryBooks, account: int) -> None:
    """Nothing changed, and everything that adds up amounts still does."""
    assert books.money(account).posted == 0
    assert books.broken() == {}
    assert customer_totals(books.connection) == (LARGEST_TOTAL_NANO, 0)
    assert payments.total_credited(books.connection) == LARGEST_TOTAL_NANO


def test_a_grant_beyond_the_total_is_refused(full: TemporaryBooks, account: int) -> None:
    with pytest.raises(InvalidRequest, match=TOO_MUCH), full.connection.transaction():
        grant(full.connection, full.clock, account, LARGEST_NANO, reason="test")
    check(full, account)


def test_a_voucher_beyond_the_total_stays_valid(full: TemporaryBooks, account: int) -> None:
    made = make_voucher(SECRET, full.clock, LARGEST_NANO, note=None, days=None)
    with full.connection.transaction():
        payments.insert_voucher(full.connection, made.code_hmac, made.row)
        assert redeem(full.connection, full.clock, SECRET, account, made.code) == "too_large"
    voucher = payments.find_voucher(full.connection, made.code_hmac)
    assert voucher is not None
    assert voucher.redeemed_ms is None
    check(full, account)


def test_a_payment_beyond_the_total_is_refused(full: TemporaryBooks, account: int) -> None:
    payment = Payment(7, account, "stripe", None, None, LARGEST_NANO, LARGEST_NANO, 0, 0, 0, 0, "paid", 1, 1)
    with pytest.raises(InvalidRequest, match=TOO_MUCH), full.connection.transaction():
        transfer_difference(full.connection, full.clock, payment)
    check(full, account)


def test_a_reference_that_was_credited_is_a_repetition_even_if_it_no_longer_fits(books: TemporaryBooks) -> None:
    account = books.account()
    for _ in range(6):
        with books.connection.transaction():
            done = grant(books.connection, books.clock, account, LARGEST_NANO, reason="test", reference="invoice 1")
    assert done.repeated
    assert books.money(account).posted == LARGEST_NANO


def test_what_fits_exactly_is_credited(books: TemporaryBooks) -> None:
    account = books.account()
    for _ in range(4):
        with books.connection.transaction():
            grant(books.connection, books.clock, account, LARGEST_NANO, reason="test")
    assert books.money(account).posted == LARGEST_TOTAL_NANO
    with books.connection.transaction():
        grant(books.connection, books.clock, account, 5_000_000_000, reason="small credits are not counted")
    assert books.broken() == {}


def test_an_operator_reads_a_refusal_and_the_tools_still_work(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sums")
    cli = Cli(folder).with_books()
    assert cli.within("account", "create", "ann@example.com").status == 0
    for amount in ("10000000000", "10000000000.00", "99999999999999999999"):
        said = cli.within("credit", "grant", "ann@example.com", amount)
        assert said.status == 1
        assert "amount" in said.err
    grants = [cli.within("credit", "grant", "ann@example.com", "1000000000") for _ in range(6)]
    assert [said.status for said in grants] == [0, 0, 0, 0, 1, 1]
    assert "all credits together may be at most $4,000,000,000" in grants[-1].err
    assert cli.within("audit").status == 0
    assert cli.within("backup", str(folder / "copy.tar.gz")).status == 0
    assert cli.within("restore", str(folder / "copy.tar.gz"), "--data-dir", str(folder / "new")).status == 0
    assert "balance $4000000000.00 " in cli.within("balance", "ann@example.com").out
