"""What a key may spend: a day, a month and in all. Days and months are UTC.

Counted is what its holds promise and what was captured of those that ended, in the day and month in which they were
placed. The rule stands in services/ledger.py, so that no two requests can both have the last nano-dollar.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

Period = Literal["day", "month", "total"]
PERIODS: tuple[Period, ...] = ("day", "month", "total")


class Budget(msgspec.Struct, frozen=True):
    """The budget behind a key, in nano-dollars; None is no limit. Keys that follow one another share its `id`."""

    id: str
    day: int | None = None
    month: int | None = None
    total: int | None = None

    def limit(self, period: Period) -> int | None:
        """What may be spent in such a period."""
        return {"day": self.day, "month": self.month, "total": self.total}[period]


class Spending(msgspec.Struct):
    """What was promised or taken in one period."""

    used: int = 0
    dirty: bool = False


def period_ids(budget_id: str, now_ms: int) -> dict[Period, str]:
    """The name of each period that this moment lies in."""
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    return {
        "day": f"{budget_id}/{moment:%Y-%m-%d}",
        "month": f"{budget_id}/{moment:%Y-%m}",
        "total": f"{budget_id}/total",
    }
