"""Vouchers, payments and handled webhook events in the database."""

from __future__ import annotations

import msgspec

from minitoolai.core.models import Payment, Voucher
from minitoolai.storage.tables import payments
from tests.support.books import NOON_MS, TemporaryBooks, credit

CODE, OTHER = b"c" * 32, b"o" * 32


def voucher(expires_ms: int | None = None) -> Voucher:
    return Voucher("WXYZ", 500, "a gift", NOON_MS, expires_ms)


def test_a_voucher_is_redeemed_by_one_account_only(books: TemporaryBooks) -> None:
    ann, bob = books.account(), books.account()
    with books.connection.transaction():
        payments.insert_voucher(books.connection, CODE, voucher())
        assert payments.find_voucher(books.connection, CODE) == voucher()
        assert payments.find_voucher(books.connection, OTHER) is None
        assert not payments.is_redeemed(books.connection, CODE)
        assert payments.mark_redeemed(books.connection, CODE, ann, NOON_MS + 1)
        assert not payments.mark_redeemed(books.connection, CODE, bob, NOON_MS + 2)
        assert payments.is_redeemed(books.connection, CODE)
    found = msgspec.structs.replace(voucher(), redeemed_ms=NOON_MS + 1, account_id=ann)
    assert payments.list_vouchers(books.connection, 9) == ([found], None)


def test_an_expired_voucher_is_not_redeemed(books: TemporaryBooks) -> None:
    account = books.account()
    with books.connection.transaction():
        payments.insert_voucher(books.connection, CODE, voucher(expires_ms=NOON_MS + 10))
        assert not payments.mark_redeemed(books.connection, CODE, account, NOON_MS + 10)
        assert payments.mark_redeemed(books.connection, CODE, account, NOON_MS + 9)


def pay(books: TemporaryBooks, number: int, account: int, reference: str | None = None, **changes: object) -> Payment:
    payments.insert_payment(books.connection, number, account, 500, NOON_MS + number)
    if reference:
        payments.set_provider_ref(books.connection, number, reference, NOON_MS + number)
    found = payments.find_payment(books.connection, number)
    assert found is not None
    changed: Payment = msgspec.structs.replace(found, **changes)
    payments.update_payment(books.connection, changed)
    return changed


def test_a_payment_is_found_by_every_name_it_has(books: TemporaryBooks) -> None:
    account = books.account()
    # Its last transfer, which the audit looks for.
    books.apply(credit(account, 500, "payment:1:2"))
    with books.connection.transaction():
        paid = pay(books, 1, account, "cs_1", intent="pi_1", paid=500, moved=500, state="paid", version=2, looks=3)
        payments.set_provider_ref(books.connection, 1, "cs_2", NOON_MS)
    assert payments.find_payment(books.connection, 1) == paid
    assert payments.payment_by_ref(books.connection, "cs_1") == paid
    assert payments.payment_by_ref(books.connection, "cs_2") is None
    assert payments.payment_by_intent(books.connection, "pi_1") == paid
    assert payments.payment_by_intent(books.connection, "pi_2") is None


def test_lists_of_payments_hold_what_concerns_them(books: TemporaryBooks) -> None:
    account = books.account()
    with books.connection.transaction():
        pay(books, 1, account)
        begun = pay(books, 2, account, "cs_2")
        paid = pay(books, 3, account, "cs_3", paid=500, moved=500, state="paid")
        owed = pay(books, 4, account, "cs_4", paid=500, reversed=500, moved=500, state="paid")
    assert payments.payments_of(books.connection, account, 9) == [owed, paid, begun]
    assert payments.payments_owing(books.connection, account) == [owed]
    assert [one.id for one in payments.unfinished_payments(books.connection, NOON_MS)] == [1, 2, 4]
    assert [one.id for one in payments.unfinished_payments(books.connection, NOON_MS + 2)] == [4]


def test_an_event_is_handled_once(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        assert not payments.event_was_handled(books.connection, "evt_1")
        payments.mark_event_handled(books.connection, "evt_1", NOON_MS)
        payments.mark_event_handled(books.connection, "evt_1", NOON_MS + 5)
    assert payments.event_was_handled(books.connection, "evt_1")
    assert books.rows("SELECT event_id, seen_ms FROM webhook_events") == [("evt_1", NOON_MS)]
