"""The database refuses raw SQL that breaks a rule of the tables of accounts."""

from __future__ import annotations

import pytest

from minitoolai.storage.schema import accounts
from tests.support.books import TemporaryBooks
from tests.support.schema_rules import checks_of, filled, refuses_a_breach

#: CHECK → a statement that breaks it and nothing else; see `filled` for what A and the numbers are.
BREAKERS = {
    "ck_accounts_held_not_negative": "UPDATE accounts SET held = -1 WHERE id = A",
    "ck_accounts_never_below_zero": "UPDATE accounts SET posted = held - 1 WHERE id = A",
    "ck_accounts_is_system_is_a_flag": "UPDATE accounts SET is_system = 2, posted = 0, held = 0 WHERE id = A",
    "ck_accounts_system_balance_is_derived": "UPDATE accounts SET posted = 1 WHERE id = 1",
    "ck_members_role_known": "UPDATE members SET role = 'king'",
    "ck_invitations_role_known": "UPDATE invitations SET role = 'king'",
}

#: One right row of each table that the ledger does not fill.
ROWS: dict[str, tuple[object, ...]] = {
    "invitations (secret_hash, account_id, email, role, invited_by, created_ms, expires_ms)": (
        b"i",
        "A",
        "new@example.com",
        "viewer",
        "A",
        1,
        2,
    ),
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(accounts) == set(BREAKERS)


@pytest.mark.parametrize("check", BREAKERS)
def test_a_row_that_breaks_a_rule_is_refused(books: TemporaryBooks, check: str) -> None:
    refuses_a_breach(books, filled(books, ROWS), check, BREAKERS[check])
