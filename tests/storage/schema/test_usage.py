"""The database keeps one daily sum of each kind."""

from __future__ import annotations

import pytest

from minitoolai.storage.schema import usage
from tests.support.books import TemporaryBooks
from tests.support.schema_rules import checks_of, filled, refuses_a_second

ROWS: dict[str, tuple[object, ...]] = {
    "usage_buckets (account_id, day, kind, model, key_id, bucket, units, cost)": ("A", 1, "chat", "m", "k", "b", 1, 1),
    "traffic_days (account_id, day, kind, model, engine, requests, failures, cost, purchase, timed, duration_ms,"
    " streamed, first_token_ms)": (0, 1, "chat", "m", "e", 1, 0, 1, 1, 1, 1, 0, 0),
    "audited_days (day, requests, input_units, output_units, cost, purchase, external, hash, audited_ms)": (
        *(1, 1, 1, 1, 1, 1, 1, b"h", 1),
    ),
    "audited_budgets (budget_id, settled)": ("b", 1),
}

ONCE = {
    "a model's usage of a day has one sum": (
        "INSERT INTO usage_days (account_id, day, kind, model, key_id, requests, input_units, output_units, cost,"
        " purchase) SELECT account_id, day, kind, model, key_id, 9, 9, 9, 9, 9 FROM usage_days"
    ),
    "an amount that has a price of its own has one sum": (
        "INSERT INTO usage_buckets (account_id, day, kind, model, key_id, bucket, units, cost)"
        " SELECT account_id, day, kind, model, key_id, bucket, 9, 9 FROM usage_buckets"
    ),
    "usage is that of an account that exists": "UPDATE usage_days SET account_id = 999999",
    "an engine's traffic of a day has one sum": (
        "INSERT INTO traffic_days (account_id, day, kind, model, engine, requests, failures, cost, purchase, timed,"
        " duration_ms, streamed, first_token_ms)"
        " SELECT account_id, day, kind, model, engine, 9, 0, 1, 1, 1, 1, 0, 0 FROM traffic_days"
    ),
    "a day is closed once": (
        "INSERT INTO audited_days (day, requests, input_units, output_units, cost, purchase, external, hash,"
        " audited_ms) SELECT day, 9, 9, 9, 9, 9, 9, hash, 9 FROM audited_days"
    ),
    "a budget has one sum of its closed days": "INSERT INTO audited_budgets (budget_id, settled) VALUES ('b', 9)",
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(usage) == set()


@pytest.mark.parametrize("promise", ONCE)
def test_what_happens_once_cannot_be_written_twice(books: TemporaryBooks, promise: str) -> None:
    refuses_a_second(books, filled(books, ROWS), ONCE[promise])
    # The audit after each test would report them: no request has caused them.
    for statement in ROWS:
        books.rows(f"DELETE FROM {statement.split()[0]}")
