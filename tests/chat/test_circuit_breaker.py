"""Unit tests of the circuit breaker in chat/router.py, without an upstream."""

from __future__ import annotations

import pytest

from minitoolai.chat.router import MAX_RETRY_AFTER_S, PROBE_WAIT_S, CircuitBreaker
from minitoolai.core.errors import ClientLeft, ContextExceeded, EngineError, EngineFull, EngineRateLimited


def test_each_failed_probe_doubles_the_cooldown_up_to_sixteen_times_and_a_success_resets_it() -> None:
    breaker, now_s, cooldowns = CircuitBreaker(failure_threshold=2, cooldown_s=10.0), 0.0, []
    breaker.on_failure(EngineError("x"), "m", now_s)
    assert breaker.wait_s("m", now_s) == 0
    breaker.on_failure(EngineError("x"), "m", now_s)
    for _ in range(6):
        cooldowns.append(breaker.wait_s("m", now_s))
        now_s += cooldowns[-1]
        assert breaker.wait_s("m", now_s) == 0
        breaker.on_request()
        assert breaker.wait_s("m", now_s) == PROBE_WAIT_S
        breaker.on_failure(EngineError("x"), "m", now_s)
    assert cooldowns == [10.0, 20.0, 40.0, 80.0, 160.0, 160.0]
    now_s += 160.0
    breaker.on_request()
    breaker.on_success()
    assert (breaker.is_closed, breaker.wait_s("m", now_s)) == (True, 0)
    for _ in range(2):
        breaker.on_failure(EngineError("x"), "m", now_s)
    assert breaker.wait_s("m", now_s) == 10.0


@pytest.mark.parametrize(("retry_after_s", "wait_s"), [(None, 1.0), (30, 30.0), (86_400, MAX_RETRY_AFTER_S)])
def test_retry_after_applies_to_its_model_only_and_for_five_minutes_at_most(
    retry_after_s: int | None, wait_s: float
) -> None:
    breaker = CircuitBreaker(failure_threshold=3, cooldown_s=10.0)
    breaker.on_failure(EngineRateLimited("slow down", retry_after_s=retry_after_s), "m", 100.0)
    assert (breaker.wait_s("m", 100.0), breaker.wait_s("other", 100.0)) == (wait_s, 0)
    assert breaker.is_limited("m", 100.0)
    assert breaker.wait_s("m", 100.0 + wait_s + 0.001) == 0
    assert breaker.is_closed


@pytest.mark.parametrize("error", [ClientLeft("gone"), EngineFull("full", retry_after_s=1), ContextExceeded("long")])
def test_an_error_that_the_upstream_did_not_cause_never_opens_the_circuit(error: Exception) -> None:
    breaker = CircuitBreaker(failure_threshold=1, cooldown_s=10.0)
    for _ in range(5):
        breaker.on_failure(error, "m", 0.0)
    assert (breaker.is_closed, breaker.wait_s("m", 0.0)) == (True, 0)


def test_a_cancelled_probe_is_followed_by_another() -> None:
    breaker = CircuitBreaker(failure_threshold=1, cooldown_s=10.0)
    breaker.on_failure(EngineError("x"), "m", 0.0)
    breaker.on_request()
    assert breaker.wait_s("m", 10.0) == PROBE_WAIT_S
    breaker.on_cancel()
    assert breaker.wait_s("m", 10.0) == 0


def test_a_threshold_of_zero_disables_the_breaker() -> None:
    breaker = CircuitBreaker(failure_threshold=0, cooldown_s=10.0)
    for _ in range(10):
        breaker.on_failure(EngineError("x"), "m", 0.0)
    assert breaker.is_closed
