"""What time makes worthless is forgotten: old Idempotency-Keys and their answers, budgets' days, words of pictures,
sessions. The books and what was used are never touched.
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
from minitoolai.storage import idempotency, ledger, retention
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

EVERY_S = 300.0
#: Between two transactions: holds go first.
PAUSE_S = 0.1
BATCH = 200
MS_PER_HOUR = 3_600_000
#: Stripe sends an event again for days, never for months.
EVENTS_KEPT_MS = 90 * MS_PER_DAY
#: An answer may be written down this long after its key was claimed.
LONGEST_ANSWER_MS = MS_PER_HOUR


class RetentionPolicy(msgspec.Struct, frozen=True):
    """For how long the operator keeps what is not the books."""

    #: Words of pictures that are over; 0 keeps them.
    words_days: float = 0.0
    #: Answers under an Idempotency-Key; the key itself lives for a day.
    answers_hours: float = 24.0


class RetentionSweeper:
    """Runs beside the server. Each transaction changes a few rows, so that no hold waits long for it."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, kept: RetentionPolicy) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._kept = kept
        #: Answers under keys up to this moment have been looked at.
        self._looked_ms = 0

    async def run(self) -> None:
        """Sweep until cancelled; a sick database is tried again."""
        while True:
            try:
                await self.sweep()
            except (StoreError, ServiceError) as error:
                log.warning("old rows were not swept, and will be: %s", error)
            await asyncio.sleep(EVERY_S)

    async def sweep(self) -> None:
        """Once, to the end of what is old by now."""
        while await self._writer.run(self._sweep):
            await asyncio.sleep(PAUSE_S)
        await self._drop_answers()

    def _sweep(self, connection: Connection) -> int:
        now_ms = self._clock.now_ms()
        count = idempotency.delete_expired(connection, now_ms) + ledger.delete_old_periods(connection, now_ms)
        count += retention.delete_expired(connection, "sessions", now_ms, BATCH)
        count += retention.delete_expired(connection, "mail_links", now_ms, BATCH)
        count += retention.delete_expired(connection, "webhook_events", now_ms - EVENTS_KEPT_MS, BATCH)
        if self._kept.words_days:
            before_ms = now_ms - int(self._kept.words_days * MS_PER_DAY)
            count += retention.erase_prompts(connection, before_ms, BATCH)
        return count

    async def _drop_answers(self) -> None:
        """Looked for by a reader, from where the last look ended: keys without answers are many."""
        if self._kept.answers_hours * MS_PER_HOUR >= IDEMPOTENCY_TTL_MS:
            return
        until_ms = self._clock.now_ms() - int(self._kept.answers_hours * MS_PER_HOUR)
        after_ms = self._looked_ms
        while found := await self._database.read_async(idempotency.rows_with_response, after_ms, until_ms):
            await self._writer.run(partial(idempotency.drop_responses, keys=found))
            await asyncio.sleep(PAUSE_S)
            if len(found) < idempotency.DELETE_BATCH:
                break
        self._looked_ms = max(after_ms, until_ms - LONGEST_ANSWER_MS)


def retention_policy(settings: Settings) -> RetentionPolicy:
    """Return how long data outside the ledger is kept. Raises SettingsError."""
    if settings.answer_retention_hours > 24:
        raise SettingsError(
            "MINITOOLAI_ANSWER_RETENTION_HOURS is wrong: an Idempotency-Key lives for 24 hours, its most"
        )
    return RetentionPolicy(settings.prompt_retention_days, settings.answer_retention_hours)
