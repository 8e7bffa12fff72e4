"""The database refuses raw SQL that breaks a rule of the tables of jobs."""

from __future__ import annotations

import pytest

from minitoolai.storage.schema import jobs
from tests.support.books import TemporaryBooks
from tests.support.schema_rules import checks_of, filled, refuses_a_breach

#: CHECK → a statement that breaks it and nothing else; see `filled` for what A and the numbers are.
BREAKERS = {
    "ck_outbox_state_known": "UPDATE outbox SET state = 'lost', finished_ms = 5",
    "ck_outbox_finished_means_over": "UPDATE outbox SET finished_ms = 5",
    "ck_webhook_deliveries_an_answer_or_an_error": "UPDATE webhook_deliveries SET error = 'both'",
    "ck_outbox_one_subject": "UPDATE outbox SET generation_id = NULL",
}

#: One right row of each table that the ledger does not fill.
ROWS: dict[str, tuple[object, ...]] = {
    "outbox (id, generation_id, account_id, url, next_ms, created_ms)": (7, 2, "A", "https://example.com", 1, 1),
    "webhook_deliveries (outbox_id, attempt, at_ms, duration_ms, status)": (7, 1, 1, 1, 500),
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(jobs) == set(BREAKERS)


@pytest.mark.parametrize("check", BREAKERS)
def test_a_row_that_breaks_a_rule_is_refused(books: TemporaryBooks, check: str) -> None:
    refuses_a_breach(books, filled(books, ROWS), check, BREAKERS[check])
