"""Rate limits and throttles, to the exact unit, with a fixed clock."""

from __future__ import annotations

import pytest

from minitoolai.accounts.keys import KeyPolicy, check_model
from minitoolai.accounts.rate_limits import MAX_TRACKED, Limit, Limits, Throttle
from minitoolai.core.errors import AccessDenied, KeyForbids, RateLimited
from minitoolai.core.models import Caller, KeyRules, RateLimits
from tests.support.books import NOON_MS, FixedClock

ANN, BOB = Caller(1001, "k1"), Caller(1002, "k2")


def granted(limits: Limits, caller: Caller, times: int) -> int:
    return sum(limits.count(caller)[1] is None for _ in range(times))


def test_a_full_bucket_allows_a_burst_and_refills_continuously() -> None:
    clock = FixedClock()
    limits = Limits(clock, RateLimits(requests_per_minute=60))
    assert granted(limits, ANN, 100) == 60
    assert granted(limits, BOB, 100) == 60
    clock.forward(10)
    assert granted(limits, ANN, 100) == 10
    clock.forward(3600)
    assert granted(limits, ANN, 100) == 60


def test_a_refusal_names_the_exact_time_to_retry() -> None:
    clock = FixedClock()
    limits = Limits(clock, RateLimits(requests_per_minute=10))
    granted(limits, ANN, 10)
    refusal = limits.count(ANN)[1]
    assert isinstance(refusal, RateLimited)
    assert refusal.retry_after_s == 6
    clock.forward(5.9)
    assert granted(limits, ANN, 1) == 0
    clock.forward(0.1)
    assert granted(limits, ANN, 2) == 1


def test_the_headers_report_what_is_left_under_openais_names() -> None:
    clock = FixedClock()
    limits = Limits(clock, RateLimits(requests_per_minute=100, tokens_per_minute=6000))
    headers = dict(limits.count(ANN)[0])
    assert headers == {
        b"x-ratelimit-limit-requests": b"100",
        b"x-ratelimit-remaining-requests": b"99",
        b"x-ratelimit-reset-requests": b"600ms",
        b"x-ratelimit-limit-tokens": b"6000",
        b"x-ratelimit-remaining-tokens": b"6000",
        b"x-ratelimit-reset-tokens": b"0ms",
    }
    granted(limits, ANN, 98)
    assert dict(limits.count(ANN)[0])[b"x-ratelimit-reset-requests"] == b"1m0s"
    assert Limits(clock, RateLimits()).count(ANN) == ([], None)


def test_a_key_has_its_own_limit_beside_that_of_its_account() -> None:
    clock = FixedClock()
    limits = Limits(clock, RateLimits(requests_per_minute=10))
    narrow = Caller(1001, "k3", rules=KeyRules(rate=RateLimits(requests_per_minute=3)), rotation_group="k3")
    assert granted(limits, narrow, 5) == 3
    # What was refused by the key did not count for the account.
    assert granted(limits, ANN, 20) == 7


def test_tokens_and_dollars_are_reserved_before_the_work_and_corrected_after_it() -> None:
    clock = FixedClock()
    limits = Limits(clock, RateLimits(tokens_per_minute=1000, dollars_per_minute=10**9))
    first = limits.reserve(ANN, tokens=900, dollars=10**6)
    assert first is not None
    with pytest.raises(RateLimited, match="1000 tokens per minute"):
        limits.reserve(ANN, tokens=200, dollars=0)
    limits.release(first, tokens=100, dollars=10)
    second = limits.reserve(ANN, tokens=900, dollars=0)
    assert second is not None
    clock.forward(60)
    limits.release(second, tokens=0, dollars=0)
    with pytest.raises(RateLimited, match="1 dollars per minute"):  # noqa: PT012 - the last of three is the one
        for _ in range(3):
            limits.reserve(ANN, tokens=1, dollars=6 * 10**8)


def test_more_than_a_whole_minute_is_allowed_when_the_bucket_is_full() -> None:
    limits = Limits(FixedClock(), RateLimits(tokens_per_minute=100))
    assert limits.reserve(ANN, tokens=5000, dollars=0) is not None
    with pytest.raises(RateLimited):
        limits.reserve(ANN, tokens=1, dollars=0)


