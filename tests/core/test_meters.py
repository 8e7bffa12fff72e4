"""Counters and histograms behind /metrics."""

from __future__ import annotations

import pytest

from minitoolai.core.clock import first_id_at
from minitoolai.core.meters import FOLD_BATCH, Histogram, Meters
from minitoolai.core.models import Outcome

BEGAN_MS = 1_800_000_000_000


def test_a_value_falls_into_the_first_bucket_that_includes_it() -> None:
    histogram = Histogram(10, 20)
    for value in (0, 10, 11, 20, 21, 1000):
        histogram.add(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.total == 1062
    assert histogram.cumulative(0.001) == [("0.01", 2.0), ("0.02", 4.0), ("+Inf", 6.0)]


@pytest.mark.parametrize("times", [1, FOLD_BATCH - 1, FOLD_BATCH, 2 * FOLD_BATCH + 1])
def test_every_generation_is_counted_whenever_it_is_read(times: int) -> None:
    meters = Meters()
    outcome = Outcome("succeeded", input_units=3, output_units=5, cached_units=2, first_token_ms=40)
    for _ in range(times):
        meters.ended("chat", "m", first_id_at(BEGAN_MS), outcome, 7, BEGAN_MS + 90)
    totals = meters.outcomes["chat", "m", "succeeded", ""]
    assert (totals.count, totals.input, totals.output, totals.cached) == (times, 3 * times, 5 * times, 2 * times)
    assert totals.cost == 7 * times
    assert meters.first_token["chat"].total == 40 * times
    assert meters.duration["chat"].total == 90 * times
    assert meters.outcomes["chat", "m", "succeeded", ""].count == times


def test_outcomes_are_kept_apart_by_error_and_have_no_first_token_without_one() -> None:
    meters = Meters()
    meters.ended("chat", "m", first_id_at(BEGAN_MS), Outcome("failed", error_code="upstream_error"), 0, BEGAN_MS)
    meters.ended("chat", "m", first_id_at(BEGAN_MS), Outcome("cancelled"), 0, BEGAN_MS - 5)
    assert meters.outcomes.keys() == {("chat", "m", "failed", "upstream_error"), ("chat", "m", "cancelled", "")}
    assert sum(meters.first_token["chat"].counts) == 0
    # A clock that was set back makes no negative duration.
    assert (meters.duration["chat"].total, sum(meters.duration["chat"].counts)) == (0, 2)


def test_requests_and_failed_attempts_are_counted_by_name() -> None:
    meters = Meters()
    for path in ("/v1/chat/completions", "other", "other"):
        meters.request(path)
    meters.engine_failed("up", "upstream_error")
    meters.engine_failed("up", "upstream_error")
    assert meters.requests == {"/v1/chat/completions": 1, "other": 2}
    assert meters.failures == {("up", "upstream_error"): 2}
