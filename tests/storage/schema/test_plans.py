"""The database refuses raw SQL that breaks a rule of the tables of plans."""

from __future__ import annotations

import pytest

from minitoolai.storage.schema import plans
from tests.support.books import TemporaryBooks
from tests.support.schema_rules import checks_of, filled, refuses_a_breach

#: CHECK → a statement that breaks it and nothing else; see `filled` for what A and the numbers are.
BREAKERS = {
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
    "ck_coupons_percent_within_100": "UPDATE coupons SET percent = 101",
    "ck_coupons_amount_positive": "UPDATE coupons SET percent = NULL, amount = 0",
    "ck_coupons_used_within_uses": "UPDATE coupons SET used = 4",
}

#: One right row of each table that the ledger does not fill.
ROWS: dict[str, tuple[object, ...]] = {
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
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(plans) == set(BREAKERS)


@pytest.mark.parametrize("check", BREAKERS)
def test_a_row_that_breaks_a_rule_is_refused(books: TemporaryBooks, check: str) -> None:
    refuses_a_breach(books, filled(books, ROWS), check, BREAKERS[check])
