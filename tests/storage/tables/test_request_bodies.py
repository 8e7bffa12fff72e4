"""Stored bodies are found by their account until they expire, and go when their key is gone."""

from __future__ import annotations

import pytest

from minitoolai.storage.tables import request_bodies
from minitoolai.storage.tables.request_bodies import BodyRow, BodySettings
from tests.support.books import TemporaryBooks


@pytest.fixture
def account(books: TemporaryBooks) -> int:
    number = books.account(0)
    request_bodies.save_settings(books.connection, BodySettings(number, 7, b"key", 1))
    rows = [BodyRow(n, number, b"q", None, 10, 20, 100 + n) for n in range(1, 4)]
    assert request_bodies.insert(books.connection, rows) == 3
    return number


def test_a_body_is_found_by_its_account_until_it_expires(books: TemporaryBooks, account: int) -> None:
    row = BodyRow(2, account, b"q", None, 10, 20, 102)
    assert request_bodies.find(books.connection, 2, account, 101) == row
    assert request_bodies.find(books.connection, 2, account, 102) is None
    assert request_bodies.find(books.connection, 2, books.account(0), 101) is None
    # The first one stays.
    assert request_bodies.insert(books.connection, [row._replace(request=b"other")]) == 0
    assert request_bodies.find(books.connection, 2, account, 101) == row


def test_what_has_expired_is_deleted_in_pieces(books: TemporaryBooks, account: int) -> None:
    with books.connection.transaction():
        assert request_bodies.delete_expired(books.connection, 101, 10) == 0
        assert request_bodies.delete_expired(books.connection, 103, 1) == 1
        assert request_bodies.delete_expired(books.connection, 103, 10) == 1
    assert request_bodies.find(books.connection, 3, account, 1) is not None


def test_without_its_key_an_account_has_its_rows_deleted_and_then_its_settings(
    books: TemporaryBooks, account: int
) -> None:
    assert request_bodies.delete_unreadable(books.connection, 10) == 0
    assert request_bodies.wrapped_keys(books.connection, [account]) == {account: b"key"}
    request_bodies.save_settings(books.connection, BodySettings(account, 0, None, 2))
    assert request_bodies.wrapped_keys(books.connection, [account]) == {}
    assert [request_bodies.delete_unreadable(books.connection, 2) for _ in range(4)] == [2, 1, 1, 0]
    assert request_bodies.find_settings(books.connection, account) is None


def test_a_key_that_changed_meanwhile_is_not_replaced(books: TemporaryBooks, account: int) -> None:
    request_bodies.replace_key(books.connection, account, b"stale", b"new")
    assert request_bodies.all_keys(books.connection) == [(account, b"key")]
    request_bodies.replace_key(books.connection, account, b"key", b"new")
    assert request_bodies.all_keys(books.connection) == [(account, b"new")]


def test_erasure_takes_one_account_only(books: TemporaryBooks, account: int) -> None:
    other = books.account(0)
    request_bodies.save_settings(books.connection, BodySettings(other, 1, b"other", 1))
    request_bodies.insert(books.connection, [BodyRow(9, other, b"q", b"r", 1, 1, 100)])
    request_bodies.erase(books.connection, account)
    assert request_bodies.all_keys(books.connection) == [(other, b"other")]
    assert request_bodies.find(books.connection, 1, account, 1) is None
    assert request_bodies.find(books.connection, 9, other, 1) is not None
