"""Periods of plans and their windows: pure arithmetic of times in UTC.

A plan gives credit for a period, and may limit how much of it is spent in each *window*: 5 hours, a week or a month.
Windows follow each other without gaps from the moment the period begins, whether they are used or not. A month ends on
the same day and time of the next month, or on its last day if it has no such day: a plan that begins on January 31
has windows that end on February 28 (29 in a leap year) and on March 31, because each end is counted from the beginning.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import msgspec

from minitoolai.core.clock import MS_PER_DAY

WindowKind = Literal["5h", "week", "month"]
WINDOW_KINDS: tuple[WindowKind, ...] = ("5h", "week", "month")
PeriodKind = Literal["week", "month", "year"]
_LENGTHS_MS: dict[str, int] = {"5h": 5 * 3_600_000, "week": 7 * MS_PER_DAY}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Windows(msgspec.Struct, frozen=True):
    """The most that may be spent in one window of each kind, in nano-dollars. None is no limit."""

    five_hours: int | None = None
    week: int | None = None
    month: int | None = None

    def limits(self) -> tuple[tuple[WindowKind, int], ...]:
        """Return the kinds that have a limit, each with it."""
        given: tuple[tuple[WindowKind, int | None], ...] = (
            ("5h", self.five_hours),
            ("week", self.week),
            ("month", self.month),
        )
        return tuple((kind, limit) for kind, limit in given if limit is not None)


class PlanWindow(NamedTuple):
    """One window: its number since the period began, from 0, and when it ends."""

    kind: WindowKind
    number: int
    ends_ms: int


def add_months(begins_ms: int, months: int) -> int:
    """Return the same day and time that many months later (UTC), or the last day of that month if it is shorter."""
    seconds, rest_ms = divmod(begins_ms, 1000)
    begins = _EPOCH + timedelta(seconds=seconds)
    year, month = divmod(begins.year * 12 + begins.month - 1 + months, 12)
    day = min(begins.day, calendar.monthrange(year, month + 1)[1])
    moved = begins.replace(year=year, month=month + 1, day=day)
    return int((moved - _EPOCH) / timedelta(seconds=1)) * 1000 + rest_ms


def period_end(begins_ms: int, period: PeriodKind) -> int:
    """Return when a period that begins at this time ends."""
    if period == "week":
        return begins_ms + _LENGTHS_MS["week"]
    return add_months(begins_ms, 12 if period == "year" else 1)


def window_at(kind: WindowKind, begins_ms: int, now_ms: int) -> PlanWindow:
    """Return the window of this kind that contains a time. Times before the beginning count for the first one."""
    since_ms = max(now_ms - begins_ms, 0)
    if kind != "month":
        length_ms = _LENGTHS_MS[kind]
        number = since_ms // length_ms
        return PlanWindow(kind, number, begins_ms + (number + 1) * length_ms)
    # No month is longer than 31 days, so the estimate is never too high.
    number = since_ms // (31 * MS_PER_DAY)
    while (ends_ms := add_months(begins_ms, number + 1)) <= now_ms:
        number += 1
    return PlanWindow(kind, number, ends_ms)


def window_begin(window: PlanWindow, begins_ms: int) -> int:
    """Return when a window of a period that began at this time begins."""
    if window.kind == "month":
        return add_months(begins_ms, window.number)
    return begins_ms + window.number * _LENGTHS_MS[window.kind]


def window_id(purse_id: int, window: PlanWindow) -> str:
    """Return the row ID of a window of a purse."""
    return f"{purse_id}/{window.kind}/{window.number}"
