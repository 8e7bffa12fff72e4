"""Rows of idempotency keys: claim, response, expiry."""

from __future__ import annotations

from minitoolai.core.models import Outcome, StoredResponse
from minitoolai.ledger.types import IDEMPOTENCY_TTL_MS, DuplicateRequest, Held
from minitoolai.storage.tables import idempotency
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle

RESPONSE = StoredResponse(200, "[]", b"body")


def store(books: TemporaryBooks, claim_id: str, hold_id: int) -> None:
    with books.connection.transaction():
        idempotency.store_response(books.connection, claim_id, hold_id, RESPONSE)


def test_a_key_is_written_with_its_hold_and_read_back(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    books.apply(hold(1, account, 100, claim="word"))
    row = idempotency.find(books.connection, f"{account}/word")
    assert row is not None
    assert (row.fingerprint, row.hold_id, row.response) == (b"the same", 1, None)
    assert (row.state.created_ms, row.state.hold_state, row.state.is_kept) == (NOON_MS, "pending", False)
    assert idempotency.find(books.connection, f"{account}/other") is None


def test_a_second_request_under_a_key_is_a_duplicate_until_the_first_is_free(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    books.apply(hold(1, account, 100, claim="word"))
    assert books.apply(hold(2, account, 100, claim="word")) == [DuplicateRequest()]
    books.apply(settle(1, account, 0, Outcome("failed")))
    assert books.apply(hold(2, account, 100, claim="word")) == [Held(100, 1)]
    row = idempotency.find(books.connection, f"{account}/word")
    assert row is not None
    assert row.hold_id == 2


def test_a_response_is_stored_for_charged_or_successful_work_only(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    books.apply(*(hold(number, account, 100, claim=f"w{number}") for number in (1, 2, 3)))
    books.apply(settle(1, account, 40), settle(2, account, 0), settle(3, account, 0, Outcome("failed")))
    for number in (1, 2, 3):
        store(books, f"{account}/w{number}", number)
    found = [idempotency.find(books.connection, f"{account}/w{number}") for number in (1, 2, 3)]
    assert [row.response for row in found if row is not None] == [RESPONSE, RESPONSE, None]


def test_a_response_of_an_earlier_hold_is_not_stored(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    books.apply(hold(1, account, 100, claim="word"))
    store(books, f"{account}/word", 99)
    row = idempotency.find(books.connection, f"{account}/word")
    assert row is not None
    assert row.response is None


def test_a_key_that_begins_anew_has_no_response(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    books.apply(hold(1, account, 100, claim="word"))
    books.apply(settle(1, account, 40))
    store(books, f"{account}/word", 1)
    later_ms = NOON_MS + IDEMPOTENCY_TTL_MS
    assert books.apply(hold(2, account, 100, claim="word", now_ms=later_ms)) == [Held(100, 1)]
    row = idempotency.find(books.connection, f"{account}/word")
    assert row is not None
    assert (row.hold_id, row.response, row.state.created_ms) == (2, None, later_ms)


def test_responses_are_listed_by_age_and_dropped_without_their_keys(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    for number in (1, 2, 3):
        books.apply(hold(number, account, 100, claim=f"w{number}", now_ms=NOON_MS + number))
        books.apply(settle(number, account, 40))
        store(books, f"{account}/w{number}", number)
    between = idempotency.rows_with_response(books.connection, NOON_MS + 1, NOON_MS + 3)
    assert between == [(f"{account}/w2", NOON_MS + 2), (f"{account}/w3", NOON_MS + 3)]
    with books.connection.transaction():
        # The second key was claimed anew in between, so its time differs and its response stays.
        idempotency.drop_responses(books.connection, [between[0], (between[1][0], NOON_MS)])
    left = idempotency.rows_with_response(books.connection, 0, 2**60)
    assert [key for key, _ in left] == [f"{account}/w1", f"{account}/w3"]
    assert books.apply(hold(9, account, 100, claim="w2")) == [DuplicateRequest()]


def test_keys_are_deleted_after_a_day(books: TemporaryBooks) -> None:
    account = books.account(1_000)
    books.apply(hold(1, account, 100, claim="old"), hold(2, account, 100, claim="new", now_ms=NOON_MS + 1))
    with books.connection.transaction():
        assert idempotency.delete_expired(books.connection, NOON_MS + IDEMPOTENCY_TTL_MS - 1) == 0
        assert idempotency.delete_expired(books.connection, NOON_MS + IDEMPOTENCY_TTL_MS) == 1
    assert idempotency.find(books.connection, f"{account}/old") is None
    assert idempotency.find(books.connection, f"{account}/new") is not None
