"""Unit tests of chat/circuit_breaker.py, without an upstream."""

from __future__ import annotations

import pytest

from minitoolai.chat.circuit_breaker import (
    HEADSTART_S,
    MAX_ACCOUNTS,
    MAX_RETRY_AFTER_S,
    MIN_CALLS,
    PROBE_WAIT_S,
    WINDOW_S,
    CircuitBreaker,
)
from minitoolai.core.errors import (
    ClientLeft,
    ContextExceeded,
    EngineBroken,
    EngineError,
    EngineFull,
    EngineRateLimited,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
    ServiceError,
)

ANN, BOB, CAT, DAN = 1001, 1002, 1003, 1004
MODEL = "m"


class Rig:
    """A breaker whose calls take no time, at a clock that moves when a test says so."""

    def __init__(self, failure_threshold: int = 5, cooldown_s: float = 10.0) -> None:
        self.breaker = CircuitBreaker(failure_threshold=failure_threshold, cooldown_s=cooldown_s)
        self.now_s = 1000.0

    def wait_s(self, account: int, model: str = MODEL) -> float:
        return self.breaker.wait_s(model, account, self.now_s)

    def begin(self, account: int) -> bool:
        """Send a request as chat/router.py does, and return whether it is the probe."""
        assert self.wait_s(account) == 0
        if self.breaker.is_closed:
            self.breaker.seen[account] = self.now_s
            return False
        return self.breaker.on_request(account, self.now_s)

    def fail(self, account: int, error: Exception | None = None, *, times: int = 1) -> None:
        for _ in range(times):
            is_probe, started_s = self.begin(account), self.now_s
            self.now_s += 0.001
            error = error or EngineError("status 500")
            self.breaker.on_failure(error, MODEL, account, started_s, self.now_s, is_probe=is_probe)

    def succeed(self, account: int) -> None:
        is_probe = self.begin(account)
        self.breaker.on_success(account, self.now_s, is_probe=is_probe)

    def is_open_for(self, account: int) -> bool:
        return self.wait_s(account) > 0


@pytest.mark.parametrize(
    "error",
    [EngineError("500"), Overloaded("503"), EngineTimeout("silence"), EngineBroken("cut"), EngineRateLimited("429"),
     EngineRateLimited("too large", retry_after_s=30, rests_model=True, is_size=True), EngineRefused("400"),
     ContextExceeded("too long")],
)  # fmt: skip
def test_one_account_never_closes_the_way_for_another_that_is_served(error: ServiceError) -> None:
    rig = Rig(failure_threshold=1)
    rig.succeed(BOB)
    for _ in range(200):
        rig.fail(ANN, error)
        rig.now_s += 0.1
        rig.succeed(BOB)
    assert rig.wait_s(CAT) == 0


def test_two_accounts_do_not_close_the_way_for_a_third_that_is_served() -> None:
    rig = Rig(failure_threshold=1)
    for _ in range(100):
        rig.succeed(CAT)
        rig.fail(ANN)
        rig.fail(BOB)
    assert [rig.is_open_for(account) for account in (ANN, BOB, CAT, DAN)] == [False] * 4


def test_three_failing_accounts_open_the_circuit_for_all() -> None:
    rig = Rig(failure_threshold=5)
    rig.fail(ANN, times=2)
    rig.fail(BOB, times=2)
    assert not rig.is_open_for(ANN)
    rig.fail(CAT)
    assert {rig.wait_s(account) for account in (ANN, BOB, CAT, DAN)} == {10.0}


def test_an_engine_rests_only_while_all_accounts_are_refused() -> None:
    rig = Rig(failure_threshold=5)
    assert not rig.breaker.is_resting(rig.now_s)
    rig.fail(ANN, times=10)
    # Ann is the only account, so all requests are refused.
    assert rig.is_open_for(ANN)
    assert rig.breaker.is_resting(rig.now_s)
    # Bob is served meanwhile, so the circuit is open for one of two accounts.
    assert not rig.begin(BOB)
    assert not rig.breaker.is_resting(rig.now_s)
    assert rig.is_open_for(ANN)


