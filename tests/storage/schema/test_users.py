"""The database refuses raw SQL that breaks a rule of the tables of users."""

from __future__ import annotations

import pytest

from minitoolai.storage.schema import users
from tests.support.books import TemporaryBooks
from tests.support.schema_rules import checks_of, filled, refuses_a_breach, refuses_a_second

#: CHECK → a statement that breaks it and nothing else; see `filled` for what A and the numbers are.
BREAKERS = {
    "ck_users_is_admin_is_a_flag": "UPDATE users SET is_admin = 2",
    "ck_email_changes_is_new_confirmed_is_a_flag": "UPDATE email_changes SET is_new_confirmed = 2",
    "ck_email_changes_is_old_confirmed_is_a_flag": "UPDATE email_changes SET is_old_confirmed = 2",
    "ck_passkeys_is_synced_is_a_flag": "UPDATE passkeys SET is_synced = 2",
    "ck_passkey_challenges_purpose_known": "UPDATE passkey_challenges SET purpose = 'spam'",
    "ck_mail_links_purpose_known": "UPDATE mail_links SET purpose = 'spam'",
}

#: One right row of each table that the ledger does not fill.
ROWS: dict[str, tuple[object, ...]] = {
    "mail_links (secret_hash, purpose, email, created_ms, expires_ms)": (b"s", "signup", "ann@example.com", 1, 2),
    "email_changes (account_id, email, new_hash, old_hash, expires_ms)": ("A", "new@example.com", b"n", b"o", 2),
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
}

#: What only the database can promise: once.
ONCE = {
    "an address has one account": (
        "INSERT INTO users (email, account_id, created_ms) SELECT email, 1, created_ms FROM users"
    ),
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(users) == set(BREAKERS)


@pytest.mark.parametrize("check", BREAKERS)
def test_a_row_that_breaks_a_rule_is_refused(books: TemporaryBooks, check: str) -> None:
    refuses_a_breach(books, filled(books, ROWS), check, BREAKERS[check])


@pytest.mark.parametrize("promise", ONCE)
def test_what_happens_once_cannot_be_written_twice(books: TemporaryBooks, promise: str) -> None:
    refuses_a_second(books, filled(books, ROWS), ONCE[promise])
