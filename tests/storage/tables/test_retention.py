"""Deleting what is older than its retention period."""

from __future__ import annotations

from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.storage.object_store import object_key
from minitoolai.storage.tables import jobs, retention
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle

KEYS = {job: object_key(job, b"png") for job in (1, 2, 3, 4, 9)}
ENDED_MS = NOON_MS + 500


def finish(books: TemporaryBooks, *ids: int) -> int:
    """Run these jobs to a successful end, and submit job 4, which stays queued."""
    account = books.account(10_000)
    image = NewGeneration("image", "m", "sketch", 0, 100, "queued", "a sun", 1, "64x64", "https://example.com")
    for job in (*ids, 4):
        books.apply(hold(job, account, 100, lease_ms=None, generation=image, queue_limit=9))
    with books.connection.transaction():
        jobs.claim(books.connection, ids, worker="one", now_ms=NOON_MS, lease_ms=1)
    books.apply(*(settle(job, account, 100, Outcome("succeeded", result=KEYS[job]), attempt=1) for job in ids))
    return account


def test_results_are_cleared_oldest_first_in_small_batches(books: TemporaryBooks) -> None:
    finish(books, 1, 2, 3)
    with books.connection.transaction():
        assert retention.expire_images(books.connection, ENDED_MS, 10) == []
        assert retention.find_image(books.connection, 1) == ("succeeded", KEYS[1])
        first = retention.expire_images(books.connection, ENDED_MS + 1, 2)
        assert len(first) == 2
        rest = retention.expire_images(books.connection, ENDED_MS + 1, 2)
    assert sorted(first + rest) == sorted(KEYS[job] for job in (1, 2, 3))
    assert retention.find_image(books.connection, 1) == ("succeeded", None)
    assert retention.find_image(books.connection, 99) is None


def test_prompts_of_finished_jobs_only_are_erased(books: TemporaryBooks) -> None:
    finish(books, 1, 2)
    with books.connection.transaction():
        assert retention.erase_prompts(books.connection, ENDED_MS, 10) == 0
        assert retention.erase_prompts(books.connection, ENDED_MS + 1, 1) == 1
        assert retention.erase_prompts(books.connection, ENDED_MS + 1, 10) == 1
    rows = books.rows("SELECT id, request, webhook_url FROM generations ORDER BY id")
    assert rows == [(1, None, None), (2, None, None), (4, "a sun", "https://example.com")]


def test_expired_rows_are_deleted_in_small_batches(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        for number in range(3):
            books.rows(
                "INSERT INTO webhook_events (event_id, provider, seen_ms) VALUES (?, 'stripe', ?)", f"e{number}", number
            )
        assert retention.delete_expired(books.connection, "webhook_events", 2, 1) == 1
        assert retention.delete_expired(books.connection, "webhook_events", 2, 10) == 1
        assert retention.delete_expired(books.connection, "webhook_events", 2, 10) == 0
        assert retention.delete_expired(books.connection, "sessions", 2**60, 10) == 0
    assert books.rows("SELECT event_id FROM webhook_events") == [("e2",)]


def test_an_object_is_orphaned_if_its_finished_job_has_another_result(books: TemporaryBooks) -> None:
    finish(books, 1, 2)
    stale = object_key(1, b"an attempt that was superseded")
    keys = [KEYS[1], stale, KEYS[2], KEYS[4], KEYS[9]]
    # Job 4 is still queued, and job 9 is unknown: it may belong to another server.
    assert retention.orphaned_objects(books.connection, keys) == [stale]
    with books.connection.transaction():
        retention.expire_images(books.connection, ENDED_MS + 1, 10)
    assert retention.orphaned_objects(books.connection, keys) == [KEYS[1], stale, KEYS[2]]