def test_an_engine_rests_until_its_cooldown_ends_and_while_it_is_probed() -> None:
    rig = Rig(failure_threshold=5, cooldown_s=10.0)
    rig.fail(ANN, EngineUnavailable("no connection"))
    assert rig.breaker.is_resting(rig.now_s)
    rig.now_s += 9.9
    assert rig.breaker.is_resting(rig.now_s)
    # After ten seconds without a request, the breaker refuses nobody.
    rig.now_s += 0.2
    assert not rig.breaker.is_resting(rig.now_s)
    assert rig.begin(BOB)
    assert rig.breaker.is_resting(rig.now_s)
    rig.breaker.on_success(BOB, rig.now_s, is_probe=True)
    assert not rig.breaker.is_resting(rig.now_s)


def test_a_rate_limit_is_no_rest() -> None:
    rig = Rig()
    rig.fail(ANN, EngineRateLimited("slow down", retry_after_s=30, rests_model=True))
    assert rig.is_open_for(BOB)
    assert not rig.breaker.is_resting(rig.now_s)


def test_a_rest_and_its_recovery_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(cooldown_s=10.0)
    for _ in range(4):
        rig.fail(ANN, EngineUnavailable("no connection"))
        rig.now_s += 200.0
    rig.succeed(ANN)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert ["open" in caplog.messages[0], "closed" in caplog.messages[1]] == [True, True]


def test_three_failing_accounts_among_many_that_are_served_open_nothing() -> None:
    rig = Rig(failure_threshold=3)
    for account in range(1, 5):
        rig.succeed(account)
    for _ in range(50):
        for account in (ANN, BOB, CAT):
            rig.fail(account)
    assert not rig.is_open_for(DAN)
    # With half of them failing, the upstream is the likely cause.
    rig.fail(DAN)
    assert rig.is_open_for(5)


def test_a_share_is_of_the_last_minute_only() -> None:
    rig = Rig(failure_threshold=3)
    for account in range(1, 5):
        rig.succeed(account)
    rig.now_s += WINDOW_S
    for account in (ANN, BOB, CAT):
        rig.fail(account)
    assert rig.is_open_for(DAN)


def test_fewer_failures_than_the_threshold_open_nothing() -> None:
    rig = Rig(failure_threshold=4)
    for account in (ANN, BOB, CAT):
        rig.fail(account)
    assert not rig.is_open_for(ANN)


def test_an_account_alone_rests_after_ten_calls_that_failed_and_another_is_still_served() -> None:
    rig = Rig(failure_threshold=5)
    rig.fail(ANN, times=MIN_CALLS - 1)
    assert not rig.is_open_for(ANN)
    rig.fail(ANN)
    assert rig.wait_s(ANN) == pytest.approx(10.0)
    assert not rig.is_open_for(BOB)
    rig.succeed(BOB)
    assert (rig.breaker.is_closed, rig.is_open_for(ANN)) == (True, False)


def test_two_accounts_that_are_all_rest_after_ten_calls_of_both() -> None:
    rig = Rig()
    for _ in range(4):
        rig.fail(ANN)
        rig.fail(BOB)
    assert not rig.is_open_for(ANN)
    rig.fail(ANN)
    rig.fail(BOB)
    assert (rig.is_open_for(ANN), rig.is_open_for(BOB), rig.is_open_for(CAT)) == (True, True, False)
    # A third one that fails, too, makes it three.
    rig.fail(CAT)
    assert rig.is_open_for(DAN)


def test_a_success_between_failures_starts_the_count_anew() -> None:
    rig = Rig()
    for _ in range(5):
        rig.fail(ANN, times=MIN_CALLS - 1)
        rig.succeed(ANN)
    assert not rig.is_open_for(ANN)


def test_what_no_request_can_cause_opens_the_circuit_at_once_for_all() -> None:
    rig = Rig(failure_threshold=5)
    rig.fail(ANN, EngineUnavailable("connection refused"))
    assert {rig.wait_s(account) for account in (ANN, BOB)} == {10.0}
    rig.now_s += 10.0
    # It was nobody's fault, so anybody probes.
    assert rig.begin(ANN)
    assert rig.wait_s(BOB) == PROBE_WAIT_S


def test_each_failed_probe_doubles_the_cooldown_up_to_sixteen_times_and_a_success_resets_it() -> None:
    rig, cooldowns = Rig(), []
    rig.fail(ANN, EngineUnavailable("no"))
    for _ in range(6):
        cooldowns.append(round(rig.wait_s(ANN), 3))
        rig.now_s += rig.wait_s(ANN)
        rig.fail(ANN)
    assert cooldowns == [10.0, 20.0, 40.0, 80.0, 160.0, 160.0]
    rig.now_s += 160.0
    rig.succeed(ANN)
    assert (rig.breaker.is_closed, rig.wait_s(ANN)) == (True, 0)
    rig.fail(ANN, EngineUnavailable("no"))
    assert rig.wait_s(ANN) == 10.0


