"""A code is accepted once, and recovery codes last as long as a second factor."""

from __future__ import annotations

import pytest

from minitoolai.core.models import SecondFactor
from minitoolai.storage.tables import second_factors
from tests.support.books import TemporaryBooks


@pytest.fixture
def factor(books: TemporaryBooks) -> SecondFactor:
    made = SecondFactor(books.account(0), b"secret", 100, 5)
    assert second_factors.insert(books.connection, made)
    return made


def test_an_account_has_one_second_factor(books: TemporaryBooks, factor: SecondFactor) -> None:
    assert not second_factors.insert(books.connection, SecondFactor(factor.account_id, b"other", 1, 6))
    assert second_factors.find(books.connection, factor.account_id) == factor
    assert second_factors.find(books.connection, 424242) is None


@pytest.mark.parametrize("step", [99, 100])
def test_a_code_of_a_used_or_earlier_time_step_is_refused(
    books: TemporaryBooks, factor: SecondFactor, step: int
) -> None:
    assert not second_factors.accept_step(books.connection, factor, step, b"new")
    assert second_factors.find(books.connection, factor.account_id) == factor


def test_of_two_who_read_the_same_row_one_is_accepted(books: TemporaryBooks, factor: SecondFactor) -> None:
    assert second_factors.accept_step(books.connection, factor, 101, b"new")
    assert not second_factors.accept_step(books.connection, factor, 102, b"newer")
    assert second_factors.find(books.connection, factor.account_id) == SecondFactor(factor.account_id, b"new", 101, 5)


def test_a_secret_that_changed_meanwhile_is_not_replaced(books: TemporaryBooks, factor: SecondFactor) -> None:
    second_factors.replace_secret(books.connection, factor.account_id, b"stale", b"new")
    assert second_factors.all_secrets(books.connection) == [(factor.account_id, b"secret")]
    second_factors.replace_secret(books.connection, factor.account_id, b"secret", b"new")
    assert second_factors.all_secrets(books.connection) == [(factor.account_id, b"new")]


def test_a_recovery_code_works_once_and_for_its_account(books: TemporaryBooks, factor: SecondFactor) -> None:
    connection, account = books.connection, factor.account_id
    second_factors.replace_recovery_codes(connection, account, [b"a", b"b"])
    assert not second_factors.use_recovery_code(connection, books.account(0), b"a")
    assert second_factors.use_recovery_code(connection, account, b"a")
    assert not second_factors.use_recovery_code(connection, account, b"a")
    assert second_factors.count_recovery_codes(connection, account) == 1
    second_factors.replace_recovery_codes(connection, account, [b"c", b"d", b"e"])
    assert not second_factors.use_recovery_code(connection, account, b"b")
    assert second_factors.count_recovery_codes(connection, account) == 3


@pytest.mark.parametrize("has_passkey", [False, True])
def test_recovery_codes_go_with_the_last_second_factor(
    books: TemporaryBooks, factor: SecondFactor, has_passkey: bool
) -> None:
    account = factor.account_id
    second_factors.replace_recovery_codes(books.connection, account, [b"a", b"b"])
    if has_passkey:
        books.rows(
            "INSERT INTO passkeys (credential_id, user_id, public_key, sign_count, name, transports, is_synced,"
            " created_ms) VALUES (?, ?, ?, 0, 'Laptop', '', 0, 1)", b"c", account, b"k",
        )  # fmt: skip
    assert second_factors.delete(books.connection, account)
    assert not second_factors.delete(books.connection, account)
    assert second_factors.count_recovery_codes(books.connection, account) == (2 if has_passkey else 0)
