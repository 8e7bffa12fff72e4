"""The rules of the ledger about jobs: a place in the queue, attempts, and who may end what."""

from __future__ import annotations

import pytest

from minitoolai.core.models import Balance, NewGeneration, Outcome
from minitoolai.ledger.types import (
    Held,
    InsufficientFunds,
    QueueFull,
    Requeued,
    Result,
    Settled,
    StillLeased,
    Superseded,
)
from minitoolai.storage.tables import jobs
from tests.support.books import NOON_MS, TemporaryBooks, hold, requeue, settle

PRICE = 1_500_000
DRAWN = Outcome("succeeded", output_units=1, served_model="fake", result="ab" * 32)
LEASE_MS = 20_000


def job(number: int, account: int, *, limit: int = 100) -> object:
    asked = NewGeneration("image", "dreamshaper", "fake", 0, PRICE, "queued", "{}", number, "256x256")
    return hold(number, account, PRICE, lease_ms=None, generation=asked, queue_limit=limit)


def claim(books: TemporaryBooks, *ids: int, now_ms: int = NOON_MS) -> list[jobs.ClaimedJob]:
    with books.connection.transaction():
        return jobs.claim(books.connection, ids, worker="w", now_ms=now_ms, lease_ms=LEASE_MS)


def state(books: TemporaryBooks, number: int) -> tuple[object, ...]:
    return books.rows(
        "SELECT g.state, h.state, g.attempt, g.failures FROM generations g JOIN holds h ON h.id = g.id WHERE g.id = ?",
        number,
    )[0]


def submit(books: TemporaryBooks, account: int, *numbers: int, limit: int = 100) -> list[Result]:
    return books.apply(*(job(n, account, limit=limit) for n in numbers))


# ── the queue ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_waits_with_its_price_held(books: TemporaryBooks) -> None:
    account = books.account(2 * PRICE)
    assert submit(books, account, 1) == [Held(PRICE, 1)]
    assert state(books, 1) == ("queued", "pending", 0, 0)
    assert books.money(account) == Balance(2 * PRICE, PRICE)


