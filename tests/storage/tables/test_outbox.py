"""The outbox of webhook messages."""

from __future__ import annotations

import pytest

from minitoolai.core.models import NewGeneration
from minitoolai.storage.tables import outbox
from minitoolai.storage.tables.outbox import DeliveryAttempt
from tests.support.books import NOON_MS, TemporaryBooks, hold

URL = "https://example.com/hook"


@pytest.fixture
def accounts(books: TemporaryBooks) -> tuple[int, int]:
    """Two accounts with one queued message each; the job of the first also exists without a URL."""
    first, second = books.account(1_000), books.account(1_000)
    for job, account, url in ((1, first, URL), (2, second, URL), (3, first, None)):
        generation = NewGeneration("image", "m", "sketch", 0, 100, "queued", "{}", 1, "64x64", url)
        books.apply(hold(job, account, 100, lease_ms=None, generation=generation, queue_limit=9))
    with books.connection.transaction():
        outbox.enqueue_webhooks(books.connection, [1, 2, 3], NOON_MS)
        outbox.enqueue_webhooks(books.connection, [1, 2, 3], NOON_MS + 1)
    return first, second


def claim(
    books: TemporaryBooks, now_ms: int = NOON_MS, limit: int = 9, but: tuple[int, ...] = ()
) -> list[outbox.WebhookMessage]:
    with books.connection.transaction():
        return outbox.claim(books.connection, now_ms=now_ms, lease_ms=1_000, limit=limit, except_accounts=but)


def log(books: TemporaryBooks, message: outbox.WebhookMessage, state: str, next_ms: int = NOON_MS) -> None:
    status, error = (200, None) if state == "delivered" else (None, "timeout")
    attempt = DeliveryAttempt(message.attempts, NOON_MS, 5, status, error)
    with books.connection.transaction():
        outbox.log_attempt(books.connection, message, attempt, state=state, next_ms=next_ms, now_ms=NOON_MS + 7)


def test_a_job_with_a_url_is_announced_once(books: TemporaryBooks, accounts: tuple[int, int]) -> None:
    assert [(m.generation_id, m.account_id, m.url, m.attempts) for m in claim(books)] == [
        (1, accounts[0], URL, 1),
        (2, accounts[1], URL, 1),
    ]


def test_a_claimed_message_is_due_again_after_its_lease(books: TemporaryBooks, accounts: tuple[int, int]) -> None:
    assert outbox.next_due_ms(books.connection) == NOON_MS
    assert claim(books, NOON_MS - 1) == []
    assert len(claim(books, limit=1)) == 1
    assert [m.generation_id for m in claim(books)] == [2]
    assert claim(books, NOON_MS + 999) == []
    assert [m.attempts for m in claim(books, NOON_MS + 1_000)] == [2, 2]


def test_messages_of_busy_accounts_are_left(books: TemporaryBooks, accounts: tuple[int, int]) -> None:
    assert [m.account_id for m in claim(books, but=(accounts[0], 99))] == [accounts[1]]


def test_only_the_newest_claim_may_record_an_outcome(books: TemporaryBooks, accounts: tuple[int, int]) -> None:
    slow = claim(books, limit=1)[0]
    quick = claim(books, NOON_MS + 1_000, limit=1)
    quick = [m for m in [*quick, *claim(books, NOON_MS + 1_000)] if m.id == slow.id]
    log(books, quick[0], "delivered")
    log(books, slow, "failed")
    (entry,) = [one for one in outbox.delivery_log(books.connection, accounts[0], 9) if one.id == slow.id]
    assert (entry.state, entry.finished_ms, [a.attempt for a in entry.attempts]) == ("delivered", NOON_MS + 7, [2])


def test_a_retry_keeps_the_message_pending_until_its_time(books: TemporaryBooks, accounts: tuple[int, int]) -> None:
    log(books, claim(books, limit=1)[0], "pending", NOON_MS + 5_000)
    entry = outbox.delivery_log(books.connection, accounts[0], 9)[0]
    assert (entry.state, entry.next_ms, entry.finished_ms) == ("pending", NOON_MS + 5_000, None)


def test_finished_messages_are_deleted_with_their_attempts(books: TemporaryBooks, accounts: tuple[int, int]) -> None:
    for message in claim(books):
        log(books, message, "delivered")
    with books.connection.transaction():
        assert outbox.delete_finished(books.connection, NOON_MS + 7, 9) == 0
        assert outbox.delete_finished(books.connection, NOON_MS + 8, 1) == 1
        assert outbox.delete_finished(books.connection, NOON_MS + 8, 9) == 1
    assert books.rows("SELECT count(*) FROM webhook_deliveries") == [(0,)]
    assert outbox.next_due_ms(books.connection) is None
