"""The job queue and the worker registry, on both databases."""

from __future__ import annotations

import pytest

from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.ledger.types import QueueFull, Requeued, Settled, Superseded
from minitoolai.storage.tables import jobs
from minitoolai.storage.tables.jobs import LeaseRenewal
from tests.support.books import LEASE_MS, NOON_MS, TemporaryBooks, hold, requeue, settle


def image(model: str = "m", engine: str = "sketch", **fields: object) -> NewGeneration:
    columns: dict[str, object] = {"state": "queued", "request": "{}", "seed": 7, "size": "64x64"} | fields
    return NewGeneration("image", model, engine, 0, 100, **columns)  # type: ignore[arg-type]


def submit(books: TemporaryBooks, account: int, *ids: int, now_ms: int = NOON_MS, **fields: object) -> None:
    generation = image(**fields)  # type: ignore[arg-type]
    options = {"lease_ms": None, "generation": generation, "queue_limit": 100, "now_ms": now_ms}
    for job_id in ids:
        books.apply(hold(job_id, account, 100, **options))  # type: ignore[arg-type]


def claim(books: TemporaryBooks, *ids: int, worker: str = "one", now_ms: int = NOON_MS) -> list[jobs.ClaimedJob]:
    with books.connection.transaction():
        return jobs.claim(books.connection, ids, worker=worker, now_ms=now_ms, lease_ms=10_000)


@pytest.fixture
def account(books: TemporaryBooks) -> int:
    return books.account(10_000)


def test_accounts_take_turns_in_the_queue(books: TemporaryBooks, account: int) -> None:
    submit(books, account, 1, 2, 3)
    other = books.account(10_000)
    submit(books, other, 4, 5)
    found = jobs.waiting(books.connection, "sketch", ["m"], 10)
    assert [job.id for job in found] == [1, 2, 4, 3, 5]
    assert [job.turn for job in found] == [1, 2, 2, 3, 3]
    assert found[0] == jobs.WaitingJob(1, account, "m", "64x64", 1, 0, NOON_MS)
    assert [job.id for job in jobs.waiting(books.connection, "sketch", ["m"], 2)] == [1, 2]


def test_only_jobs_of_the_engine_and_its_models_are_waiting(books: TemporaryBooks, account: int) -> None:
    submit(books, account, 1)
    submit(books, account, 2, model="other")
    submit(books, account, 3, engine="gpu")
    books.apply(hold(4, account, 100))
    assert [job.id for job in jobs.waiting(books.connection, "sketch", ["m"], 10)] == [1]
    assert [job.id for job in jobs.waiting(books.connection, "sketch", ["other", "m"], 10)] == [1, 2]


def test_a_full_queue_refuses_a_job_and_a_claim_makes_room(books: TemporaryBooks, account: int) -> None:
    options = {"lease_ms": None, "generation": image(), "queue_limit": 1}
    assert books.apply(hold(1, account, 100, **options))  # type: ignore[arg-type]
    assert books.apply(hold(2, account, 100, **options)) == [QueueFull(1)]  # type: ignore[arg-type]
    claim(books, 1)
    assert books.apply(hold(2, account, 100, **options)) != [QueueFull(1)]  # type: ignore[arg-type]


def test_a_job_is_claimed_once_with_a_lease(books: TemporaryBooks, account: int) -> None:
    submit(books, account, 1, 2)
    claimed = claim(books, 2, 1, 99)
    assert claimed == [
        jobs.ClaimedJob(1, account, 1, 0, "m", 100, 7, "{}", NOON_MS),
        jobs.ClaimedJob(2, account, 1, 0, "m", 100, 7, "{}", NOON_MS),
    ]
    assert claim(books, 1, 2, worker="two") == []
    assert claim(books) == []
    rows = books.rows("SELECT state, worker, lease_until_ms, attempt FROM generations ORDER BY id")
    assert rows == [("running", "one", NOON_MS + 10_000, 1)] * 2


