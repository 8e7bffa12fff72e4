"""Periods and windows of plans at the ends of months, on leap days and across time zones: all of it is UTC."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.plans import WINDOW_KINDS, Windows, add_months, period_end, window_at, window_begin, window_id

HOUR_MS = 3_600_000


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("begins", "months", "ends"),
    [
        ("2026-01-31T10:00", 1, "2026-02-28T10:00"),
        ("2026-01-31T10:00", 2, "2026-03-31T10:00"),
        ("2028-01-31T10:00", 1, "2028-02-29T10:00"),
        ("2028-02-29T23:59:59", 12, "2029-02-28T23:59:59"),
        ("2028-02-29T23:59:59", 48, "2032-02-29T23:59:59"),
        ("2026-12-15T00:00", 1, "2027-01-15T00:00"),
        ("2026-12-31T00:00", 2, "2027-02-28T00:00"),
        ("2100-01-30T00:00", 1, "2100-02-28T00:00"),
    ],
)
def test_a_month_ends_on_the_same_day_or_on_the_last_one(begins: str, months: int, ends: str) -> None:
    assert add_months(ms(begins), months) == ms(ends)


def test_milliseconds_are_kept() -> None:
    assert add_months(ms("2026-05-31T10:00") + 7, 1) == ms("2026-06-30T10:00") + 7


@pytest.mark.parametrize(
    ("period", "ends"), [("week", "2028-03-07T12:00"), ("month", "2028-03-29T12:00"), ("year", "2029-02-28T12:00")]
)
def test_a_period_that_begins_on_a_leap_day_ends(period: str, ends: str) -> None:
    assert period_end(ms("2028-02-29T12:00"), period) == ms(ends)  # type: ignore[arg-type]


def test_windows_of_five_hours_and_of_a_week_follow_from_the_beginning() -> None:
    begins = ms("2026-03-28T22:30")
    for hours, number in ((0, 0), (4.999, 0), (5, 1), (49, 9)):
        window = window_at("5h", begins, begins + round(hours * HOUR_MS))
        assert (window.number, window.ends_ms) == (number, begins + (number + 1) * 5 * HOUR_MS)
    assert window_at("week", begins, begins + 7 * MS_PER_DAY - 1).number == 0
    assert window_at("week", begins, begins + 7 * MS_PER_DAY).ends_ms == begins + 14 * MS_PER_DAY


def test_windows_of_a_month_do_not_drift_after_a_short_one() -> None:
    begins = ms("2027-01-31T08:00")
    ends = [window_at("month", begins, ms(at)).ends_ms for at in ("2027-02-01", "2027-02-28T08:00", "2027-03-31T08:00")]
    assert ends == [ms("2027-02-28T08:00"), ms("2027-03-31T08:00"), ms("2027-04-30T08:00")]


@given(
    st.sampled_from(WINDOW_KINDS),
    st.integers(1_700_000_000_000, 4_000_000_000_000),
    st.integers(0, 6 * 366 * MS_PER_DAY),
)
def test_every_moment_is_in_exactly_one_window(kind: str, begins: int, since: int) -> None:
    now = begins + since
    window = window_at(kind, begins, now)  # type: ignore[arg-type]
    assert now < window.ends_ms
    following = window_at(kind, begins, window.ends_ms)  # type: ignore[arg-type]
    assert following.number == window.number + 1
    assert window_at(kind, begins, window.ends_ms - 1) == window  # type: ignore[arg-type]
    assert window_begin(window, begins) <= now
    assert window_begin(following, begins) == window.ends_ms


def test_a_time_before_the_beginning_counts_for_the_first_window() -> None:
    assert window_at("5h", 10**12, 10**12 - 5).number == 0


def test_limits_are_named_only_where_there_are_some() -> None:
    assert Windows(week=5).limits() == (("week", 5),)
    assert window_id(7, window_at("week", 0, 0)) == "7/week/0"


@pytest.fixture(params=["America/St_Johns", "Pacific/Apia", "Asia/Kathmandu"])
def zone(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_the_time_zone_of_the_machine_changes_nothing() -> None:
    assert add_months(ms("2026-03-31T01:30"), 1) == ms("2026-04-30T01:30")
    assert window_at("month", ms("2026-03-29T01:30"), ms("2026-04-29T01:30")).number == 1
