"""Loading and saving ledger state, and the audit."""

from __future__ import annotations

import pytest

from minitoolai.core.errors import StoreError
from minitoolai.core.models import Balance, Budget, Outcome
from minitoolai.ledger.types import Held, Settled
from minitoolai.storage.tables import ledger
from minitoolai.storage.tables.ledger import DELETE_BATCH, INVARIANTS, PERIOD_TTL_MS
from tests.support.books import DONE, LEASE_MS, NOON_MS, TemporaryBooks, checkpoint, credit, hold, settle


def test_a_batch_of_chats_loads_nothing_but_accounts_and_holds(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    books.apply(hold(1, account, 100))
    with books.connection.transaction():
        state = ledger.load(books.connection, [settle(1, account, 5), hold(2, account, 5), checkpoint(1, account, 1)])
    assert state.is_simple
    assert (state.accounts.keys(), state.holds.keys()) == ({account}, {1})


@pytest.mark.parametrize(
    "operation",
    [
        hold(2, 1000, 5, claim="word"),
        hold(2, 1000, 5, budget=Budget("k", day=9)),
        settle(2, 1000, 5, attempt=1),
        credit(1000, 5),
    ],
    ids=["idempotency key", "budget", "job", "external money"],
)
def test_any_other_operation_is_not_simple(books: TemporaryBooks, operation: ledger.Operation) -> None:
    books.account(1_000)
    with books.connection.transaction():
        assert not ledger.load(books.connection, [operation]).is_simple


def test_what_a_batch_decided_is_in_the_rows(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    assert books.apply(hold(1, account, 100), hold(2, account, 50)) == [Held(100, 1), Held(50, 1)]
    outcome = Outcome("succeeded", 3, 5, 1, True, "served", None, 40, "backup", "[]", 7)
    assert books.apply(settle(1, account, 120, outcome), checkpoint(2, account, 20, LEASE_MS + 1))[0] == Settled(
        100, 20
    )
    columns = "state, input_units, output_units, cached_units, estimated, served_model, first_token_ms, purchase, cost"
    row = books.rows(f"SELECT {columns}, engine, attempts, finished_ms FROM generations WHERE id = 1")
    assert row == [("succeeded", 3, 5, 1, 1, "served", 40, 7, 120, "backup", "[]", NOON_MS + 500)]
    holds = books.rows("SELECT state, settled, shortfall, progress, lease_until_ms FROM holds ORDER BY id")
    assert holds == [("posted", 100, 20, 0, LEASE_MS), ("pending", 0, 0, 20, LEASE_MS + 1)]
    assert books.rows("SELECT kind, amount, hold_id, balance_after FROM transfers ORDER BY id")[1:] == [
        ("usage", 100, 1, 900)
    ]
    assert books.money(account) == Balance(900, 50)


def test_spending_is_counted_by_day_month_and_total_and_deleted_after_its_time(books: TemporaryBooks) -> None:
    account, budget = books.account(10_000), Budget("k", total=10_000)
    books.apply(hold(1, account, 100, budget=budget), hold(2, account, 50, budget=budget))
    books.apply(settle(1, account, 30))
    assert ledger.budget_spent(books.connection, "k", NOON_MS) == {"day": 80, "month": 80, "total": 80}
    tomorrow_ms = NOON_MS + 86_400_000
    assert ledger.budget_spent(books.connection, "k", tomorrow_ms) == {"day": 0, "month": 80, "total": 80}
    with books.connection.transaction():
        assert ledger.delete_old_periods(books.connection, NOON_MS + PERIOD_TTL_MS) == 0
        assert ledger.delete_old_periods(books.connection, NOON_MS + PERIOD_TTL_MS + 1) == 2
    assert ledger.budget_spent(books.connection, "k", NOON_MS) == {"day": 0, "month": 0, "total": 80}
    assert DELETE_BATCH == 500


def test_holds_with_an_expired_lease_are_found(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    books.apply(hold(1, account, 10), hold(2, account, 10, lease_ms=LEASE_MS + 5), hold(3, account, 10))
    books.apply(settle(3, account, 5, DONE))
    assert ledger.expired_chat_holds(books.connection, LEASE_MS) == []
    assert ledger.expired_chat_holds(books.connection, LEASE_MS + 1) == [
        ledger.ExpiredHold(1, account, "chat", "gpt-4o-mini", "fake")
    ]
    assert [one.id for one in ledger.expired_chat_holds(books.connection, LEASE_MS + 6)] == [1, 2]


#: Invariant → a change that violates it and no constraint of the schema.
DAMAGE = {
    "posted equals the sum of transfers": "UPDATE accounts SET posted = posted + 1 WHERE id = {account}",
    "held equals the sum of pending holds": "UPDATE accounts SET held = held + 1 WHERE id = {account}",
    "all accounts sum to zero": "UPDATE accounts SET posted = posted + 1 WHERE id = {account}",
    "every posted hold has its transfer, and the reverse": "DELETE FROM transfers WHERE kind = 'usage'",
    "the state of a generation fits its hold": "UPDATE generations SET state = 'running' WHERE id = 1",
    "a budget has counted what its holds promise and took": "UPDATE key_spending SET used = used + 1",
    "cost of usage equals usage transfers and shortfall": "UPDATE generations SET cost = cost + 1 WHERE id = 1",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_audit_finds_a_damaged_ledger(books: TemporaryBooks, name: str) -> None:
    account = books.account(1_000)
    books.apply(hold(1, account, 100, budget=Budget("k", total=500)), hold(2, account, 100))
    books.apply(settle(1, account, 40))
    assert books.broken() == {}

    class Undo(Exception):
        pass

    # On its own connection the audit reads a snapshot, so damage and audit share this transaction's rows.
    with pytest.raises(Undo), books.connection.transaction():  # noqa: PT012
        books.rows(DAMAGE[name].format(account=account))
        assert books.rows(INVARIANTS[name]) != []
        raise Undo
    assert books.broken() == {}


def test_a_conflict_writes_nothing_of_the_batch(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    books.apply(hold(1, account, 100))
    with pytest.raises(StoreError, match="settled by another process"), books.connection.transaction():  # noqa: PT012
        state = ledger.load(books.connection, [settle(1, account, 5)])
        state.holds[1].dirty = True
        books.rows("UPDATE holds SET state = 'voided' WHERE id = 1")
        ledger.save(books.connection, state)
    assert books.rows("SELECT state FROM holds") == [("pending",)]
