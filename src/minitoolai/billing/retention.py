"""Delete expired data: idempotency keys, stored responses, budget periods, image prompts, sessions and mail links.

The ledger and the usage records are never touched.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import msgspec

from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import ServiceError, SettingsError, StoreError
from minitoolai.ledger.types import IDEMPOTENCY_TTL_MS
from minitoolai.settings import Settings
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import idempotency, ledger, request_bodies, responses, retention
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 300.0
#: Pause between two transactions, so that holds are written first.
PAUSE_S = 0.1
BATCH = 200
MS_PER_HOUR = 3_600_000
#: Keep IDs of Stripe events for this long. Stripe retries an event for days, never for months.
EVENT_RETENTION_MS = 90 * MS_PER_DAY
#: A response may be stored this long after its key was claimed.
MAX_RESPONSE_DELAY_MS = MS_PER_HOUR


class RetentionPolicy(msgspec.Struct, frozen=True):
    """How long the operator keeps data outside the ledger."""

    #: Prompts of finished image jobs; 0 keeps them.
    prompt_days: float = 0.0
    #: Responses stored for an Idempotency-Key. The key itself lives for a day.
    response_hours: float = 24.0


class RetentionSweeper:
    """Background task that deletes expired rows, a few per transaction so that no hold waits long."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, policy: RetentionPolicy) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._policy = policy
        #: Responses of keys claimed up to this time have been handled.
        self._swept_until_ms = 0

    async def run(self) -> None:
        """Sweep until cancelled. Database errors are logged and retried."""
        while True:
            try:
                await self.sweep()
            except (StoreError, ServiceError) as error:
                log.warning("retention sweep failed, will retry: %s", error)
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> None:
        """Delete everything that has expired by now."""
        while await self._writer.run(self._sweep):
            await asyncio.sleep(PAUSE_S)
        await self._drop_responses()

    def _sweep(self, connection: Connection) -> int:
        now_ms = self._clock.now_ms()
        count = idempotency.delete_expired(connection, now_ms) + ledger.delete_old_periods(connection, now_ms)
        count += responses.delete_expired(connection, now_ms)
        count += request_bodies.delete_expired(connection, now_ms, BATCH)
        count += request_bodies.delete_unreadable(connection, BATCH)
        count += retention.delete_expired(connection, "sessions", now_ms, BATCH)
        count += retention.delete_expired(connection, "mail_links", now_ms, BATCH)
        count += retention.delete_expired(connection, "email_changes", now_ms, BATCH)
        count += retention.delete_expired(connection, "passkey_challenges", now_ms, BATCH)
        count += retention.delete_expired(connection, "factor_resets", now_ms, BATCH)
        count += retention.delete_expired(connection, "webhook_events", now_ms - EVENT_RETENTION_MS, BATCH)
        if self._policy.prompt_days:
            before_ms = now_ms - int(self._policy.prompt_days * MS_PER_DAY)
            count += retention.erase_prompts(connection, before_ms, BATCH)
        return count

    async def _drop_responses(self) -> None:
        """Drop expired responses.

        Reads from where the last sweep ended, because keys without a response are many.
        """
        if self._policy.response_hours * MS_PER_HOUR >= IDEMPOTENCY_TTL_MS:
            return
        until_ms = self._clock.now_ms() - int(self._policy.response_hours * MS_PER_HOUR)
        after_ms = self._swept_until_ms
        while keys := await self._database.upkeep(idempotency.rows_with_response, after_ms, until_ms):
            await self._writer.run(partial(idempotency.drop_responses, keys=keys))
            await asyncio.sleep(PAUSE_S)
            if len(keys) < idempotency.DELETE_BATCH:
                break
        self._swept_until_ms = max(after_ms, until_ms - MAX_RESPONSE_DELAY_MS)


def retention_policy(settings: Settings) -> RetentionPolicy:
    """Return how long data outside the ledger is kept. Raises SettingsError."""
    if settings.answer_retention_hours > 24:
        raise SettingsError(
            "MINITOOLAI_ANSWER_RETENTION_HOURS must be at most 24, because an Idempotency-Key expires after 24 hours"
        )
    return RetentionPolicy(settings.prompt_retention_days, settings.answer_retention_hours)
