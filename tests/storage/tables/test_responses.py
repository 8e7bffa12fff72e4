"""Tests of the rows of stored responses: who finds them, in which state, and what is deleted."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.ledger.types import Requeue, Requeued, Superseded
from minitoolai.storage.tables import jobs, responses, users
from minitoolai.storage.tables.responses import NewResponse
from tests.support.books import DONE, NOON_MS, TemporaryBooks, hold, settle

HOUR_MS = 3_600_000
LATER_MS = NOON_MS + 24 * HOUR_MS
NO_LIMIT = 10**9
QUEUED = NewGeneration("chat", "m", "fake", 1, 1, "queued")


@pytest.fixture
def account(books: TemporaryBooks) -> int:
    return books.account(10**6)


def stored(books: TemporaryBooks, number: int, account: int, most: int = NO_LIMIT, **fields: Any) -> bool:
    """Insert the row of a response; its generation is not among these."""
    row = NewResponse(number, account, None, "m", False, NOON_MS, LATER_MS, 10, 20, b"q%d" % number, b"r%d" % number)
    with books.connection.transaction():
        return responses.insert(books.connection, replace(row, **fields), most)


def done(books: TemporaryBooks, number: int, account: int, **fields: Any) -> None:
    """Insert a response whose generation has succeeded."""
    books.apply(hold(number, account, 5), settle(number, account, 5, DONE))
    stored(books, number, account, **fields)


def queued(books: TemporaryBooks, number: int, account: int, **fields: Any) -> None:
    """Queue a background response."""
    stored(books, number, account, is_background=True, **fields)
    books.apply(hold(number, account, 50, lease_ms=None, generation=QUEUED, queue_limit=9))


def claimed(books: TemporaryBooks, *numbers: int) -> list[int]:
    with books.connection.transaction():
        found = jobs.claim(books.connection, numbers, worker="w", now_ms=NOON_MS, lease_ms=1000)
    return [job.attempt for job in found]


def find(books: TemporaryBooks, number: int, account: int, now_ms: int = NOON_MS) -> responses.StoredRow | None:
    return responses.find(books.connection, number, account, now_ms)


def change(books: TemporaryBooks, function: Any, *arguments: Any) -> Any:
    with books.connection.transaction():
        return function(books.connection, *arguments)


def left(books: TemporaryBooks) -> list[int]:
    return [row[0] for row in books.rows("SELECT id FROM responses ORDER BY id")]


def test_only_its_account_finds_a_response_until_it_expires(books: TemporaryBooks, account: int) -> None:
    done(books, 1, account)
    found = find(books, 1, account)
    assert found is not None
    assert (found.model, found.state, bytes(found.response)) == ("m", "succeeded", b"r1")
    assert find(books, 1, books.account()) is None
    assert find(books, 2, account) is None
    assert find(books, 1, account, LATER_MS) is None
    assert responses.request_of(books.connection, 1, account, NOON_MS) == b"q1"
    assert responses.request_of(books.connection, 1, account, LATER_MS) is None
    assert [content.id for content in responses.contents(books.connection, [1, 2], account, NOON_MS)] == [1]
    assert responses.contents(books.connection, [1], account + 1, NOON_MS) == []
    assert responses.contents(books.connection, [1], account, LATER_MS) == []


def test_a_response_whose_charge_failed_does_not_exist(books: TemporaryBooks, account: int) -> None:
    books.apply(hold(1, account, 5))
    stored(books, 1, account)
    assert find(books, 1, account) is None
    books.apply(settle(1, account, 0, Outcome("failed", error_code="interrupted")))
    assert find(books, 1, account) is None
    assert responses.contents(books.connection, [1], account, NOON_MS) == []


def test_a_conversation_is_walked_back_to_its_first_turn(books: TemporaryBooks, account: int) -> None:
    for number in range(1, 6):
        done(books, number, account, previous_id=number - 1 or None)
    turns = responses.turns(books.connection, 5, account, NOON_MS, 100)
    assert [(turn.id, turn.previous_id, turn.bytes) for turn in turns] == [
        (5, 4, 30), (4, 3, 30), (3, 2, 30), (2, 1, 30), (1, None, 30),
    ]  # fmt: skip
    assert [turn.id for turn in responses.turns(books.connection, 5, account, NOON_MS, 2)] == [5, 4]
    assert responses.turns(books.connection, 5, account + 1, NOON_MS, 100) == []
    change(books, responses.delete, 3, account, NOON_MS)
    turns = responses.turns(books.connection, 5, account, NOON_MS, 100)
    assert [(turn.id, turn.previous_id) for turn in turns] == [(5, 4), (4, 3)]


def test_the_walk_never_leaves_the_account(books: TemporaryBooks, account: int) -> None:
    other = books.account(1000)
    done(books, 1, other)
    done(books, 2, account, previous_id=1)
    assert [turn.id for turn in responses.turns(books.connection, 2, account, NOON_MS, 100)] == [2]


def test_a_circle_ends_at_the_limit(books: TemporaryBooks, account: int) -> None:
    done(books, 1, account, previous_id=2)
    done(books, 2, account, previous_id=1)
    assert len(responses.turns(books.connection, 2, account, NOON_MS, 7)) == 7


def test_the_oldest_make_room_for_a_new_one(books: TemporaryBooks, account: int) -> None:
    other = books.account(1000)
    done(books, 1, other)
    for number in range(2, 6):
        done(books, number, account)
    assert responses.total_bytes(books.connection, account) == 120
    done(books, 6, account, most=100)
    assert left(books) == [1, 4, 5, 6]
    assert responses.total_bytes(books.connection, account) == 90
    assert responses.total_bytes(books.connection, other) == 30
    done(books, 7, account, most=1)
    assert left(books) == [1, 7], "the newest stays, however large it is"


def test_a_response_in_progress_is_never_displaced_or_expired(books: TemporaryBooks, account: int) -> None:
    queued(books, 1, account)
    done(books, 2, account, most=1)
    assert left(books) == [1, 2]
    assert change(books, responses.delete_expired, LATER_MS + 1) == 1
    assert left(books) == [1]
    assert change(books, responses.close_ended, NOON_MS) == 0
    books.apply(settle(1, account, 0, Outcome("cancelled")))
    assert change(books, responses.close_ended, NOON_MS) == 1
    assert change(books, responses.delete_expired, LATER_MS + 1) == 1
    assert (left(books), responses.total_bytes(books.connection, account)) == ([], 0)


def test_a_row_without_a_hold_is_given_up_after_a_time(books: TemporaryBooks, account: int) -> None:
    stored(books, 1, account, is_background=True)
    assert find(books, 1, account) is None
    assert change(books, responses.close_ended, NOON_MS) == 0
    assert change(books, responses.close_ended, NOON_MS + 1) == 1
    assert change(books, responses.delete_expired, LATER_MS) == 1


def test_expired_responses_are_deleted_in_small_pieces(books: TemporaryBooks, account: int) -> None:
    for number in range(1, 4):
        done(books, number, account, response_bytes=responses.DELETE_BYTES - 10)
    done(books, 4, account, expires_ms=LATER_MS + 1)
    assert [change(books, responses.delete_expired, LATER_MS) for _ in range(4)] == [1, 1, 1, 0]
    assert (left(books), responses.total_bytes(books.connection, account)) == ([4], 30)


def test_a_response_is_deleted_once_and_only_by_its_account(books: TemporaryBooks, account: int) -> None:
    done(books, 1, account)
    assert not change(books, responses.delete, 1, account + 1, NOON_MS)
    assert change(books, responses.delete, 1, account, NOON_MS)
    assert not change(books, responses.delete, 1, account, NOON_MS)
    assert responses.total_bytes(books.connection, account) == 0


def test_an_erased_account_stores_nothing_more(books: TemporaryBooks, account: int) -> None:
    done(books, 1, account)
    change(books, users.erase_personal_data, account, [], NOON_MS)
    assert left(books) == []
    books.apply(hold(2, account, 5), settle(2, account, 5, DONE))
    assert not stored(books, 2, account)
    assert (left(books), responses.total_bytes(books.connection, account)) == ([], 0)


def test_only_the_running_attempt_stores_its_output(books: TemporaryBooks, account: int) -> None:
    queued(books, 1, account)
    assert responses.waiting(books.connection, 5) == [(1, "m")]
    assert not change(books, responses.save, 1, 0, 99, b"early")
    assert claimed(books, 1) == [1]
    assert change(books, responses.save, 1, 1, 99, b"first")
    lapse = Requeue(1, account, 1, NOON_MS, "lapsed", 3, lease_now_ms=NOON_MS + 1001)
    assert books.apply(lapse) == [Requeued(1)]
    assert claimed(books, 1) == [2]
    assert not change(books, responses.save, 1, 1, 50, b"late")
    assert books.apply(settle(1, account, 5, DONE, attempt=1)) == [Superseded()]
    assert change(books, responses.save, 1, 2, 100, b"second")
    books.apply(settle(1, account, 5, DONE, attempt=2))
    found = find(books, 1, account)
    assert found is not None
    assert (bytes(found.response), found.state, found.is_unfinished) == (b"second", "succeeded", False)
    assert responses.total_bytes(books.connection, account) == 110


def test_the_queue_of_responses_and_that_of_images_do_not_mix(books: TemporaryBooks, account: int) -> None:
    queued(books, 1, account)
    image = NewGeneration("image", "m", "fake", 1, 1, "queued", request="{}", seed=1, size="256x256")
    books.apply(hold(2, account, 5, lease_ms=None, generation=image, queue_limit=9))
    assert responses.waiting(books.connection, 5) == [(1, "m")]
    assert [job.id for job in jobs.waiting(books.connection, "fake", ["m"], 5)] == [2]
    assert [job.id for job in responses.waiting_since(books.connection, NOON_MS + 1)] == [1]
    assert [job.id for job in jobs.jobs_waiting_since(books.connection, NOON_MS + 1)] == [2]
    claimed(books, 1, 2)
    assert [job.id for job in responses.expired_leases(books.connection, NOON_MS + 1001)] == [1]
    assert [job.id for job in jobs.expired_leases(books.connection, NOON_MS + 1001)] == [2]


def test_a_cancelled_response_is_marked_while_it_is_unfinished(books: TemporaryBooks, account: int) -> None:
    queued(books, 1, account)
    done(books, 2, account)
    assert not change(books, responses.mark_cancelled, 1, account + 1, NOON_MS)
    assert not change(books, responses.mark_cancelled, 2, account, NOON_MS)
    assert responses.unwanted(books.connection, [1, 2, 3]) == {3}
    assert change(books, responses.mark_cancelled, 1, account, NOON_MS)
    assert responses.unwanted(books.connection, [1, 2]) == {1}
    found = responses.find_queued(books.connection, 1)
    assert found is not None
    assert (found.cancelled_ms, found.amount, found.key_id) == (NOON_MS, 50, "key000000001")
    books.apply(settle(1, account, 0, Outcome("cancelled")))
    assert not change(books, responses.mark_cancelled, 1, account, NOON_MS)