def test_requests_in_progress_are_counted_and_released() -> None:
    limits = Limits(FixedClock(), RateLimits(streams=2))
    one, two = (limits.reserve(ANN, tokens=0, dollars=0) for _ in range(2))
    with pytest.raises(RateLimited, match="2 requests in progress"):
        limits.reserve(ANN, tokens=0, dollars=0)
    assert limits.reserve(BOB, tokens=0, dollars=0) is not None
    assert one is not None
    limits.release(one, tokens=0, dollars=0)
    assert limits.reserve(ANN, tokens=0, dollars=0) is not None
    assert two is not None


def test_each_of_several_processes_has_its_share() -> None:
    limits = Limits(FixedClock(), RateLimits(requests_per_minute=100), processes=4)
    assert granted(limits, ANN, 100) == 25


def test_a_caller_without_limits_is_not_tracked() -> None:
    assert not Limits(FixedClock(), RateLimits(requests_per_minute=100)).applies_to(ANN)
    assert Limits(FixedClock(), RateLimits(streams=1)).applies_to(ANN)


# ── rules of keys ─────────────────────────────────────────────────────────────────────────────────────────


def key_policy(*trusted: str) -> KeyPolicy:
    clock = FixedClock()
    return KeyPolicy(clock, Limits(clock, RateLimits()), trusted_proxies=trusted)


def test_a_key_that_has_expired_is_a_401() -> None:
    for expires_ms in (NOON_MS, NOON_MS - 1):
        with pytest.raises(AccessDenied) as no:
            key_policy().check(Caller(1, "k", rules=KeyRules(expires_ms=expires_ms)), "", "")
        assert no.value.code == "key_expired"
    key_policy().check(Caller(1, "k", rules=KeyRules(expires_ms=NOON_MS + 1)), "", "")


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "is_allowed"),
    [
        ("192.0.2.7", "", (), True),
        ("::ffff:192.0.2.7", "", (), True),
        ("192.0.2.8", "", (), False),
        ("10.1.2.3", "", (), True),
        ("2001:db8::1", "", (), True),
        ("2001:db9::1", "", (), False),
        ("", "", (), False),
        # What a stranger says of himself is not believed; what our own proxy says is, to the last hop that is not ours.
        ("198.51.100.1", "192.0.2.7", (), False),
        ("198.51.100.1", "192.0.2.7", ("198.51.100.1",), True),
        ("198.51.100.1", "192.0.2.7, 203.0.113.9", ("198.51.100.1",), False),
        ("198.51.100.1", "203.0.113.9, 192.0.2.7, 198.51.100.2", ("198.51.100.0/24",), True),
        ("198.51.100.1", "", ("198.51.100.0/24",), False),
        ("198.51.100.1", "nonsense", ("198.51.100.0/24",), False),
    ],
)
def test_a_key_works_only_from_its_addresses(
    peer: str, forwarded: str, trusted: tuple[str, ...], is_allowed: bool
) -> None:
    caller = Caller(1, "k", rules=KeyRules(allow_ip=("192.0.2.7", "10.0.0.0/8", "2001:db8::/32")))
    if is_allowed:
        key_policy(*trusted).check(caller, peer, forwarded)
    else:
        with pytest.raises(KeyForbids) as no:
            key_policy(*trusted).check(caller, peer, forwarded)
        assert no.value.code == "address_not_allowed"


def test_a_key_works_only_for_its_models() -> None:
    caller = Caller(1, "k", rules=KeyRules(models=("gpt-4o",)))
    check_model(caller, "gpt-4o")
    check_model(Caller(1, "k"), "anything")
    with pytest.raises(KeyForbids, match="It may use: gpt-4o") as no:
        check_model(caller, "gpt-4.1")
    assert (no.value.code, no.value.param) == ("model_not_allowed", "model")


