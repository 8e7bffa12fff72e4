"""The database refuses raw SQL that breaks a rule of the tables of operation."""

from __future__ import annotations

import pytest

from minitoolai.storage.schema import operation
from tests.support.books import TemporaryBooks
from tests.support.schema_rules import checks_of, filled, refuses_a_breach

#: CHECK → a statement that breaks it and nothing else; see `filled` for what A and the numbers are.
BREAKERS = {
    "ck_admin_actions_action_known": "UPDATE admin_actions SET action = 'whim'",
}

#: One right row of each table that the ledger does not fill.
ROWS: dict[str, tuple[object, ...]] = {
    "admin_actions (id, admin_id, account_id, action, created_ms)": (9, "A", "A", "grant", 1),
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(operation) == set(BREAKERS)


@pytest.mark.parametrize("check", BREAKERS)
def test_a_row_that_breaks_a_rule_is_refused(books: TemporaryBooks, check: str) -> None:
    refuses_a_breach(books, filled(books, ROWS), check, BREAKERS[check])
