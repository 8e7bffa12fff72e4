"""Tests of exponential backoff, in simulated time."""

from __future__ import annotations

from minitoolai.core.backoff import Backoff


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(0.1, 1.0)
    assert [backoff.record_failure() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_success_starts_again_with_the_shortest_delay() -> None:
    backoff = Backoff(0.5, 8.0)
    assert [backoff.record_failure(), backoff.record_failure()] == [0.5, 1.0]
    backoff.record_success()
    assert backoff.is_due()
    assert backoff.record_failure() == 0.5


def test_an_attempt_is_due_once_the_delay_has_passed() -> None:
    now_s = 100.0
    backoff = Backoff(2.0, 60.0, clock=lambda: now_s)
    assert backoff.is_due()
    backoff.record_failure()
    assert (backoff.is_due(), backoff.retry_at_s) == (False, 102.0)
    now_s = 102.0
    assert backoff.is_due()


def test_jitter_shortens_a_delay_by_at_most_its_share() -> None:
    draws = iter([0.0, 0.5, 1.0])
    backoff = Backoff(10.0, 10.0, jitter=0.4, uniform=lambda: next(draws))
    assert [round(backoff.record_failure(), 6) for _ in range(3)] == [10.0, 8.0, 6.0]
