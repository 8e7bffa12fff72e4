"""The customers with the highest revenue of a period, added up in the background.

The sums of thousands of customers over ninety days take longer than a page may. So the dashboard waits only a moment
for a new ranking, and otherwise shows the last one, with its time. What took long to add up is kept longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec

from minitoolai.core.clock import Clock
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.storage.database import Database
from minitoolai.storage.insight.traffic import ALL, Filter, Traffic, traffic_by

log = logging.getLogger(__name__)

#: Keep a ranking for this many times as long as adding it up took, and for a minute at most.
KEPT_FACTOR, MOST_KEPT_MS = 100, 60_000
#: A page waits so long for a new ranking.
PATIENCE_S = 0.02
#: Rankings that are kept: periods and filters that admins looked at last.
MOST_KEPT = 32
AddUp = Callable[..., Sequence[tuple[str | int, Traffic]]]


class Ranking(msgspec.Struct, frozen=True):
    """The customers with the highest revenue, and when they were added up."""

    at_ms: int
    took_ms: float
    lines: Sequence[tuple[str | int, Traffic]]

    def is_fresh(self, now_ms: int) -> bool:
        """Return True if it need not be added up again."""
        return now_ms - self.at_ms < min(MOST_KEPT_MS, self.took_ms * KEPT_FACTOR)


class CustomerRankings:
    """Rankings by period and filter, for the pages of this process."""

    def __init__(self, database: Database, clock: Clock, limit: int, add_up: AddUp = traffic_by) -> None:
        """`add_up` returns the ranking of a period from the database."""
        self._add_up_now = add_up
        self._database = database
        self._clock = clock
        self._limit = limit
        self._kept: dict[tuple[int, Filter], Ranking] = {}
        self._running: dict[tuple[int, Filter], asyncio.Task[None]] = {}

    async def top(self, from_day: int, only: Filter) -> Ranking | None:
        """Return the ranking since a day. None if there is none yet and the first one is not ready within a moment."""
        key = (from_day, only)
        ranking = self._kept.get(key)
        if ranking is None or not ranking.is_fresh(self._clock.now_ms()):
            task = self._running.get(key)
            if task is None:
                task = self._running[key] = asyncio.create_task(self._add_up(key))
                task.add_done_callback(lambda _: self._running.pop(key, None))
            await asyncio.wait([task], timeout=PATIENCE_S)
        return self._kept.get(key)

    async def _add_up(self, key: tuple[int, Filter]) -> None:
        at_ms, began_s = self._clock.now_ms(), self._clock.steady_s()
        try:
            lines = await self._database.report(ALL, self._add_up_now, "account_id", key[0], key[1], self._limit)
        except (ServiceError, StoreError) as error:
            log.warning("adding up the revenue of customers failed, will retry at the next view: %s", error)
            return
        self._kept.pop(key, None)
        self._kept[key] = Ranking(at_ms, (self._clock.steady_s() - began_s) * 1000, lines)
        for old in list(self._kept)[:-MOST_KEPT]:
            del self._kept[old]
