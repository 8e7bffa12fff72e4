"""Vouchers, payments and debts on both databases."""

from __future__ import annotations

import random

import msgspec
import pytest

from minitoolai.billing.payments import grant, make_voucher, redeem, transfer_difference
from minitoolai.core.errors import NotFound
from minitoolai.core.models import Payment
from minitoolai.storage.tables import payments
from tests.support.books import TemporaryBooks, hold, settle

PEPPER = b"pepper"


def new_payment(books: TemporaryBooks, account: int, number: int = 1) -> Payment:
    with books.connection.transaction():
        payments.insert_payment(books.connection, number, account, 1000, books.clock.now_ms())
    return found(books, number)


def found(books: TemporaryBooks, number: int = 1) -> Payment:
    payment = payments.find_payment(books.connection, number)
    assert payment is not None
    return payment


def say(books: TemporaryBooks, paid: int, back: int, number: int = 1) -> Payment:
    """Return the payment after the provider reported these amounts paid and reversed."""
    with books.connection.transaction():
        seen = msgspec.structs.replace(found(books, number), paid=paid, reversed=back, state="paid" if paid else "open")
        payments.update_payment(books.connection, seen)
        return transfer_difference(books.connection, books.clock, seen)


def test_an_account_gets_the_difference_once(books: TemporaryBooks) -> None:
    account = books.account()
    new_payment(books, account)
    for paid, back, has in ((0, 0, 0), (1000, 0, 1000), (1000, 300, 700), (1000, 1000, 0), (1000, 0, 1000)):
        say(books, paid, back)
        before = books.everything()
        assert books.money(account).posted == has
        say(books, paid, back)
        assert books.everything() == before


def test_a_debt_is_deducted_from_later_credits_and_never_from_holds(books: TemporaryBooks) -> None:
    account = books.account()
    new_payment(books, account)
    say(books, 1000, 0)
    books.apply(hold(1, account, 400))
    books.apply(hold(2, account, 350))
    books.apply(settle(1, account, 400))
    assert say(books, 1000, 1000).owed == 750
    assert (books.money(account).posted, books.money(account).held) == (350, 350)
    books.apply(settle(2, account, 50))
    with books.connection.transaction():
        assert grant(books.connection, books.clock, account, 200, reason="sorry").posted == 0
    assert found(books).owed == 250
    with books.connection.transaction():
        assert grant(books.connection, books.clock, account, 1000, reason="again").posted == 750
    assert found(books).owed == 0


def test_events_in_any_order_end_with_the_amount_due(books: TemporaryBooks) -> None:
    account, draw = books.account(), random.Random(3)
    for number in (1, 2, 3):
        new_payment(books, account, number)
    paid = dict.fromkeys((1, 2, 3), 0)
    spent = hold_number = 0
    for _ in range(150):
        number = draw.choice((1, 2, 3))
        if draw.random() < 0.7:
            paid[number] = max(paid[number], draw.choice((0, 500, 1000)))
            say(books, paid[number], draw.choice((0, 0, paid[number] // 2, paid[number])), number)
        elif books.money(account).available >= 100:
            hold_number += 1
            books.apply(hold(hold_number, account, 100))
            books.apply(settle(hold_number, account, 100))
            spent += 100
        rows = [found(books, n) for n in (1, 2, 3)]
        assert books.money(account).posted == sum(row.moved for row in rows) - spent >= 0
    due = sum(row.paid - row.reversed for row in rows) - spent
    assert books.money(account).posted - sum(row.owed for row in rows) == due


def test_a_voucher_is_redeemed_once_and_until_it_expires(books: TemporaryBooks) -> None:
    account, other = books.account(), books.account()
    good = make_voucher(PEPPER, books.clock, 70, note=None, days=None)
    old = make_voucher(PEPPER, books.clock, 70, note=None, days=1)
    with books.connection.transaction():
        for voucher in (good, old):
            payments.insert_voucher(books.connection, voucher.code_hmac, voucher.row)
    books.clock.forward(86_400)
    answers = []
    for who, code in ((account, good.code), (account, good.code), (other, good.code), (other, old.code), (other, "x")):
        with books.connection.transaction():
            answers.append(redeem(books.connection, books.clock, PEPPER, who, code))
    assert answers == [70, "used", "used", "expired", "unknown"]
    assert (books.money(account).posted, books.money(other).posted) == (70, 0)


def test_a_voucher_code_of_another_server_is_unknown(books: TemporaryBooks) -> None:
    voucher = make_voucher(b"another", books.clock, 70, note=None, days=None)
    account = books.account()
    with books.connection.transaction():
        payments.insert_voucher(books.connection, voucher.code_hmac, voucher.row)
        assert redeem(books.connection, books.clock, PEPPER, account, voucher.code) == "unknown"


def test_a_grant_to_an_unknown_account_is_refused(books: TemporaryBooks) -> None:
    with pytest.raises(NotFound), books.connection.transaction():
        grant(books.connection, books.clock, 777, 5, reason="nobody")
