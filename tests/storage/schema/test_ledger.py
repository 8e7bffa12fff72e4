"""The database refuses raw SQL that breaks a rule of the tables of ledger."""

from __future__ import annotations

import pytest

from minitoolai.core.errors import StoreError
from minitoolai.ledger.rules import decide
from minitoolai.storage.schema import ledger
from minitoolai.storage.tables import ledger as rows
from tests.support.books import TemporaryBooks, settle
from tests.support.schema_rules import checks_of, filled, refuses_a_breach, refuses_a_second

#: CHECK → a statement that breaks it and nothing else; see `filled` for what A and the numbers are.
BREAKERS = {
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
    "ck_key_spending_used_not_negative": "UPDATE key_spending SET used = -1",
    "ck_refunds_amount_positive": "UPDATE refunds SET amount = 0",
    "ck_refunds_within_the_charge": "UPDATE refunds SET total = 51",
}

#: One right row of each table that the ledger does not fill.
ROWS: dict[str, tuple[object, ...]] = {
    "key_spending (id, used, created_ms)": ("key000000001 2027-01-15", 5, 1),
}

#: What only the database can promise: once.
ONCE = {
    "a hold has one transfer": (
        "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after, created_ms)"
        " SELECT kind, debit, credit, amount, hold_id, 9, balance_after, created_ms FROM transfers WHERE hold_id"
        " = 2"
    ),
    "a reference has one credit": (
        "INSERT INTO transfers (kind, debit, credit, amount, external_ref, account_version, balance_after,"
        " created_ms) SELECT kind, debit, credit, amount, external_ref, 9, 1, created_ms FROM transfers WHERE"
        " kind = 'grant'"
    ),
    "a hold has one row": (
        "INSERT INTO holds (id, account_id, key_id, kind, amount) SELECT id, account_id, key_id, kind, 5 FROM holds"
    ),
    "a hold has one generation": (
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " created_ms) SELECT id, account_id, key_id, kind, model, engine, state, 1, 1, created_ms FROM"
        " generations"
    ),
    "money goes to accounts that exist": "UPDATE transfers SET credit = 999999 WHERE hold_id = 2",
    "a generation has a hold": (
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " created_ms) VALUES (77, A, 'k', 'chat', 'm', 'e', 'running', 1, 1, 5)"
    ),
}


def test_every_check_of_these_tables_has_a_breaker() -> None:
    assert checks_of(ledger) == set(BREAKERS)


@pytest.mark.parametrize("check", BREAKERS)
def test_a_row_that_breaks_a_rule_is_refused(books: TemporaryBooks, check: str) -> None:
    refuses_a_breach(books, filled(books, ROWS), check, BREAKERS[check])


@pytest.mark.parametrize("promise", ONCE)
def test_what_happens_once_cannot_be_written_twice(books: TemporaryBooks, promise: str) -> None:
    refuses_a_second(books, filled(books, ROWS), ONCE[promise])


def test_a_hold_settled_by_somebody_else_meanwhile_is_not_written_over(books: TemporaryBooks) -> None:
    account = filled(books)
    # Another process settles hold 1 between our reading and our writing; the compare-and-set must notice.
    operation = settle(1, account, 300)
    loaded = rows.load(books.connection, [operation])
    books.apply(settle(1, account, 10))
    before = books.everything()
    decide(loaded, operation)
    with pytest.raises(StoreError, match="settled by another process"), books.connection.transaction():
        rows.save(books.connection, loaded)
    assert books.everything() == before
