"""Counters and histograms behind /metrics."""

from __future__ import annotations

import asyncio

import pytest

from minitoolai.core.clock import first_id_at
from minitoolai.core.errors import StoreError
from minitoolai.core.models import Outcome
from minitoolai.core.telemetry.meters import FOLD_BATCH, Histogram, Meters
from minitoolai.ledger.types import Requeued, Result, Settled, UnknownAccountOrHold

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
    meters.engine_failed("up", "upstream_error", 7)
    meters.engine_failed("up", "upstream_error", 7)
    assert meters.requests == {"/v1/chat/completions": 1, "other": 2}
    assert meters.failures == {("up", "upstream_error"): 2}


def ended(charge: asyncio.Future[Result], cost: int = 7) -> Meters:
    """Return meters with one generation whose charge is still open."""
    meters, outcome = Meters(), Outcome("succeeded", output_units=5)
    meters.ended("chat", "m", first_id_at(BEGAN_MS), outcome, cost, BEGAN_MS, charge, engine="up")
    assert meters.outcomes == {}
    return meters


@pytest.mark.parametrize(
    "result",
    [
        # Another process recovered the hold, and counts the generation at what it was charged.
        Settled(3, repeated=True, differs=True),
        Settled(7, repeated=True),
        UnknownAccountOrHold(),
        Requeued(1),
        StoreError("the disk is gone"),
    ],
)
def test_a_charge_that_changed_nothing_is_not_counted(result: Result | Exception) -> None:
    async def work() -> None:
        charge = asyncio.get_running_loop().create_future()
        meters = ended(charge)
        if isinstance(result, Exception):
            charge.set_exception(result)
        else:
            charge.set_result(result)
        assert meters.outcomes == {}
        assert meters.engine_results == {}

    asyncio.run(work())


def test_a_charge_counts_at_the_cost_in_the_ledger() -> None:
    async def work() -> None:
        charge = asyncio.get_running_loop().create_future()
        # The hold covers 4 of the 7; the rest is a shortfall, which the customer does not pay.
        meters = ended(charge)
        charge.set_result(Settled(4, shortfall=3))
        ((key, totals),) = meters.outcomes.items()
        assert (key, totals.cost, totals.count, totals.output) == (("chat", "m", "succeeded", ""), 4, 1, 5)
        assert meters.engine_results == {("up", "m", "succeeded"): 1}

    asyncio.run(work())


@pytest.mark.parametrize(("result", "cost"), [(Settled(7), 7), (Settled(3, repeated=True, differs=True), None)])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_charge_that_nobody_waits_for_any_more_counts_once_it_is_written(
    result: Settled, cost: int | None, *, is_cancelled: bool
) -> None:
    async def work() -> None:
        charge = asyncio.get_running_loop().create_future()
        meters = ended(charge)
        if is_cancelled:
            charge.cancel()
        else:
            charge.set_exception(TimeoutError("it is written later"))
        assert meters.outcomes == {}
        for _ in range(2):
            meters.settled_late(first_id_at(BEGAN_MS), result)
        assert [totals.cost for totals in meters.outcomes.values()] == ([] if cost is None else [cost])

    asyncio.run(work())


def test_requests_are_counted_by_engine_and_result() -> None:
    meters, number = Meters(), first_id_at(BEGAN_MS)
    failed = Outcome("failed", error_code="upstream_error")
    meters.ended("chat", "m", number, failed, 0, BEGAN_MS, engine="up")
    meters.ended("chat", "m", number, failed, 0, BEGAN_MS, engine="up", is_fault=False)
    meters.ended("chat", "m", number, Outcome("cancelled"), 0, BEGAN_MS, engine="up")
    # A fallback served it.
    meters.ended("chat", "m", number, Outcome("succeeded", engine="second"), 0, BEGAN_MS, engine="up")
    meters.refused("up", "m")
    results = {("up", "m", result): 1 for result in ("failed", "invalid", "cancelled", "refused")}
    assert meters.engine_results == results | {("second", "m", "succeeded"): 1}


def test_the_duration_of_a_job_starts_with_its_row() -> None:
    meters = Meters()
    # The ID of a job is a random number.
    meters.ended("image", "m", 12, Outcome("succeeded"), 7, BEGAN_MS + 400, began_ms=BEGAN_MS)
    assert meters.duration["image"].total == 400


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
