"""The database enforces by itself what the ledger asserts: raw SQL that breaks a rule is refused."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import CheckConstraint

from minitoolai.core.errors import StoreError
from minitoolai.storage.schema import metadata
from tests.support.books import TemporaryBooks, hold, refund, settle

#: CHECK → a statement that breaks it and nothing else. A is an account with 1000, 400 of it held by hold 1;
#: hold 2 was settled for 50.
BREAKERS = {
    "ck_responses_is_background_is_a_flag": "UPDATE responses SET is_background = 2",
    "ck_responses_is_open_is_a_flag": "UPDATE responses SET is_open = 2",
    "ck_accounts_held_not_negative": "UPDATE accounts SET held = -1 WHERE id = A",
    "ck_accounts_never_below_zero": "UPDATE accounts SET posted = held - 1 WHERE id = A",
    "ck_accounts_is_system_is_a_flag": "UPDATE accounts SET is_system = 2, posted = 0, held = 0 WHERE id = A",
    "ck_accounts_system_balance_is_derived": "UPDATE accounts SET posted = 1 WHERE id = 1",
    "ck_holds_amount_not_negative": "UPDATE holds SET amount = -1 WHERE id = 1",
    "ck_holds_kind_known": "UPDATE holds SET kind = 'video' WHERE id = 1",
    "ck_holds_state_known": "UPDATE holds SET state = 'lost' WHERE id = 1",
    "ck_holds_progress_within_amount": "UPDATE holds SET progress = 401 WHERE id = 1",
    "ck_holds_settled_within_amount": "UPDATE holds SET state = 'posted', settled = 401 WHERE id = 1",
    "ck_holds_posted_means_settled": "UPDATE holds SET state = 'posted' WHERE id = 1",
    "ck_holds_shortfall_not_negative": "UPDATE holds SET shortfall = -1 WHERE id = 1",
    "ck_generations_state_known": "UPDATE generations SET state = 'lost' WHERE id = 1",
    "ck_generations_cost_not_negative": "UPDATE generations SET cost = -1 WHERE id = 1",
    "ck_generations_prices_not_negative": "UPDATE generations SET price_input = -1 WHERE id = 1",
    "ck_generations_estimated_is_a_flag": "UPDATE generations SET estimated = 2 WHERE id = 1",
    "ck_transfers_amount_positive": "UPDATE transfers SET amount = 0 WHERE hold_id = 2",
    "ck_transfers_two_accounts": "UPDATE transfers SET credit = debit WHERE hold_id = 2",
    "ck_transfers_never_below_zero": "UPDATE transfers SET balance_after = -1 WHERE hold_id = 2",
    "ck_transfers_one_reason_to_exist": "UPDATE transfers SET external_ref = 'both' WHERE hold_id = 2",
    "ck_users_is_admin_is_a_flag": "UPDATE users SET is_admin = 2",
    "ck_email_changes_is_new_confirmed_is_a_flag": "UPDATE email_changes SET is_new_confirmed = 2",
    "ck_email_changes_is_old_confirmed_is_a_flag": "UPDATE email_changes SET is_old_confirmed = 2",
    "ck_log_exports_kind_known": "UPDATE log_exports SET kind = 'ftp'",
    "ck_log_exports_format_known": "UPDATE log_exports SET format = 'xml'",
    "ck_body_settings_days_limited": "UPDATE body_settings SET days = 31",
    "ck_body_settings_key_while_on": "UPDATE body_settings SET days = 0",
    "ck_passkeys_is_synced_is_a_flag": "UPDATE passkeys SET is_synced = 2",
    "ck_passkey_challenges_purpose_known": "UPDATE passkey_challenges SET purpose = 'spam'",
    "ck_mail_links_purpose_known": "UPDATE mail_links SET purpose = 'spam'",
    "ck_key_spending_used_not_negative": "UPDATE key_spending SET used = -1",
    "ck_outbox_state_known": "UPDATE outbox SET state = 'lost', finished_ms = 5",
    "ck_outbox_finished_means_over": "UPDATE outbox SET finished_ms = 5",
    "ck_webhook_deliveries_an_answer_or_an_error": "UPDATE webhook_deliveries SET error = 'both'",
    "ck_vouchers_amount_positive": "UPDATE vouchers SET amount = 0",
    "ck_vouchers_redeemed_by_somebody": "UPDATE vouchers SET redeemed_ms = 5",
    "ck_vouchers_redeemed_or_cancelled": "UPDATE vouchers SET redeemed_ms = 5, account_id = A, cancelled_ms = 5",
    "ck_refunds_amount_positive": "UPDATE refunds SET amount = 0",
    "ck_refunds_within_the_charge": "UPDATE refunds SET total = 51",
    "ck_payments_asked_positive": "UPDATE payments SET asked = 0",
    "ck_payments_state_known": "UPDATE payments SET state = 'lost'",
    "ck_payments_paid_means_money": "UPDATE payments SET state = 'paid'",
    "ck_payments_moved_within_paid": "UPDATE payments SET moved = 1",
    "ck_subscriptions_price_positive": "UPDATE subscriptions SET price = 0",
    "ck_subscriptions_state_known": "UPDATE subscriptions SET state = 'lost'",
    "ck_payments_reversed_within_paid": "UPDATE payments SET reversed = 1",
    "ck_purses_price_not_negative": "UPDATE purses SET price = -1",
    "ck_purses_credit_positive": "UPDATE purses SET credit = 0",
    "ck_purses_expired_within_credit": "UPDATE purses SET expired = 501",
    "ck_purses_ends_after_beginning": "UPDATE purses SET ends_ms = 0",
    "ck_purses_not_its_own_owner": "UPDATE purses SET owner_id = id",
    "ck_purses_period_known": "UPDATE purses SET period = 'day'",
    "ck_purses_state_known": "UPDATE purses SET state = 'lost'",
    "ck_purses_renewal_known": "UPDATE purses SET renewal = 'maybe'",
    "ck_purse_windows_used_not_negative": "UPDATE purse_windows SET used = -1",
    "ck_coupons_percent_or_amount": "UPDATE coupons SET amount = 5",
    "ck_members_role_known": "UPDATE members SET role = 'king'",
    "ck_invitations_role_known": "UPDATE invitations SET role = 'king'",
    "ck_coupons_percent_within_100": "UPDATE coupons SET percent = 101",
    "ck_coupons_amount_positive": "UPDATE coupons SET percent = NULL, amount = 0",
    "ck_coupons_used_within_uses": "UPDATE coupons SET used = 4",
    "ck_admin_actions_action_known": "UPDATE admin_actions SET action = 'whim'",
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
    "ck_outbox_one_subject": "UPDATE outbox SET generation_id = NULL",
}

#: One right row of each other table that has a CHECK.
ROWS: dict[str, tuple[object, ...]] = {
    "mail_links (secret_hash, purpose, email, created_ms, expires_ms)": (b"s", "signup", "ann@example.com", 1, 2),
    "invitations (secret_hash, account_id, email, role, invited_by, created_ms, expires_ms)": (
        b"i",
        "A",
        "new@example.com",
        "viewer",
        "A",
        1,
        2,
    ),
    "email_changes (account_id, email, new_hash, old_hash, expires_ms)": ("A", "new@example.com", b"n", b"o", 2),
    "log_exports (account_id, kind, format, target, next_day, next_ms, failures, changed_ms)": (
        "A",
        "s3",
        "csv",
        "{}",
        1,
        1,
        0,
        1,
    ),
    "body_settings (account_id, days, wrapped_key, changed_ms)": ("A", 7, b"k", 1),
    "passkeys (credential_id, user_id, public_key, sign_count, name, transports, is_synced, created_ms)": (
        b"c",
        "A",
        b"k",
        0,
        "Laptop",
        "",
        0,
        1,
    ),
    "passkey_challenges (challenge, purpose, browser_hash, expires_ms)": (b"x", "create", b"b", 2),
    "key_spending (id, used, created_ms)": ("key000000001 2027-01-15", 5, 1),
    "outbox (id, generation_id, account_id, url, next_ms, created_ms)": (7, 2, "A", "https://example.com", 1, 1),
    "webhook_deliveries (outbox_id, attempt, at_ms, duration_ms, status)": (7, 1, 1, 1, 500),
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
    "accounts (id, created_ms)": (5000, 1),
    "purses (id, owner_id, plan, price, credit, period, begins_ms, ends_ms, reference, created_ms, state)": (
        5000,
        "A",
        "pro",
        400,
        500,
        "month",
        1,
        2,
        "plan:1",
        1,
        "closed",
    ),
    "purse_windows (id, purse_id, kind, used)": ("5000/5h/0", 5000, "5h", 0),
    "coupons (id, code, percent, uses, created_ms)": (1, "SPRING", 10, 3, 1),
    "admin_actions (id, admin_id, account_id, action, created_ms)": (9, "A", "A", "grant", 1),
    "auto_topups (account_id, provider, customer, method, method_name, language, threshold, amount, daily_cap,"
    " consented_ms, changed_ms)": ("A", "stripe", "c", "m", "visa", "en", 1, 5, 9, 1, 1),
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
    "responses (id, account_id, model, is_background, is_open, created_ms, expires_ms, request_bytes, response_bytes,"
    " request, response)": (2, "A", "m", 0, 0, 1, 2, 1, 1, b"q", b"r"),
}

#: What only the database can promise: once.
ONCE = {
    "a hold has one transfer": (
        "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after, created_ms)"
        " SELECT kind, debit, credit, amount, hold_id, 9, balance_after, created_ms FROM transfers WHERE hold_id = 2"
    ),
    "a reference has one credit": (
        "INSERT INTO transfers (kind, debit, credit, amount, external_ref, account_version, balance_after, created_ms)"
        " SELECT kind, debit, credit, amount, external_ref, 9, 1, created_ms FROM transfers WHERE kind = 'grant'"
    ),
    "a hold has one row": (
        "INSERT INTO holds (id, account_id, key_id, kind, amount) SELECT id, account_id, key_id, kind, 5 FROM holds"
    ),
    "a hold has one generation": (
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " created_ms) SELECT id, account_id, key_id, kind, model, engine, state, 1, 1, created_ms FROM generations"
    ),
    "an address has one account": (
        "INSERT INTO users (email, account_id, created_ms) SELECT email, 1, created_ms FROM users"
    ),
    "money goes to accounts that exist": "UPDATE transfers SET credit = 999999 WHERE hold_id = 2",
    "a number has one invoice": (
        "INSERT INTO invoices (series, number, account_id, payment_id, kind, total, tax, issued_ms, document)"
        " SELECT series, number, account_id, payment_id, kind, 9, 0, 2, document FROM invoices"
    ),
    "a crossing has one notice": (
        "INSERT INTO notices (id, account_id, type, subject, data, created_ms)"
        " SELECT 99, account_id, type, subject, data, 2 FROM notices"
    ),
    "a generation has a hold": (
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " created_ms) VALUES (77, A, 'k', 'chat', 'm', 'e', 'running', 1, 1, 5)"
    ),
}


@pytest.fixture
def account(books: TemporaryBooks) -> int:
    number = books.account(1050)
    books.apply(hold(1, number, 400), hold(2, number, 60), settle(2, number, 50), refund(2, number, 5))
    for statement, values in ROWS.items():
        marks = ", ".join("?" * len(values))
        books.rows(f"INSERT INTO {statement} VALUES ({marks})", *(number if v == "A" else v for v in values))
    return number


def test_every_check_of_the_schema_has_a_breaker() -> None:
    names = {str(c.name) for t in metadata.sorted_tables for c in t.constraints if isinstance(c, CheckConstraint)}
    assert names == set(BREAKERS)


@pytest.mark.parametrize("check", BREAKERS)
def test_a_row_that_breaks_a_rule_of_the_ledger_is_refused(books: TemporaryBooks, account: int, check: str) -> None:
    before = books.everything()
    with pytest.raises(StoreError, match=rf"(?i)check constraint.*\b{check}\b"):
        books.rows(re.sub(r"\bA\b", str(account), BREAKERS[check]))
    assert books.everything() == before


@pytest.mark.parametrize("promise", ONCE)
def test_what_happens_once_cannot_be_written_twice(books: TemporaryBooks, account: int, promise: str) -> None:
    before = books.everything()
    with pytest.raises(StoreError, match=r"(?i)unique|foreign key"):
        books.rows(re.sub(r"\bA\b", str(account), ONCE[promise]))
    assert books.everything() == before


def test_amounts_are_integers(sqlite_books: TemporaryBooks) -> None:
    # PostgreSQL has no other type in this column; SQLite would take anything but for STRICT.
    with pytest.raises(StoreError, match="cannot store REAL"):
        sqlite_books.rows("UPDATE accounts SET posted = 1000.5 WHERE id = 1")


def test_every_table_is_strict(sqlite_books: TemporaryBooks) -> None:
    loose = sqlite_books.rows(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT strict AND type = 'table'"
    )
    assert {name for (name,) in loose} <= {"alembic_version", "sqlite_schema"}


def test_a_hold_settled_by_somebody_else_meanwhile_is_not_written_over(books: TemporaryBooks, account: int) -> None:
    # Another process settles hold 1 between our reading and our writing; the compare-and-set must notice.
    from minitoolai.ledger.rules import decide
    from minitoolai.storage.tables import ledger

    operation = settle(1, account, 300)
    loaded = ledger.load(books.connection, [operation])
    books.apply(settle(1, account, 10))
    before = books.everything()
    decide(loaded, operation)
    with pytest.raises(StoreError, match="settled by another process"), books.connection.transaction():
        ledger.save(books.connection, loaded)
    assert books.everything() == before
