"""Daily exports are claimed by one process, and a result never overwrites a change of the customer."""

from __future__ import annotations

import pytest

from minitoolai.storage.tables import log_exports
from minitoolai.storage.tables.log_exports import LogExport
from tests.support.books import TemporaryBooks


@pytest.fixture
def export(books: TemporaryBooks) -> LogExport:
    made = LogExport(books.account(0), "s3", "csv", "{}", b"secret", 20_000, 100, 0, None, None, None, 5)
    log_exports.replace(books.connection, made)
    return made


def test_an_account_has_one_export(books: TemporaryBooks, export: LogExport) -> None:
    other = export._replace(kind="webhook", secret=None, target="https://x.example", changed_ms=6)
    log_exports.replace(books.connection, other)
    assert log_exports.find(books.connection, export.account_id) == other
    assert log_exports.all_secrets(books.connection) == []
    assert log_exports.delete(books.connection, export.account_id)
    assert not log_exports.delete(books.connection, export.account_id)
    assert log_exports.find(books.connection, export.account_id) is None


def test_the_longest_waiting_is_due_first(books: TemporaryBooks, export: LogExport) -> None:
    early = export._replace(account_id=books.account(0), next_ms=50)
    log_exports.replace(books.connection, early)
    assert log_exports.due(books.connection, 49, 10) == []
    assert log_exports.due(books.connection, 50, 10) == [early]
    assert log_exports.due(books.connection, 100, 10) == [early, export]
    assert log_exports.due(books.connection, 100, 1) == [early]


def test_of_two_processes_one_claims(books: TemporaryBooks, export: LogExport) -> None:
    assert log_exports.claim(books.connection, export, 200)
    assert not log_exports.claim(books.connection, export, 300)
    assert log_exports.due(books.connection, 199, 10) == []


def test_a_result_is_stored_unless_the_customer_changed_the_export(books: TemporaryBooks, export: LogExport) -> None:
    done = export._replace(next_day=20_001, next_ms=900, done_day=20_000, done_ms=800)
    assert log_exports.record(books.connection, export, done)
    assert log_exports.find(books.connection, export.account_id) == done
    # The day has been sent: a second process has nothing to add.
    assert not log_exports.record(books.connection, export, done._replace(failures=1))
    changed = done._replace(target='{"bucket": "b"}', changed_ms=7)
    log_exports.replace(books.connection, changed)
    assert not log_exports.record(books.connection, done, done._replace(next_day=20_002))
    assert log_exports.find(books.connection, export.account_id) == changed


def test_a_secret_that_changed_meanwhile_is_not_replaced(books: TemporaryBooks, export: LogExport) -> None:
    log_exports.replace_secret(books.connection, export.account_id, b"stale", b"new")
    assert log_exports.all_secrets(books.connection) == [(export.account_id, b"secret")]
    log_exports.replace_secret(books.connection, export.account_id, b"secret", b"new")
    assert log_exports.all_secrets(books.connection) == [(export.account_id, b"new")]
