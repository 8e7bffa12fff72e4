"""Budgets, key rules, balances and payments."""

from __future__ import annotations

import msgspec
import pytest

from minitoolai.core.models import UNRESTRICTED, Balance, Budget, KeyRules, Payment, RateLimits, period_ids


def test_a_moment_lies_in_one_day_one_month_and_the_total() -> None:
    assert period_ids("k1", 1_800_000_000_000) == {"day": "k1/2027-01-15", "month": "k1/2027-01", "total": "k1/total"}
    assert period_ids("k1", 1_799_971_199_999)["day"] == "k1/2027-01-14"


def test_a_budget_has_a_limit_for_each_period() -> None:
    budget = Budget("k1", day=1, month=2, total=3)
    assert [budget.limit(period) for period in ("day", "month", "total")] == [1, 2, 3]
    assert Budget("k1").limit("day") is None


def test_a_key_without_limits_has_no_budget() -> None:
    assert UNRESTRICTED.budget("k1") is None
    assert KeyRules(budget_total=0).budget("k1") == Budget("k1", total=0)
    assert KeyRules(budget_daily=5, budget_monthly=6).budget("k1") == Budget("k1", 5, 6, None)


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("198.51.100.200", True),
        ("::ffff:192.0.2.7", True),
        ("::ffff:192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("not an address", False),
        ("", False),
    ],
)
def test_a_key_is_usable_from_its_networks_only(address: str, is_allowed: bool) -> None:
    rules = KeyRules(allow_ip=("192.0.2.7", "198.51.100.0/24", "2001:db8::/32"))
    assert rules.allows_address(address) is is_allowed
    assert UNRESTRICTED.allows_address(address)


def test_only_what_differs_from_the_default_is_written() -> None:
    rules = KeyRules(budget_daily=5, rate=RateLimits(streams=2))
    assert msgspec.json.encode(rules) == b'{"budget_daily":5,"rate":{"streams":2}}'
    assert msgspec.json.decode(msgspec.json.encode(rules), type=KeyRules) == rules


def test_available_is_posted_less_held() -> None:
    assert Balance(posted=10, held=4).available == 6


@pytest.mark.parametrize(
    ("paid", "reversed_", "moved", "owed"), [(500, 0, 500, 0), (500, 500, 500, 500), (500, 200, 0, 0)]
)
def test_a_reversal_after_the_money_was_spent_is_owed(paid: int, reversed_: int, moved: int, owed: int) -> None:
    payment = Payment(1, 1000, "stripe", None, None, 500, paid, reversed_, moved, 1, 1, "paid", 0, 0)
    assert payment.owed == owed
