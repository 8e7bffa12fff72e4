"""The database refuses raw SQL that breaks a rule of the tables of selling."""

from __future__ import annotations

import pytest

from minitoolai.storage.schema import selling
from tests.support.books import TemporaryBooks
from tests.support.schema_rules import checks_of, filled, refuses_a_breach, refuses_a_second

#: CHECK → a statement that breaks it and nothing else; see `filled` for what A and the numbers are.
BREAKERS = {
    "ck_vouchers_amount_positive": "UPDATE vouchers SET amount = 0",
    "ck_vouchers_redeemed_by_somebody": "UPDATE vouchers SET redeemed_ms = 5",
    "ck_vouchers_redeemed_or_cancelled": "UPDATE vouchers SET redeemed_ms = 5, account_id = A, cancelled_ms = 5",
    "ck_payments_asked_positive": "UPDATE payments SET asked = 0",
    "ck_payments_state_known": "UPDATE payments SET state = 'lost'",
    "ck_payments_paid_means_money": "UPDATE payments SET state = 'paid'",
    "ck_payments_moved_within_paid": "UPDATE payments SET moved = 1",
    "ck_subscriptions_price_positive": "UPDATE subscriptions SET price = 0",
    "ck_subscriptions_state_known": "UPDATE subscriptions SET state = 'lost'",
    "ck_payments_reversed_within_paid": "UPDATE payments SET reversed = 1",
    "ck_auto_topups_cap_covers_one": "UPDATE auto_topups SET daily_cap = amount - 1",
    "ck_auto_topups_threshold_positive": "UPDATE auto_topups SET threshold = 0",
    "ck_invoices_kind_known": "UPDATE invoices SET kind = 'bill'",
    "ck_invoices_total_positive": "UPDATE invoices SET total = 0, tax = 0",
    "ck_invoices_tax_within_total": "UPDATE invoices SET tax = total + 1",
    "ck_notice_settings_by_mail_is_a_flag": "UPDATE notice_settings SET by_mail = 2",
    "ck_notice_settings_budgets_is_a_flag": "UPDATE notice_settings SET budgets = 2",
    "ck_notice_settings_is_low_is_a_flag": "UPDATE notice_settings SET is_low = 2",
    "ck_notice_settings_low_balance_positive": "UPDATE notice_settings SET low_balance = 0",
    "ck_notices_mail_due_is_a_flag": "UPDATE notices SET mail_due = 2",
}

#: One right row of each table that the ledger does not fill.
ROWS: dict[str, tuple[object, ...]] = {
    "vouchers (code_hmac, hint, amount, created_ms)": (b"v", "AB", 5, 1),
    "payments (id, account_id, provider, asked, created_ms, changed_ms)": (8, "A", "stripe", 5, 1, 1),
    "payments (id, account_id, provider, asked, paid, state, created_ms, changed_ms)": (
        18,
        "A",
        "epay",
        5,
        5,
        "paid",
        1,
        1,
    ),
    "invoice_series (name, last)": ("INV", 1),
    "subscriptions (id, account_id, provider, plan, price, created_ms, changed_ms)": (4, "A", "stripe", "pro", 5, 1, 1),
    "auto_topups (account_id, provider, customer, method, method_name, language, threshold, amount,"
    " daily_cap, consented_ms, changed_ms)": (
        "A",
        "stripe",
        "c",
        "m",
        "visa",
        "en",
        1,
        5,
        9,
        1,
        1,
    ),
    "invoices (series, number, account_id, payment_id, kind, total, tax, issued_ms, document)": (
        "INV",
        1,
        "A",
        18,
        "invoice",
        5,
        1,
        1,
        "{}",
    ),
    "notice_settings (account_id, low_balance)": ("A", 5),
    "notices (id, account_id, type, subject, data, created_ms)": (6, "A", "balance.low", "1", "{}", 1),
}

#: What only the database can promise: once.
ONCE = {
    "a number has one invoice": (
        "INSERT INTO invoices (series, number, account_id, payment_id, kind, total, tax, issued_ms, document)"
        " SELECT series, number, account_id, payment_id, kind, 9, 0, 2, document FROM invoices"
    ),
    "a crossing has one notice": (
        "INSERT INTO notices (id, account_id, type, subject, data, created_ms) SELECT 99, account_id, type,"
        " subject, data, 2 FROM notices"
    ),
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(selling) == set(BREAKERS)


@pytest.mark.parametrize("check", BREAKERS)
def test_a_row_that_breaks_a_rule_is_refused(books: TemporaryBooks, check: str) -> None:
    refuses_a_breach(books, filled(books, ROWS), check, BREAKERS[check])


@pytest.mark.parametrize("promise", ONCE)
def test_what_happens_once_cannot_be_written_twice(books: TemporaryBooks, promise: str) -> None:
    refuses_a_second(books, filled(books, ROWS), ONCE[promise])
