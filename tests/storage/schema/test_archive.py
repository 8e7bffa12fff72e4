"""The database knows each archived day, file and sum once."""

from __future__ import annotations

import pytest

from minitoolai.storage.schema import archive
from tests.support.books import TemporaryBooks
from tests.support.schema_rules import checks_of, filled, refuses_a_second

ROWS: dict[str, tuple[object, ...]] = {
    "archived_days (day, requests, paid, cost, amount, shortfall, manifest, archived_ms)": (1, 1, 1, 1, 1, 0, "m", 1),
    "archived_parts (day, part, sha256, bytes, requests)": (1, 0, "s", 1, 1),
    "archived_accounts (day, part, account_id, first_ms, last_ms)": (1, 0, "A", 1, 2),
    "archived_budgets (budget_id, used)": ("b", 1),
}

ONCE = {
    "a day is archived once": (
        "INSERT INTO archived_days (day, requests, paid, cost, amount, shortfall, manifest, archived_ms)"
        " VALUES (1, 9, 9, 9, 9, 9, 'other', 9)"
    ),
    "a part of a day is one file": (
        "INSERT INTO archived_parts (day, part, sha256, bytes, requests) VALUES (1, 0, 'other', 9, 9)"
    ),
    "a file names an account once": (
        "INSERT INTO archived_accounts (day, part, account_id, first_ms, last_ms) VALUES (1, 0, A, 8, 9)"
    ),
    "a file names accounts that exist": "UPDATE archived_accounts SET account_id = 999999",
    "an opening balance is that of an account": "INSERT INTO opening_balances (account_id, amount) VALUES (999999, 1)",
    "a budget has one archived sum": "INSERT INTO archived_budgets (budget_id, used) VALUES ('b', 9)",
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(archive) == set()


@pytest.mark.parametrize("promise", ONCE)
def test_what_happens_once_cannot_be_written_twice(books: TemporaryBooks, promise: str) -> None:
    refuses_a_second(books, filled(books, ROWS), ONCE[promise])
    # The audit after each test would report them: nothing was archived.
    for statement in ROWS:
        books.rows(f"DELETE FROM {statement.split()[0]}")
