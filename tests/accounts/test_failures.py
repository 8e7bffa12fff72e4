"""Networks of clients, and failed sign-ins that put their networks behind others."""

from __future__ import annotations

import pytest

from minitoolai.accounts.rate_limits import FAILURE_HALF_LIFE_S, Failures, Limit, Throttle, network_of, networks_of
from tests.support.books import FixedClock


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::1", "2001:db8:1:2::/64"),
        ("not an address" * 9, ("not an address" * 9)[:45]),
        ("", ""),
    ],
)
def test_a_client_is_counted_by_the_network_that_it_controls(address: str, network: str) -> None:
    assert network_of(address) == network


def test_the_networks_around_a_client() -> None:
    assert networks_of("192.0.2.7") == ("192.0.2.7", "192.0.2.0/24", "192.0.0.0/16")
    assert networks_of("2001:db8:1:2::7") == ("2001:db8:1:2::/64", "2001:db8:1::/48", "2001:db8::/32")


def test_who_failed_goes_after_who_did_not() -> None:
    failures = Failures(FixedClock())
    for n in range(200):
        failures.begin(f"203.0.113.{n}", f"victim{n % 3}@example.com")
        failures.begin(f"2001:db8::{n:x}", f"other{n}@example.com")
    assert failures.delay_s("198.51.100.1", "ann@example.com") == 0
    again, neighbour, victim = (
        failures.delay_s("203.0.113.7", "ann@example.com"),
        failures.delay_s("203.0.113.250", "ann@example.com"),
        failures.delay_s("198.51.100.1", "victim1@example.com"),
    )
    assert again > neighbour > 0
    assert victim > 0
    assert failures.delay_s("2001:db8::ffff", "ann@example.com") > 4
    assert failures.delay_s("2001:db9::1", "ann@example.com") == 0


def test_an_attempt_counts_until_it_succeeds() -> None:
    failures = Failures(FixedClock())
    burst = [failures.begin("192.0.2.7", "ann@example.com") for _ in range(5)]
    assert burst == sorted(burst)
    assert burst[0] == 0 < burst[1]
    for _ in burst:
        failures.succeed("192.0.2.7", "ann@example.com")
    assert failures.delay_s("192.0.2.7", "ann@example.com") == 0


def test_failures_are_forgotten_in_time() -> None:
    clock = FixedClock()
    failures = Failures(clock)
    failures.begin("192.0.2.7", "ann@example.com")
    first = failures.delay_s("192.0.2.7", "bob@example.com")
    clock.forward(FAILURE_HALF_LIFE_S)
    assert failures.delay_s("192.0.2.7", "bob@example.com") == pytest.approx(first / 2)


def test_memory_is_bounded_and_the_worst_are_kept() -> None:
    failures = Failures(FixedClock(), most_tracked=100)
    for _ in range(5):
        failures.begin("192.0.2.7", "ann@example.com")
    for n in range(500):
        failures.begin(f"10.{n % 256}.{n // 256}.1", f"{n}@example.com")
    assert len(failures._counts) <= 104
    assert failures.delay_s("192.0.2.7", "bob@example.com") > 2


def test_a_lock_is_not_lifted_by_filling_the_memory_with_others() -> None:
    throttle, limit = Throttle(FixedClock(), most_tracked=50), Limit(3, 900.0)
    for _ in range(3):
        assert throttle.wait_s("guess", limit) == 0
    assert throttle.wait_s("guess", limit) > 0
    for n in range(500):
        throttle.wait_s(f"other {n}", limit)
    assert throttle.wait_s("guess", limit) > 0