def test_a_renewal_moves_lease_and_step_of_the_running_attempt_only(books: TemporaryBooks, account: int) -> None:
    submit(books, account, 11, 12, 13)
    claim(books, 11, 12)
    with books.connection.transaction():
        renewals = [LeaseRenewal(11, 1, 5), LeaseRenewal(12, 2, 6), LeaseRenewal(13, 1, 7)]
        assert jobs.renew_leases(books.connection, renewals, LEASE_MS + 5) == {12, 13}
    rows = books.rows("SELECT lease_until_ms, step FROM generations ORDER BY id")
    assert rows == [(LEASE_MS + 5, 5), (NOON_MS + 10_000, 0), (None, 0)]


def test_an_expired_lease_is_found_and_the_job_goes_back_with_its_turn(books: TemporaryBooks, account: int) -> None:
    submit(books, account, 1, 2)
    claim(books, 1)
    until_ms = NOON_MS + 10_000
    assert jobs.expired_leases(books.connection, until_ms) == []
    assert jobs.expired_leases(books.connection, until_ms + 1) == [jobs.StaleJob(1, account, 1, "m", "sketch", NOON_MS)]
    with books.connection.transaction():
        jobs.renew_leases(books.connection, [LeaseRenewal(1, 1, 5)], until_ms)
    assert books.apply(requeue(1, account, reason="lapsed", now_ms=until_ms)) == [Requeued(1)]
    assert [job.id for job in jobs.waiting(books.connection, "sketch", ["m"], 10)] == [1, 2]
    assert books.rows("SELECT failures, losses, step, worker, lease_until_ms FROM generations WHERE id = 1") == [
        (0, 1, 0, None, None)
    ]
    assert claim(books, 1, worker="two")[0].attempt == 2
    assert books.apply(requeue(1, account, attempt=1)) == [Superseded()]
    assert books.apply(settle(1, account, 100, attempt=1)) == [Superseded()]


def test_jobs_that_wait_too_long_are_found_oldest_first(books: TemporaryBooks, account: int) -> None:
    submit(books, account, 1, now_ms=NOON_MS)
    submit(books, account, 2, now_ms=NOON_MS + 10)
    claim(books, 3)
    assert jobs.jobs_waiting_since(books.connection, NOON_MS) == []
    assert [job.id for job in jobs.jobs_waiting_since(books.connection, NOON_MS + 1)] == [1]
    assert [job.id for job in jobs.jobs_waiting_since(books.connection, NOON_MS + 11)] == [1, 2]


def test_a_job_is_shown_with_the_number_of_jobs_ahead(books: TemporaryBooks, account: int) -> None:
    submit(books, account, 1, 2, 3)
    books.apply(hold(9, account, 100))
    shown = [jobs.find(books.connection, job_id) for job_id in (1, 2, 3)]
    assert [job.ahead for job in shown if job is not None] == [0, 1, 2]
    assert shown[0] == jobs.JobDetails(
        account, "queued", 0, 7, "m", None, None, None, None, "{}", "64x64", "sketch", NOON_MS, None, 0
    )
    assert jobs.find(books.connection, 9) is None
    assert jobs.find(books.connection, 10) is None
    claim(books, 1)
    running = jobs.find(books.connection, 1)
    assert running is not None
    assert (running.state, running.ahead) == ("running", 0)
    following = jobs.find(books.connection, 2)
    assert following is not None
    assert following.ahead == 0


def test_the_end_of_a_job_writes_its_result_and_its_webhook(books: TemporaryBooks, account: int) -> None:
    submit(books, account, 1, webhook_url="https://example.com/hook")
    submit(books, account, 2)
    claim(books, 1, 2)
    done = Outcome("succeeded", output_units=1, result="key-1")
    failed = Outcome("failed", error_code="broken", error="it broke")
    results = books.apply(settle(1, account, 100, done, attempt=1), settle(2, account, 0, failed, attempt=1))
    assert results == [Settled(100), Settled(0)]
    rows = books.rows("SELECT state, result, error, lease_until_ms FROM generations ORDER BY id")
    assert rows == [("succeeded", "key-1", None, None), ("failed", None, "it broke", None)]
    assert books.rows("SELECT generation_id, next_ms FROM outbox") == [(1, NOON_MS + 500)]


