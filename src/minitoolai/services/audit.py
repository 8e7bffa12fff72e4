"""The invariants of the books, and the sweep that recovers what nobody renews."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set

from minitoolai.core.books import Recover, Settled
from minitoolai.core.clock import Clock
from minitoolai.core.errors import Overloaded, StoreError
from minitoolai.services.charging import LEASE_MS
from minitoolai.storage import audit, ledger
from minitoolai.storage.database import Database, Row
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 5.0
FOREVER_MS = 2**62


class Auditor:
    """Runs beside the server: recovers lost holds every few seconds, checks the books every minute."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        *,
        audit_every_s: float,
        sweep_every_s: float = SWEEP_EVERY_S,
        calm_s: float = LEASE_MS / 1000,
        in_flight: Callable[[], Set[int]] = frozenset,
    ) -> None:
        """`in_flight`: the holds that this process is working on. They are never recovered here."""
        self._database = database
        self._writer = writer
        self._clock = clock
        self._audit_every_s = audit_every_s
        self._sweep_every_s = sweep_every_s
        self._in_flight = in_flight
        # Nobody could renew while the database was away: who lives is given the time of a lease to do so.
        self._calm_s = calm_s if database.is_shared else 0.0
        self._trouble_s = clock.steady_s()
        self.broken: dict[str, list[Row]] = {}
        #: When the books were last checked, in UTC (0 before the first time) and by the steady clock.
        self.checked_ms = 0
        self.checked_s: float | None = None

    async def recover(self, *, all_of_them: bool = False) -> int:
        """Post the last checkpoint of every chat hold whose lease ended; how many there were.

        `all_of_them` is for the start of the only process on a database: no other can be renewing.
        """
        recovered = 0
        while True:
            now_ms = self._clock.now_ms()
            before_ms = FOREVER_MS if all_of_them else now_ms
            lost = await self._database.read_soon(ledger.pending_chat_holds, before_ms)
            if lost and not all_of_them:
                lost = await self._abandoned(lost)
            futures = [
                self._writer.submit(Recover(hold, account, now_ms, forced=all_of_them)) for hold, account in lost
            ]
            verdicts = await asyncio.gather(*(future for future in futures if future is not None))
            done = sum(isinstance(verdict, Settled) and not verdict.repeated for verdict in verdicts)
            recovered += done
            if not done:
                break
        if recovered:
            log.warning("recovered %d holds that nobody renewed; each was charged its last checkpoint", recovered)
        return recovered

    async def _abandoned(self, lost: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of these holds that no run of this process carries. After a pause all leases have expired."""
        try:
            # A hold may be written before its caller is woken: once the writer is through, it has its run.
            await self._writer.run(lambda _: None)
        except StoreError as error:
            raise Overloaded(f"the database cannot be written: {error}") from error
        carried = self._in_flight()
        return [(hold, account) for hold, account in lost if hold not in carried]

    async def check(self) -> dict[str, list[Row]]:
        """Every invariant on one snapshot; what breaks is logged as an alarm."""
        self.broken = await self._database.read_soon(audit.broken_invariants)
        self.checked_ms = self._clock.now_ms()
        self.checked_s = self._clock.steady_s()
        for name, rows in self.broken.items():
            log.critical("THE BOOKS ARE WRONG: %s: %s", name, rows)
        return self.broken

    async def run(self) -> None:
        """Sweep and check until cancelled; a sick database is logged and tried again."""
        next_check_s = 0.0
        while True:
            try:
                if self._is_calm():
                    await self.recover()
                if self._clock.steady_s() >= next_check_s:
                    next_check_s = self._clock.steady_s() + self._audit_every_s
                    await self.check()
            except Overloaded as error:
                self._trouble_s = self._clock.steady_s()
                log.warning("no sweep: %s", error)
            except Exception:
                self._trouble_s = self._clock.steady_s()
                log.exception("the sweep failed and will be tried again")
            await asyncio.sleep(self._sweep_every_s)

    def _is_calm(self) -> bool:
        since_s = min(self._writer.calm_s(), self._clock.steady_s() - self._trouble_s)
        return since_s >= self._calm_s
