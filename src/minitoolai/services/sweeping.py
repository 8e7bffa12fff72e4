"""What time makes worthless is deleted: Idempotency-Keys of more than a day, days and months of budgets long past."""

from __future__ import annotations

import asyncio
import logging

from minitoolai.core.clock import Clock
from minitoolai.core.errors import StoreError
from minitoolai.storage import budgets, idempotency
from minitoolai.storage.database import Connection
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

EVERY_S = 300.0


class RowSweeper:
    """Runs beside the server. Each transaction deletes a few rows, so that no hold waits long for it."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock

    async def run(self) -> None:
        """Sweep until cancelled; a sick database is tried again."""
        while True:
            try:
                while await self._writer.run(self._sweep):
                    await asyncio.sleep(0.1)
            except StoreError as error:
                log.warning("old rows were not swept, and will be: %s", error)
            await asyncio.sleep(EVERY_S)

    def _sweep(self, connection: Connection) -> int:
        now_ms = self._clock.now_ms()
        return idempotency.sweep(connection, now_ms) + budgets.sweep(connection, now_ms)
