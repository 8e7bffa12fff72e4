"""Counters and histograms behind /metrics."""

from __future__ import annotations

import asyncio

import pytest

from minitoolai.core.clock import first_id_at
from minitoolai.core.errors import StoreError
from minitoolai.core.meters import FOLD_BATCH, Histogram, Meters
from minitoolai.core.models import Outcome
from minitoolai.ledger.types import Result, Settled, UnknownAccountOrHold

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


@pytest.mark.parametrize(
    ("result", "state", "cost"),
    [
        (Settled(7), "succeeded", 7),
        (Settled(7, repeated=True), "succeeded", 7),
        (Settled(3, repeated=True, differs=True), "failed", 3),
        (UnknownAccountOrHold(), "failed", 0),
        (StoreError("the disk is gone"), "failed", 0),
        (TimeoutError("it is written later"), "succeeded", 7),
    ],
)
def test_a_charge_counts_as_the_ledger_has_it(result: Result | Exception, state: str, cost: int) -> None:
    async def work() -> None:
        meters, charge = Meters(), asyncio.get_running_loop().create_future()
        meters.ended("chat", "m", first_id_at(BEGAN_MS), Outcome("succeeded", output_units=5), 7, BEGAN_MS, charge)
        assert meters.outcomes == {}
        if isinstance(result, Exception):
            charge.set_exception(result)
        else:
            charge.set_result(result)
        ((key, totals),) = meters.outcomes.items()
        assert (key[2], totals.cost, totals.count) == (state, cost, 1)
        assert totals.output == (5 if state == "succeeded" else 0)

    asyncio.run(work())


def test_charges_that_wait_for_the_database_are_not_looked_through_each_time() -> None:
    async def work() -> None:
        meters, loop = Meters(), asyncio.get_running_loop()
        charges = [loop.create_future() for _ in range(3 * FOLD_BATCH)]
        for charge in charges:
            meters.ended("chat", "m", first_id_at(BEGAN_MS), Outcome("succeeded"), 7, BEGAN_MS, charge)
        assert meters._fold_at >= 3 * FOLD_BATCH
        for charge in charges:
            charge.set_result(Settled(7))
        assert meters.outcomes["chat", "m", "succeeded", ""].cost == 7 * 3 * FOLD_BATCH

    asyncio.run(work())


def test_reports_that_were_not_believed_and_shortfalls_are_counted_by_engine() -> None:
    meters = Meters()
    assert [meters.disbelieved("up", "output_zero") for _ in range(3)] == [1, 2, 3]
    meters.disbelieved("other", "prompt_high")
    assert meters.doubts == {("up", "output_zero"): 3, ("other", "prompt_high"): 1}
    meters.fell_short("up", 7)
    meters.fell_short("up", 3)
    assert meters.shortfalls == {"up": 10}
