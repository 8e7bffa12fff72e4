"""The database refuses raw SQL that breaks a rule of the tables of requests."""

from __future__ import annotations

import pytest

from minitoolai.storage.schema import requests
from tests.support.books import TemporaryBooks
from tests.support.schema_rules import checks_of, filled, refuses_a_breach

#: CHECK → a statement that breaks it and nothing else; see `filled` for what A and the numbers are.
BREAKERS = {
    "ck_responses_is_background_is_a_flag": "UPDATE responses SET is_background = 2",
    "ck_responses_is_open_is_a_flag": "UPDATE responses SET is_open = 2",
    "ck_log_exports_kind_known": "UPDATE log_exports SET kind = 'ftp'",
    "ck_log_exports_format_known": "UPDATE log_exports SET format = 'xml'",
    "ck_body_settings_days_limited": "UPDATE body_settings SET days = 31",
    "ck_body_settings_key_while_on": "UPDATE body_settings SET days = 0",
}

#: One right row of each table that the ledger does not fill.
ROWS: dict[str, tuple[object, ...]] = {
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
    "responses (id, account_id, model, is_background, is_open, created_ms, expires_ms, request_bytes,"
    " response_bytes, request, response)": (
        2,
        "A",
        "m",
        0,
        0,
        1,
        2,
        1,
        1,
        b"q",
        b"r",
    ),
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(requests) == set(BREAKERS)


@pytest.mark.parametrize("check", BREAKERS)
def test_a_row_that_breaks_a_rule_is_refused(books: TemporaryBooks, check: str) -> None:
    refuses_a_breach(books, filled(books, ROWS), check, BREAKERS[check])
