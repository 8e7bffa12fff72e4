"""Accounts and API keys in the database."""

from __future__ import annotations

import pytest

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import UNRESTRICTED, Balance, KeyRow, KeyRules
from minitoolai.ledger.types import FIRST_CUSTOMER, FUNDING, REVENUE
from minitoolai.storage.tables import accounts
from tests.support.books import NOON_MS, TemporaryBooks


def key(key_id: str, account: int, rules: KeyRules = UNRESTRICTED, group: str | None = None) -> KeyRow:
    return KeyRow(key_id, account, "laptop", b"\1" * 32, NOON_MS, None, rules, group)


def test_system_accounts_are_created_once(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        accounts.ensure_system_accounts(books.connection, NOON_MS + 1)
    rows = books.rows("SELECT id, is_system, created_ms FROM accounts ORDER BY id")
    assert rows == [(REVENUE, 1, NOON_MS), (FUNDING, 1, NOON_MS)]


def test_customers_are_numbered_from_a_thousand_and_found_by_address(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        ann = accounts.create_account(books.connection, "ann@example.com", None, NOON_MS)
        bob = accounts.create_account(books.connection, "bob@example.com", "hash", NOON_MS)
    assert (ann, bob) == (FIRST_CUSTOMER, FIRST_CUSTOMER + 1)
    assert accounts.find_account(books.connection, "bob@example.com") == bob
    assert accounts.find_account(books.connection, "eve@example.com") is None
    assert accounts.balance_of(books.connection, ann) == Balance(0, 0)
    assert accounts.balance_of(books.connection, 5) == Balance(0, 0)


def test_an_address_in_use_is_refused(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        accounts.create_account(books.connection, "ann@example.com", None, NOON_MS)
    with pytest.raises(InvalidRequest, match="already has an account") as refusal, books.connection.transaction():
        accounts.create_account(books.connection, "ann@example.com", None, NOON_MS)
    assert (refusal.value.param, refusal.value.code) == ("email", "email_taken")


def test_a_key_is_read_back_with_its_rules_and_group(books: TemporaryBooks) -> None:
    account = books.account()
    ruled = key("k2", account, KeyRules(budget_daily=5, models=("m",)), "k1")
    hidden = key("k3", account, KeyRules(for_pages=True))
    with books.connection.transaction():
        for row in (key("k1", account), ruled, hidden):
            accounts.insert_key(books.connection, row)
    assert accounts.find_key(books.connection, "k2") == ruled
    assert accounts.find_key(books.connection, "k9") is None
    assert books.rows("SELECT rules FROM api_keys WHERE id = 'k1'") == [(None,)]
    assert [one.id for one in accounts.keys_of(books.connection, account)] == ["k1", "k2"]
    assert accounts.keys_of(books.connection, account, for_pages=True) == [hidden]


def test_a_key_is_changed_and_revoked_once(books: TemporaryBooks) -> None:
    account = books.account()
    with books.connection.transaction():
        accounts.insert_key(books.connection, key("k1", account))
        accounts.update_key(books.connection, "k1", "desk", KeyRules(budget_total=9))
        assert accounts.revoke_key(books.connection, "k1", NOON_MS + 5)
        assert not accounts.revoke_key(books.connection, "k1", NOON_MS + 6)
        assert not accounts.revoke_key(books.connection, "k9", NOON_MS)
    found = accounts.find_key(books.connection, "k1")
    assert found is not None
    assert (found.name, found.rules, found.revoked_ms) == ("desk", KeyRules(budget_total=9), NOON_MS + 5)


def test_an_earlier_use_of_a_key_never_replaces_a_later_one(books: TemporaryBooks) -> None:
    account = books.account()
    with books.connection.transaction():
        for key_id in ("k1", "k2", "k3"):
            accounts.insert_key(books.connection, key(key_id, account))
        accounts.record_last_used(books.connection, {"k1": 50, "k2": 60})
        accounts.record_last_used(books.connection, {"k1": 40, "k2": 70})
    assert accounts.last_used_by_key(books.connection, account) == {"k1": 50, "k2": 70}