def test_a_batch_without_jobs_asks_for_none(books: TemporaryBooks, account: int) -> None:
    assert jobs.select_attempts([hold(1, account, 1), settle(1, account, 1)]).ids == []
    attempts = [settle(1, account, 1, attempt=1), requeue(2, account)]
    assert (jobs.select_attempts(attempts).ids, jobs.select_attempts(attempts).lock) == ([1, 2], True)


# ── worker registry ───────────────────────────────────────────────────────────────────────────────────────


def test_the_models_of_all_live_workers_are_known(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        jobs.register_worker(books.connection, "one", {"sketch": ["a", "b"]}, NOON_MS)
        jobs.register_worker(books.connection, "two", {"sketch": ["a"], "gpu": ["a"]}, NOON_MS)
        jobs.register_worker(books.connection, "two", {"gpu": ["b"]}, NOON_MS + 1)
    offers = jobs.available_models(books.connection, NOON_MS + 5)
    assert {engine: sorted(models) for engine, models in offers.items()} == {"sketch": ["a", "b"], "gpu": ["b"]}


def test_the_models_of_two_workers_are_added_up_by_engine(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        jobs.register_worker(books.connection, "one", {"sketch": ["a"]}, NOON_MS)
        jobs.register_worker(books.connection, "two", {"sketch": ["b"]}, NOON_MS)
    assert sorted(jobs.available_models(books.connection, NOON_MS)["sketch"]) == ["a", "b"]


def test_a_worker_that_stops_or_is_silent_has_no_models(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        jobs.register_worker(books.connection, "one", {"sketch": ["a"]}, NOON_MS)
        jobs.register_worker(books.connection, "two", {"gpu": ["a"]}, NOON_MS + jobs.WORKER_TIMEOUT_MS)
        assert list(jobs.available_models(books.connection, NOON_MS + jobs.WORKER_TIMEOUT_MS)) == ["gpu"]
        jobs.unregister_worker(books.connection, "two")
    assert jobs.available_models(books.connection, NOON_MS + jobs.WORKER_TIMEOUT_MS) == {}


def test_a_silent_worker_is_lost_for_half_an_hour_and_one_that_stops_is_not(books: TemporaryBooks) -> None:
    def counts(after_ms: int) -> tuple[int, int]:
        return jobs.count_workers(books.connection, NOON_MS + after_ms)

    with books.connection.transaction():
        for name in ("one", "two", "three"):
            jobs.register_worker(books.connection, name, {"sketch": ["a"]}, NOON_MS)
        jobs.unregister_worker(books.connection, "three")
        jobs.register_worker(books.connection, "two", {"sketch": ["a"]}, NOON_MS + jobs.WORKER_LOST_MS)
    assert counts(0) == (2, 0)
    assert counts(jobs.WORKER_TIMEOUT_MS - 1) == (2, 0)
    assert counts(jobs.WORKER_TIMEOUT_MS) == (1, 1)
    assert counts(jobs.WORKER_LOST_MS) == (1, 0)


def test_the_row_of_a_worker_is_deleted_after_a_day(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        jobs.register_worker(books.connection, "one", {}, NOON_MS)
        jobs.register_worker(books.connection, "two", {}, NOON_MS + jobs.WORKER_ROW_TTL_MS)
        assert books.rows("SELECT count(*) FROM workers") == [(2,)]
        jobs.register_worker(books.connection, "three", {}, NOON_MS + jobs.WORKER_ROW_TTL_MS + 1)
    assert books.rows("SELECT name FROM workers ORDER BY name") == [("three",), ("two",)]
