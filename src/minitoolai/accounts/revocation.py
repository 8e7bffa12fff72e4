"""End the running responses of revoked keys, which start nothing new (`accounts/keys.py`)."""

from __future__ import annotations

import asyncio
import logging

from minitoolai.core.errors import AccessDenied, Overloaded, StoreError
from minitoolai.core.in_flight import InFlight
from minitoolai.storage import accounts
from minitoolai.storage.database import Database

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
                    log.warning("check for revoked keys failed, will retry: %s", error)
                is_failing = True

    async def check(self) -> int:
        """End every response of a revoked key with an error, charge the delivered part, and return their number."""
        holds = sorted(self._in_flight.holds())
        if not holds:
            return 0
        revoked = await self._database.read_async(accounts.holds_of_revoked_keys, holds)
        reason = AccessDenied("This API key has been revoked; what was delivered is charged.", code="invalid_api_key")
        stopped = self._in_flight.stop_holds(revoked, reason)
        if stopped:
            log.info("ended %d responses of revoked keys", stopped)
        return stopped
