"""End the running responses of revoked keys and suspended accounts, which start nothing new (`accounts/keys.py`)."""

from __future__ import annotations

import asyncio
import logging

from minitoolai.accounts.keys import barred_error
from minitoolai.core.errors import Overloaded, StoreError
from minitoolai.core.in_flight import InFlight
from minitoolai.storage.database import Database
from minitoolai.storage.tables import accounts

log = logging.getLogger(__name__)
#: Look this often, so that a response ends within a second of the revocation.
CHECK_EVERY_S = 0.4


class RevocationWatch:
    """Background task that asks for the keys of the responses in flight, in one query for all of them."""

    def __init__(self, database: Database, in_flight: InFlight) -> None:
        self._database = database
        self._in_flight = in_flight

    async def run(self) -> None:
        """Check until cancelled. Database errors are logged once per outage, and retried."""
        is_failing = False
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            try:
                await self.check()
                is_failing = False
            except (Overloaded, StoreError) as error:
                if not is_failing:
                    log.warning("check for revoked keys and suspended accounts failed, will retry: %s", error)
                is_failing = True

    async def check(self) -> int:
        """End the responses of revoked keys and suspended accounts, and return their number.

        Each ends with an error, and the delivered part is charged.
        """
        holds = sorted(self._in_flight.holds())
        if not holds:
            return 0
        barred = await self._database.read_async(accounts.barred_holds, holds)
        stopped = 0
        for is_suspended in (False, True):
            those = [hold_id for hold_id, suspended in barred.items() if suspended is is_suspended]
            stopped += self._in_flight.stop_holds(those, barred_error(is_suspended, "the delivered part is charged"))
        if stopped:
            log.info("ended %d responses of revoked keys or suspended accounts", stopped)
        return stopped
