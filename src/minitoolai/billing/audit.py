"""Check the ledger's invariants, and recover holds with an expired lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set
from functools import partial

from minitoolai.billing.audit_days import next_closable, read_day
from minitoolai.billing.audit_position import AuditPosition, check_from
from minitoolai.billing.charging import LEASE_MS
from minitoolai.core.clock import MS_PER_DAY, Clock, date_of
from minitoolai.core.errors import Overloaded, SettingsError, StoreError
from minitoolai.core.money import parse_dollars
from minitoolai.core.telemetry.meters import INTERRUPTED, Meters
from minitoolai.ledger.types import Recover, Settled
from minitoolai.settings import Settings
from minitoolai.storage.database import Database, Row
from minitoolai.storage.tables import ledger
from minitoolai.storage.tables.audit import insert_closed
from minitoolai.storage.tables.ledger import ExpiredHold
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 5.0
FOREVER_MS = 2**62
#: Check all open days again this often: a row that was changed by hand after its check is found then.
FRESH_EVERY_S = 3600.0


class Auditor:
    """Background task of the server: recovers expired holds every few seconds and audits the ledger every minute."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        *,
        audit_every_s: float,
        sweep_every_s: float = SWEEP_EVERY_S,
        healthy_for_s: float = LEASE_MS / 1000,
        in_flight: Callable[[], Set[int]] = frozenset,
        max_shortfall: int | None = None,
        meters: Meters | None = None,
    ) -> None:
        """Store the collaborators.

        `in_flight` returns the holds this process works on, which are never recovered here. `max_shortfall` is the
        cost beyond its holds, in nano-dollars, that an engine may cause in a day without an alert.
        """
        self._max_shortfall = max_shortfall
        self._meters = meters or Meters()
        self._database = database
        self._writer = writer
        self._clock = clock
        self._audit_every_s = audit_every_s
        self._sweep_every_s = sweep_every_s
        self._in_flight = in_flight
        # No lease could be renewed during a database outage. Give every process one lease time to catch up.
        self._required_healthy_s = healthy_for_s if database.is_shared else 0.0
        self._failed_s = clock.steady_s()
        self._position = AuditPosition()
        self._fresh_s = 0.0
        self.broken: dict[str, list[Row]] = {}
        #: When the ledger was last audited: in UTC (0 if never) and by the steady clock.
        self.checked_ms = 0
        self.checked_s: float | None = None

    async def recover(self, *, force: bool = False) -> int:
        """Settle every chat hold with an expired lease at its last checkpoint, and return their number.

        Use `force` at the start of the only process on a database: no other process can be renewing leases.
        """
        recovered = 0
        if self._database.is_shared and not force:
            await self._database.read_async(self._database.sync_time)
        while True:
            now_ms, lease_now_ms = self._clock.now_ms(), self._clock.lease_ms()
            before_ms = FOREVER_MS if force else lease_now_ms
            expired = await self._database.read_async(ledger.expired_chat_holds, before_ms)
            if expired and not force:
                expired = await self._not_in_flight(expired)
            futures = [
                self._writer.submit(Recover(hold.id, hold.account_id, now_ms, force, lease_now_ms)) for hold in expired
            ]
            for hold, future in zip(expired, futures, strict=True):
                self._meters.ended(hold.kind, hold.model, hold.id, INTERRUPTED, 0, now_ms, future, engine=hold.engine)
            results = await asyncio.gather(*(future for future in futures if future is not None))
            done = sum(isinstance(result, Settled) and not result.repeated for result in results)
            recovered += done
            if not done:
                break
        if recovered:
            log.warning("recovered %d holds with expired leases; each was charged its last checkpoint", recovered)
        return recovered

    async def _not_in_flight(self, expired: list[ExpiredHold]) -> list[ExpiredHold]:
        """Return those of these holds that no run of this process owns. After a pause, all leases have expired."""
        try:
            # A hold may be committed before its caller resumes. Once the writer is flushed, its run is registered.
            await self._writer.run(lambda _: None)
        except StoreError as error:
            raise Overloaded(f"The database cannot be written: {error}") from error
        in_flight = self._in_flight()
        return [hold for hold in expired if hold.id not in in_flight]

    async def check(self) -> dict[str, list[Row]]:
        """Check new rows and all balances, and log violations as critical. Check all open days every hour."""
        if self._clock.steady_s() >= self._fresh_s:
            self._position = AuditPosition()
            self._fresh_s = self._clock.steady_s() + FRESH_EVERY_S
        now_ms = self._clock.now_ms()
        self._position, broken = await self._database.upkeep(partial(check_from, self._position, now_ms=now_ms))
        if self._max_shortfall is not None:
            since_ms = self._clock.now_ms() - MS_PER_DAY
            rows = await self._database.upkeep(ledger.excess_shortfalls, since_ms, self._max_shortfall)
            broken |= {ledger.SHORTFALL_LIMIT: rows} if rows else {}
        self.broken = broken
        self.checked_ms = self._clock.now_ms()
        self.checked_s = self._clock.steady_s()
        for name, rows in self.broken.items():
            log.critical("LEDGER INVARIANT VIOLATED: %s: %s", name, rows)
        return self.broken

    async def close_days(self) -> int:
        """Close every day that can be, oldest first, and return how many. A day that is not in order stays open."""
        count = 0
        while (following := await self._database.upkeep(next_closable, self._clock.now_ms())) is not None:
            day, before = following
            reader = await self._database.upkeep(partial(read_day, pause=True), day)
            if reader.wrong or reader.different:
                log.critical("day %s is not closed: %s", date_of(day), (reader.wrong + reader.different)[:10])
                break
            closed, now_ms = reader.closed(before), self._clock.now_ms()
            await self._writer.run(partial(insert_closed, closed=closed, budgets=reader.budgets, now_ms=now_ms))
            count += 1
        return count

    async def _close_days_forever(self) -> None:
        while True:
            try:
                await self.close_days()
            except Exception:
                log.exception("closing a day failed, will retry")
            await asyncio.sleep(self._audit_every_s)

    async def run(self) -> None:
        """Recover, audit and close days until cancelled. Database errors are logged and retried."""
        closing = asyncio.create_task(self._close_days_forever())
        try:
            await self._recover_and_check()
        finally:
            closing.cancel()

    async def _recover_and_check(self) -> None:
        next_check_s = 0.0
        while True:
            try:
                if self._is_healthy():
                    await self.recover()
                if self._clock.steady_s() >= next_check_s:
                    next_check_s = self._clock.steady_s() + self._audit_every_s
                    await self.check()
            except Overloaded as error:
                self._failed_s = self._clock.steady_s()
                log.warning("hold recovery skipped, will retry: %s", error)
            except Exception:
                self._failed_s = self._clock.steady_s()
                log.exception("hold recovery or audit failed, will retry")
            await asyncio.sleep(self._sweep_every_s)

    def _is_healthy(self) -> bool:
        since_s = min(self._writer.healthy_for_s(), self._clock.steady_s() - self._failed_s)
        return since_s >= self._required_healthy_s


def shortfall_limit(settings: Settings) -> int | None:
    """Return MINITOOLAI_MAX_SHORTFALL in nano-dollars, None if there is no limit. Raises SettingsError."""
    if not settings.max_shortfall:
        return None
    try:
        return parse_dollars(settings.max_shortfall)
    except ValueError as error:
        raise SettingsError(f"MINITOOLAI_MAX_SHORTFALL is wrong: {error}") from error