def test_idle_accounts_are_evicted_beyond_the_memory_and_busy_ones_are_not() -> None:
    clock = FixedClock()
    limits = Limits(clock, RateLimits(requests_per_minute=60, streams=1))
    busy = Caller(1, "k")
    limits.reserve(busy, tokens=0, dollars=0)
    for number in range(2, MAX_TRACKED + 1):
        limits.count(Caller(number, "k"))
    clock.forward(61)
    limits.count(Caller(MAX_TRACKED + 1, "k"))
    assert len(limits._accounts) == 2
    with pytest.raises(RateLimited):
        limits.reserve(busy, tokens=0, dollars=0)


@pytest.mark.parametrize(
    ("asked", "left", "reset"),
    [
        (1, b"999", b"60ms"),
        (2, b"998", b"120ms"),
        (10, b"990", b"600ms"),
        (50, b"950", b"3s"),
        (1000, b"0", b"1m0s"),
        (1001, b"0", b"1m0s"),
    ],
)
def test_the_headers_of_an_account_with_one_limit_are_exact(asked: int, left: bytes, reset: bytes) -> None:
    limits = Limits(FixedClock(), RateLimits(requests_per_minute=1000))
    for _ in range(asked):
        headers, refusal = limits.count(Caller(1, "k"))
    assert (refusal is None) == (asked <= 1000)
    assert dict(headers) == {
        b"x-ratelimit-limit-requests": b"1000",
        b"x-ratelimit-remaining-requests": left,
        b"x-ratelimit-reset-requests": reset,
    }


def attempts(throttle: Throttle, key: str, limit: Limit, times: int) -> int:
    """Return how many of these attempts are allowed."""
    return sum(throttle.wait_s(key, limit) == 0 for _ in range(times))


def test_attempts_are_allowed_in_a_burst_and_then_one_at_a_time() -> None:
    clock, limit = FixedClock(), Limit(5, 600.0)
    throttle = Throttle(clock)
    assert attempts(throttle, "ann", limit, 20) == 5
    assert throttle.wait_s("ann", limit) == 120
    assert attempts(throttle, "bob", limit, 20) == 5
    clock.forward(119)
    assert throttle.wait_s("ann", limit) == 1
    clock.forward(1)
    assert attempts(throttle, "ann", limit, 20) == 1
    clock.forward(600)
    assert attempts(throttle, "ann", limit, 20) == 5


def test_a_success_resets_the_attempts_of_its_key_only() -> None:
    throttle, limit = Throttle(FixedClock()), Limit(3, 60.0)
    assert attempts(throttle, "ann", limit, 9) == attempts(throttle, "bob", limit, 9) == 3
    throttle.reset("ann")
    assert (attempts(throttle, "ann", limit, 9), attempts(throttle, "bob", limit, 9)) == (3, 0)


def test_a_factor_multiplies_the_attempts() -> None:
    assert attempts(Throttle(FixedClock(), factor=4), "ann", Limit(3, 60.0), 50) == 12


def test_full_buckets_are_evicted_beyond_the_memory() -> None:
    clock, limit = FixedClock(), Limit(1, 60.0)
    throttle = Throttle(clock)
    for number in range(MAX_TRACKED - 1):
        throttle.wait_s(str(number), limit)
    clock.forward(60)
    throttle.wait_s("recent", limit)
    throttle.wait_s("one more", limit)
    assert len(throttle._buckets) == 2
    assert throttle.wait_s("recent", limit) == 60


def test_a_full_throttle_makes_room_and_keeps_half_of_the_buckets() -> None:
    throttle, limit = Throttle(FixedClock(), most_tracked=100), Limit(1, 60.0)
    for number in range(100):
        throttle.wait_s(str(number), limit)
    assert throttle.wait_s("0", limit) == 60
    throttle.wait_s("one more", limit)
    assert len(throttle._buckets) == 51
    assert "one more" in throttle._buckets


def test_the_headers_show_an_empty_bucket_as_zero_beside_a_limit_of_tokens() -> None:
    limits = Limits(FixedClock(), RateLimits(requests_per_minute=2, tokens_per_minute=6000))
    limits.reserve(ANN, tokens=6000, dollars=0)
    granted(limits, ANN, 2)
    headers, refusal = limits.count(ANN)
    assert refusal is not None
    left = {name: value for name, value in headers if b"remaining" in name}
    assert left == {b"x-ratelimit-remaining-requests": b"0", b"x-ratelimit-remaining-tokens": b"0"}
