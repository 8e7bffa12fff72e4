"""Deletion of expired prompts, responses, sessions and links on both databases. The ledger is never touched."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from minitoolai.billing.idempotency import IdempotencyStore, RecordedResponse
from minitoolai.billing.retention import BATCH, RetentionPolicy, RetentionSweeper, retention_policy
from minitoolai.core.errors import IdempotencySpent, SettingsError
from minitoolai.core.models import Caller, IdempotencyClaim
from minitoolai.settings import Settings
from minitoolai.storage.tables import users
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle
from tests.support.images import PRICE, end_job, queued_job

DAY_S = 86_400
REQUEST = b"a request"
WORDS = "SELECT count(*) FROM generations WHERE request IS NOT NULL"


def sweep(books: TemporaryBooks, *, prompt_days: float = 0.0, response_hours: float = 24.0) -> None:
    with books.writer() as writer:
        sweeper = RetentionSweeper(books.database, writer, books.clock, RetentionPolicy(prompt_days, response_hours))
        asyncio.run(sweeper.sweep())


def keep_answer(books: TemporaryBooks, account: int, hold_id: int, *, keeps: bool = True) -> None:
    """Store the response of a chat that was charged under the key `once`."""
    fingerprint = hashlib.sha256(REQUEST).digest()
    books.apply(hold(hold_id, account, claim="once"))
    books.connection.execute("UPDATE idempotency_keys SET fingerprint = ?", (fingerprint,))
    books.apply(settle(hold_id, account, 19))
    with books.writer() as writer:
        store = IdempotencyStore(books.database, writer, books.clock, store_responses=keeps)
        answer = RecordedResponse(200, [("content-type", "text/plain")], b"a secret answer")
        asyncio.run(store.store(IdempotencyClaim(f"{account}/once", fingerprint, hold_id), answer))


def ask_again(books: TemporaryBooks, account: int) -> object:
    async def work() -> object:
        with books.writer() as writer:
            return await IdempotencyStore(books.database, writer, books.clock).claim(
                Caller(account, "key000000001"), "once", REQUEST
            )

    return asyncio.run(work())


def test_prompts_of_images_are_erased_after_their_retention_and_the_ledger_stays(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    done, failed, waiting = (queued_job(books, account) for _ in range(3))
    end_job(books, account, done)
    end_job(books, account, failed, "failed")
    books.clock.forward(30 * DAY_S)
    sweep(books, prompt_days=30)
    assert books.rows(WORDS) == [(3,)]
    money, cost = books.money(account), books.rows("SELECT id, cost, state, seed FROM generations ORDER BY id")
    books.clock.forward(10)
    sweep(books, prompt_days=30)
    # The one that waits keeps its words for as long as it does: somebody will draw it.
    assert books.rows("SELECT id FROM generations WHERE request IS NOT NULL") == [(waiting,)]
    assert books.rows("SELECT error, webhook_url FROM generations WHERE id = ?", failed) == [(None, None)]
    assert books.money(account) == money
    assert books.rows("SELECT id, cost, state, seed FROM generations ORDER BY id") == cost


def test_prompts_are_kept_forever_without_a_retention(books: TemporaryBooks) -> None:
    account = books.account(PRICE)
    end_job(books, account, queued_job(books, account))
    books.clock.forward(3000 * DAY_S)
    sweep(books)
    assert books.rows(WORDS) == [(1,)]


def test_more_prompts_than_one_batch_are_all_erased(books: TemporaryBooks) -> None:
    account = books.account(1000 * PRICE)
    for _ in range(BATCH + 20):
        end_job(books, account, queued_job(books, account))
    books.clock.forward(2 * DAY_S)
    sweep(books, prompt_days=1)
    assert books.rows(WORDS) == [(0,)]


def test_the_sweep_of_prompts_uses_its_index(sqlite_books: TemporaryBooks) -> None:
    plan = sqlite_books.rows(
        "EXPLAIN QUERY PLAN SELECT id FROM generations WHERE kind = 'image' AND request IS NOT NULL"
        " AND finished_ms IS NOT NULL AND finished_ms < ? ORDER BY finished_ms LIMIT ?",
        NOON_MS,
        BATCH,
    )
    assert "ix_generations_words" in repr(plan)


def test_a_response_is_dropped_before_its_key_and_the_request_is_still_charged_once(books: TemporaryBooks) -> None:
    account = books.account(1000)
    keep_answer(books, account, 77)
    books.clock.forward(3600)
    sweep(books, response_hours=2)
    again = ask_again(books, account)
    assert isinstance(again, RecordedResponse)
    assert again.body == b"a secret answer"
    books.clock.forward(3601)
    sweep(books, response_hours=2)
    assert books.rows("SELECT status, headers, body FROM idempotency_keys") == [(None, None, None)]
    with pytest.raises(IdempotencySpent, match="charged"):
        ask_again(books, account)
    books.clock.forward(DAY_S)
    sweep(books, response_hours=2)
    assert books.rows("SELECT count(*) FROM idempotency_keys") == [(0,)]


def test_no_response_is_stored_without_a_retention(books: TemporaryBooks) -> None:
    account = books.account(1000)
    keep_answer(books, account, 77, keeps=False)
    assert books.rows("SELECT body FROM idempotency_keys") == [(None,)]
    with pytest.raises(IdempotencySpent):
        ask_again(books, account)


def test_expired_sessions_links_and_events_are_deleted(books: TemporaryBooks) -> None:
    account = books.account()
    with books.connection.transaction():
        users.insert_session(books.connection, b"old", account, NOON_MS, NOON_MS + 1000)
        users.insert_session(books.connection, b"new", account, NOON_MS, NOON_MS + 100 * DAY_S * 1000)
        books.connection.execute(
            "INSERT INTO webhook_events (event_id, provider, seen_ms) VALUES ('evt', 'stripe', ?)", (NOON_MS,)
        )
    books.clock.forward(60)
    sweep(books)
    assert [bytes(row[0]) for row in books.rows("SELECT secret_hash FROM sessions")] == [b"new"]
    assert books.rows("SELECT count(*) FROM webhook_events") == [(1,)]
    books.clock.forward(91 * DAY_S)
    sweep(books)
    assert books.rows("SELECT count(*) FROM webhook_events") == [(0,)]


def test_a_retention_beyond_the_life_of_a_key_is_refused() -> None:
    with pytest.raises(SettingsError, match="ANSWER_RETENTION_HOURS"):
        retention_policy(Settings(answer_retention_hours=25))
    assert retention_policy(Settings()) == RetentionPolicy(30.0, 24.0)
