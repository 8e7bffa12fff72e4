"""Removals of second factors expire, and their e-mails are due at their times."""

from __future__ import annotations

import pytest

from minitoolai.storage.tables import factor_resets
from minitoolai.storage.tables.factor_resets import FactorReset
from tests.support.books import TemporaryBooks


@pytest.fixture
def reset(books: TemporaryBooks) -> FactorReset:
    made = FactorReset(books.account(0), 7, 1, None, None, None, 100)
    factor_resets.replace(books.connection, made)
    return made


def test_an_expired_removal_is_as_good_as_none(books: TemporaryBooks, reset: FactorReset) -> None:
    for now_ms, found in ((99, reset), (100, None)):
        assert factor_resets.of_user(books.connection, reset.user_id, now_ms) == found
        assert factor_resets.find(books.connection, 7, now_ms) == found
    assert factor_resets.find(books.connection, 8, 1) is None


def test_a_new_removal_takes_the_place_of_the_old_one(books: TemporaryBooks, reset: FactorReset) -> None:
    factor_resets.replace(books.connection, reset._replace(id=8))
    assert factor_resets.find(books.connection, 7, 1) is None
    assert factor_resets.find(books.connection, 8, 1) == reset._replace(id=8)
    assert factor_resets.delete(books.connection, reset.user_id)
    assert not factor_resets.delete(books.connection, reset.user_id)


def test_e_mails_are_due_at_their_time_the_longest_waiting_first(books: TemporaryBooks, reset: FactorReset) -> None:
    assert not factor_resets.has_due(books.connection, 10**12)
    confirmed = reset._replace(confirmed_ms=20, ready_ms=80, next_mail_ms=50, expires_ms=200)
    factor_resets.set_times(books.connection, confirmed)
    other = FactorReset(books.account(0), 9, 1, 20, 80, 40, 200)
    factor_resets.replace(books.connection, other)
    assert not factor_resets.has_due(books.connection, 39)
    assert factor_resets.has_due(books.connection, 40)
    with books.connection.transaction():
        assert factor_resets.due(books.connection, 49, 10) == [other]
        assert factor_resets.due(books.connection, 50, 10) == [other, confirmed]
        assert factor_resets.due(books.connection, 50, 1) == [other]
