"""Add up the traffic for the dashboards in the background, so that no request has to.

Any number of processes may run this task. Each piece of generations is added once, because the commit that adds it also
moves the place from which the next piece begins.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from minitoolai.core.clock import MS_PER_DAY, Clock, first_id_at
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.insight.traffic import add_piece, next_piece
from minitoolai.storage.tables.reports import oldest_pending_ms
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

COUNT_EVERY_S = 20.0
#: Count no younger generations: processes have different clocks, and insert rows a moment after they make the ID.
SETTLING_MS = 60_000
#: Wait this long for a generation to end. One that takes longer is counted as a request, without its cost and time.
MAX_PENDING_MS = MS_PER_DAY
#: Generations in one commit, and the pause after it.
PIECE = 500
PAUSE_S = 0.02


def countable_until_ms(connection: Connection, now_ms: int) -> int:
    """Return the time before which all generations have ended, or take very long."""
    pending_ms = oldest_pending_ms(connection)
    until_ms = now_ms - SETTLING_MS
    return until_ms if pending_ms is None else max(min(until_ms, pending_ms), now_ms - MAX_PENDING_MS)


class TrafficCounter:
    """Background task that keeps `traffic_days` up to date."""

    def __init__(self, database: Database, writer: Writer, clock: Clock) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        #: All generations that began before this time are counted. None: not known yet.
        self.counted_until_ms: int | None = None

    async def run(self) -> None:
        """Count until cancelled. Database errors are logged and retried."""
        while True:
            try:
                await self.count()
            except (StoreError, ServiceError) as error:
                log.warning("counting traffic failed, will retry: %s", error)
            await asyncio.sleep(COUNT_EVERY_S)

    async def count(self) -> None:
        """Count everything that has ended by now."""
        until_ms = await self._database.upkeep(countable_until_ms, self._clock.now_ms())
        while piece := await self._database.upkeep(next_piece, first_id_at(until_ms), PIECE):
            if not await self._writer.run(partial(add_piece, piece=piece)):
                # Another process counts.
                return
            await asyncio.sleep(PAUSE_S)
        self.counted_until_ms = until_ms