def test_one_job_more_than_an_account_may_queue_is_refused_and_changes_nothing(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    assert submit(books, account, 1, 2, limit=2) == [Held(PRICE, 1)] * 2
    before = books.everything()
    assert submit(books, account, 3, limit=2) == [QueueFull(2)]
    assert books.everything() == before
    claim(books, 1)
    assert submit(books, account, 3, limit=2) == [Held(PRICE, 1)]


def test_who_cannot_pay_is_told_that_and_not_that_the_queue_is_full(books: TemporaryBooks) -> None:
    account = books.account(PRICE)
    assert submit(books, account, 1, 2, limit=1) == [Held(PRICE, 1), InsufficientFunds(PRICE, 0)]


def test_many_jobs_of_one_account_leave_the_next_places_to_others(books: TemporaryBooks) -> None:
    busy, other, third = (books.account(1000 * PRICE) for _ in range(3))
    submit(books, busy, *range(1, 91))
    submit(books, other, 101, 102)
    submit(books, third, 103)
    order = [waiting.id for waiting in jobs.waiting(books.connection, "fake", ["dreamshaper"], 7)]
    assert order == [1, 2, 101, 103, 3, 102, 4]


def test_who_comes_late_does_not_overtake_all_who_waited(books: TemporaryBooks) -> None:
    busy, late = books.account(1000 * PRICE), books.account(PRICE)
    submit(books, busy, *range(1, 31))
    claim(books, *range(1, 21))
    submit(books, late, 50)
    assert [waiting.id for waiting in jobs.waiting(books.connection, "fake", ["dreamshaper"], 4)] == [21, 22, 50, 23]


def test_a_job_claimed_twice_is_given_once(books: TemporaryBooks) -> None:
    submit(books, books.account(PRICE), 1)
    assert [(c.id, c.attempt, c.seed, c.price) for c in claim(books, 1)] == [(1, 1, 1, PRICE)]
    assert claim(books, 1) == []


# ── attempts ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_attempt_under_way_is_charged_with_its_result_in_one_commit(books: TemporaryBooks) -> None:
    account = books.account(PRICE)
    submit(books, account, 1)
    claim(books, 1)
    assert books.apply(settle(1, account, PRICE, DRAWN, attempt=1)) == [Settled(PRICE)]
    assert books.rows("SELECT state, cost, result, lease_until_ms FROM generations") == [
        ("succeeded", PRICE, "ab" * 32, None)
    ]
    assert books.apply(settle(1, account, PRICE, DRAWN, attempt=1)) == [Settled(PRICE, repeated=True)]


def test_a_worker_that_slept_while_its_job_went_on_changes_nothing(books: TemporaryBooks) -> None:
    account = books.account(PRICE)
    submit(books, account, 1)
    claim(books, 1)
    lapse = requeue(1, account, reason="lapsed", now_ms=NOON_MS + LEASE_MS)
    assert books.apply(lapse) == [Requeued(1)]
    before = books.everything()
    assert books.apply(settle(1, account, PRICE, DRAWN, attempt=1)) == [Superseded()]
    assert books.everything() == before
    assert claim(books, 1)[0].attempt == 2
    assert books.apply(settle(1, account, PRICE, DRAWN, attempt=1), requeue(1, account)) == [Superseded()] * 2
    assert books.apply(settle(1, account, PRICE, DRAWN, attempt=2)) == [Settled(PRICE)]


def test_a_job_whose_lease_runs_stays_with_its_worker(books: TemporaryBooks) -> None:
    account = books.account(PRICE)
    submit(books, account, 1)
    claim(books, 1)
    early = requeue(1, account, reason="lapsed", now_ms=NOON_MS + LEASE_MS - 1)
    assert books.apply(early) == [StillLeased()]
    assert state(books, 1) == ("running", "pending", 1, 0)


def test_after_its_last_failure_a_job_fails_says_why_and_costs_nothing(books: TemporaryBooks) -> None:
    account = books.account(PRICE)
    submit(books, account, 1)
    for attempt in (1, 2):
        claim(books, 1)
        assert books.apply(requeue(1, account, attempt)) == [Requeued(attempt)]
    claim(books, 1)
    assert books.apply(requeue(1, account, 3)) == [Settled(0)]
    assert books.rows("SELECT state, error_code, error, cost FROM generations") == [("failed", "broken", "it broke", 0)]
    assert books.money(account) == Balance(PRICE, 0)


def test_a_worker_that_hands_back_is_no_failure(books: TemporaryBooks) -> None:
    account = books.account(PRICE)
    submit(books, account, 1)
    for attempt in range(1, 6):
        claim(books, 1)
        assert books.apply(requeue(1, account, attempt, reason="handed_back")) == [Requeued(0)]


def test_a_job_that_waits_again_keeps_its_turn(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    submit(books, account, 1, 2, 3)
    claim(books, 1)
    books.apply(requeue(1, account))
    assert [waiting.id for waiting in jobs.waiting(books.connection, "fake", ["dreamshaper"], 9)] == [1, 2, 3]


@pytest.mark.parametrize("is_claimed", [False, True])
def test_a_cancelled_job_is_released_and_its_result_is_not_wanted(books: TemporaryBooks, is_claimed: bool) -> None:
    account = books.account(PRICE)
    submit(books, account, 1)
    if is_claimed:
        claim(books, 1)
    assert books.apply(settle(1, account, 0, Outcome("cancelled"))) == [Settled(0)]
    assert claim(books, 1) == []
    assert books.apply(settle(1, account, PRICE, DRAWN, attempt=1)) == [Settled(0, repeated=True)]
    assert books.money(account) == Balance(PRICE, 0)


def test_an_attempt_that_failed_and_a_cancel_in_one_batch_end_it_once(books: TemporaryBooks) -> None:
    account = books.account(PRICE)
    submit(books, account, 1)
    claim(books, 1)
    verdicts = books.apply(requeue(1, account), settle(1, account, 0, Outcome("cancelled")))
    assert verdicts == [Requeued(1), Settled(0)]
    assert state(books, 1) == ("cancelled", "voided", 1, 1)


# ── leases ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sign_of_life_moves_the_lease_and_tells_of_what_is_lost(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    submit(books, account, 1, 2, 3)
    claim(books, 1, 2, 3)
    books.apply(settle(2, account, 0, Outcome("cancelled")), requeue(3, account))
    claim(books, 3)
    with books.connection.transaction():
        lost = jobs.renew_leases(
            books.connection, [jobs.LeaseRenewal(n, 1, step=2) for n in (1, 2, 3)], NOON_MS + 99_000
        )
    assert lost == {2, 3}
    assert books.rows("SELECT id, lease_until_ms, step FROM generations WHERE state = 'running' ORDER BY id") == [
        (1, NOON_MS + 99_000, 2),
        (3, NOON_MS + LEASE_MS, 0),
    ]


def test_only_jobs_whose_lease_ended_have_lapsed(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    submit(books, account, 1, 2, 3)
    claim(books, 1)
    claim(books, 2, now_ms=NOON_MS + 5)
    (lapsed,) = jobs.expired_leases(books.connection, NOON_MS + LEASE_MS + 1)
    assert (lapsed.id, lapsed.account_id, lapsed.attempt) == (1, account, 1)
    assert len(jobs.expired_leases(books.connection, NOON_MS + LEASE_MS + 6)) == 2