def test_a_probe_is_taken_from_an_account_that_did_not_cause_the_failures_if_one_asks() -> None:
    rig = Rig(failure_threshold=3)
    for account in (ANN, BOB, CAT):
        rig.fail(account)
    assert rig.is_open_for(DAN)
    rig.now_s += 10.0
    assert rig.wait_s(ANN) == pytest.approx(HEADSTART_S, abs=0.01)
    assert rig.begin(DAN)


@pytest.mark.parametrize("asks", [True, False])
def test_an_account_that_caused_the_failures_probes_if_no_other_does(asks: bool) -> None:
    rig = Rig(failure_threshold=3)
    for account in (ANN, BOB, CAT):
        rig.fail(account)
    assert not asks or rig.is_open_for(DAN)
    rig.now_s += 10.0
    if asks:
        assert rig.is_open_for(ANN)
        rig.now_s += HEADSTART_S
    assert rig.begin(ANN)


def test_a_cancelled_probe_is_followed_by_another() -> None:
    rig = Rig()
    rig.fail(ANN, EngineUnavailable("no"))
    rig.now_s += 10.0
    assert rig.begin(ANN)
    assert rig.wait_s(ANN) == PROBE_WAIT_S
    rig.breaker.on_cancel(is_probe=False)
    assert rig.wait_s(ANN) == PROBE_WAIT_S
    rig.breaker.on_cancel(is_probe=True)
    assert rig.wait_s(ANN) == 0


def test_requests_sent_before_the_circuit_opened_neither_close_nor_prolong_it() -> None:
    rig = Rig()
    early_s = rig.now_s
    rig.now_s += 1.0
    rig.fail(ANN, EngineUnavailable("no"))
    rig.now_s += 5.0
    rig.breaker.on_success(BOB, early_s, is_probe=False)
    rig.breaker.on_failure(EngineUnavailable("no"), MODEL, BOB, early_s, rig.now_s, is_probe=False)
    assert rig.wait_s(BOB) == pytest.approx(5.0)


@pytest.mark.parametrize(("retry_after_s", "wait_s"), [(None, 1.0), (30, 30.0), (86_400, MAX_RETRY_AFTER_S)])
def test_retry_after_applies_to_its_model_only_and_for_five_minutes_at_most(
    retry_after_s: int | None, wait_s: float
) -> None:
    rig = Rig(failure_threshold=3)
    rig.fail(ANN, EngineRateLimited("slow down", retry_after_s=retry_after_s, rests_model=True))
    assert (rig.wait_s(BOB), rig.wait_s(BOB, "other")) == (pytest.approx(wait_s), 0)
    assert rig.breaker.is_limited(MODEL, rig.now_s)
    rig.now_s += wait_s + 0.001
    assert rig.wait_s(ANN) == 0
    assert rig.breaker.is_closed


@pytest.mark.parametrize("error", [ClientLeft("gone"), EngineFull("full", retry_after_s=1), ContextExceeded("long"),
                                   EngineRefused("no"), EngineRateLimited("slow down", retry_after_s=5)])  # fmt: skip
def test_an_error_that_the_upstream_did_not_cause_never_opens_the_circuit(error: Exception) -> None:
    rig = Rig(failure_threshold=1)
    for account in range(1, 30):
        rig.fail(account, error)
    assert (rig.breaker.is_closed, rig.wait_s(ANN)) == (True, 0)


@pytest.mark.parametrize("error", [EngineError("500"), EngineUnavailable("refused")])
def test_a_threshold_of_zero_disables_the_breaker(error: Exception) -> None:
    rig = Rig(failure_threshold=0)
    for account in range(1, 30):
        rig.fail(account, error)
    assert rig.breaker.is_closed


def test_old_accounts_are_forgotten() -> None:
    rig = Rig()
    rig.fail(ANN)
    rig.now_s += WINDOW_S + 1
    rig.succeed(BOB)
    assert rig.breaker.failing == {}
    for account in range(MAX_ACCOUNTS + 1):
        rig.breaker.seen[account] = rig.now_s
    rig.breaker.forget_old(rig.now_s)
    assert len(rig.breaker.seen) == 0
