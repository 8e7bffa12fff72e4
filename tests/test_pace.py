"""Test the limits of tests that measure time: they grow with the slowness of the machine, and end somewhere."""

from __future__ import annotations

from tests.support.pace import MOST, TimeLimit, slowness


def test_a_machine_is_at_least_as_slow_as_the_one_of_the_limits_and_at_most_three_times() -> None:
    assert 1.0 <= slowness() <= MOST == 3.0


def test_a_limit_permits_what_the_machine_of_the_limits_needs_and_never_more_than_three_times_that() -> None:
    limit = TimeLimit(50.0)
    assert limit.permits(50.0)
    assert not limit.permits(150.1)


def test_a_limit_that_is_exceeded_measures_the_machine_again_and_says_both_figures() -> None:
    limit = TimeLimit(50.0)
    limit.slowness = 0.1
    assert limit.permits(49.9)
    assert 1.0 <= limit.slowness <= MOST
    limit.slowness = 2.0
    assert str(limit) == "100 ms allowed: 50 on a machine 2.00 times as fast"
