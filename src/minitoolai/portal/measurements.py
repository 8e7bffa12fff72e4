"""Measured speed and uptime of the models, from the traffic of all customers together.

The pages that show them are public. So they are read at most once a minute, and nothing tells how much traffic there
is: a model with few requests has no figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.storage.database import Database
from minitoolai.storage.insight.traffic import Traffic, add_up, traffic_by_model_and_day

#: Days of a strip, and of the figures beside it.
DAYS, FIGURE_DAYS = 90, 30
#: Figures of fewer requests say little, and would tell who else is a customer.
MIN_REQUESTS = 20
MAX_AGE_MS = 60_000
#: Share of requests that did not fail → kind of the day, from the best.
UPTIME_KINDS = ((0.99, "fine"), (0.95, "worn"), (0.0, "failed"))


class Measured(msgspec.Struct, frozen=True):
    """Figures of one model or of several together. None: too few requests."""

    first_token_ms: int | None = None
    tokens_per_s: float | None = None
    duration_ms: int | None = None
    #: Share of requests that did not fail, from 0 to 1.
    uptime: float | None = None


class Strip(msgspec.Struct, frozen=True):
    """A row of days, the newest at the end, as SVG paths by kind: "fine", "worn", "failed" and "unknown"."""

    width: int
    paths: dict[str, str]


class Measurements:
    """Reads the sums of all models, and keeps them for a minute."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = asyncio.Lock()
        self._read_ms: int | None = None
        self._by_model: dict[str, dict[int, Traffic]] = {}

    @property
    def today(self) -> int:
        return self._clock.now_ms() // MS_PER_DAY

    async def by_model(self) -> Mapping[str, Mapping[int, Traffic]]:
        """Return the traffic by model and day."""
        async with self._lock:
            now_ms = self._clock.now_ms()
            if self._read_ms is None or not 0 <= now_ms - self._read_ms < MAX_AGE_MS:
                self._by_model = await self._database.read_async(traffic_by_model_and_day, self.today - DAYS + 1)
                self._read_ms = now_ms
            return self._by_model


def add_days(days: Mapping[int, Traffic], from_day: int) -> Traffic:
    """Return the sum of the days from this one."""
    return add_up(traffic for day, traffic in days.items() if day >= from_day)


def measured(traffic: Traffic) -> Measured:
    """Return the figures of this traffic."""

    return Measured(
        traffic.mean_first_ms if traffic.streamed >= MIN_REQUESTS else None,
        traffic.tokens_per_s if traffic.streamed >= MIN_REQUESTS else None,
        traffic.mean_ms if traffic.timed >= MIN_REQUESTS else None,
        traffic.uptime if traffic.requests >= MIN_REQUESTS else None,
    )


def strip_of(days: Mapping[int, Traffic], today: int, count: int) -> Strip:
    """Lay out the last `count` days: what share of the requests of each did not fail."""
    paths: dict[str, str] = {}
    for place, day in enumerate(range(today - count + 1, today + 1)):
        uptime = days[day].uptime if day in days else None
        kind = "unknown" if uptime is None else next(kind for share, kind in UPTIME_KINDS if uptime >= share)
        paths[kind] = paths.get(kind, "") + f"M{place * 4} 0h3v20h-3z"
    return Strip(count * 4 - 1, paths)
