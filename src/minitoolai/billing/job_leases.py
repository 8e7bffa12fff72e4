"""Leases of queued work: renew those of running attempts, requeue jobs with an expired one, fail what waits too long.

Image jobs and background responses share this. Their rows are generations; a job ends only through the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from minitoolai.accounts.keys import barred_outcome
from minitoolai.core.clock import MS_PER_DAY, Clock, generation_name
from minitoolai.core.models import Kind, Outcome
from minitoolai.core.telemetry.meters import Meters
from minitoolai.ledger.types import Requeue, Requeued, Result, Settle, Settled
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import jobs
from minitoolai.storage.tables.jobs import LeaseRenewal, StaleJob
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

LEASE_MS = 20_000
RENEW_EVERY_S = 4.0
SWEEP_EVERY_S = 5.0
MAX_FAILURES = 3
#: So many attempts in a row may be lost with their workers before the job fails: it may be what ends them. More than
#: failures, because a machine that loses its power is not the job's fault.
MAX_LOSSES = 6
#: Fail jobs that have waited this long without a worker that can run them.
MAX_WAIT_MS = MS_PER_DAY
FOREVER_MS = 2**62
FindStale = Callable[[Connection, int], list[StaleJob]]


@dataclass(frozen=True)
class JobLeases:
    """The leases of one kind of jobs. `expired` and `waiting_since` find the jobs in the database."""

    kind: Kind
    database: Database
    writer: Writer
    clock: Clock
    meters: Meters
    expired: FindStale
    waiting_since: FindStale

    async def recover(self, running: Collection[int], *, include_unexpired: bool = False) -> int:
        """Requeue jobs with an expired lease, except those `running` in this process, and return their number.

        `include_unexpired` is for the start of the only process on a database: no other process can hold a lease.
        """
        database, clock = self.database, self.clock
        if database.is_shared and not include_unexpired:
            await database.read_async(database.sync_time)
        before_ms = FOREVER_MS if include_unexpired else clock.lease_ms()
        expired = await database.read_async(self.expired, before_ms)
        abandoned = [job for job in expired if job.id not in running]
        futures = [self.writer.submit(self._lapse(job, forced=include_unexpired)) for job in abandoned]
        results = await asyncio.gather(*(future for future in futures if future is not None))
        for job, result in zip(abandoned, results, strict=True):
            if isinstance(result, Settled) and not result.repeated:
                self._count_failed(job, Outcome("failed", error_code="interrupted"))
        requeued = sum(isinstance(result, Requeued) for result in results)
        failed = sum(isinstance(result, Settled) for result in results)
        if requeued or failed:
            log.warning("requeued %d jobs with expired leases (%d failed permanently)", requeued, failed)
        return requeued + failed

    async def requeue_of(self, workers: Collection[str]) -> int:
        """Requeue the running jobs of these workers, which have vanished, and return their number.

        Their leases have not expired. Should one of them live after all, its results name an old attempt.
        """
        now_ms = self.clock.lease_ms()
        abandoned = await self.database.read_async(jobs.running_on, list(workers))
        futures = [self.writer.submit(self._lapse(job, forced=True)) for job in abandoned]
        results = await asyncio.gather(*(future for future in futures if future is not None))
        for job, result in zip(abandoned, results, strict=True):
            if isinstance(result, Settled) and not result.repeated:
                self._count_failed(job, Outcome("failed", error_code="interrupted"))
        await self.writer.run(lambda connection: jobs.mark_vanished(connection, workers, now_ms))
        count = sum(isinstance(result, Requeued | Settled) for result in results)
        log.warning("%d workers are gone; requeued %d jobs of theirs", len(workers), count)
        return count

    async def fail_waiting(self) -> None:
        """Fail jobs that waited too long for an engine, and release their holds."""
        now_ms = self.clock.now_ms()
        error = "no worker could run this model within 24 hours"
        outcome = Outcome(state="failed", error_code="expired", error=error)
        for job in await self.database.read_async(self.waiting_since, now_ms - MAX_WAIT_MS):
            log.warning(
                "generation %s: job %d of model %s failed at %s (expired): no worker could run it for 24 hours",
                generation_name(job.id),
                job.id,
                job.model,
                job.engine,
            )
            self._count_failed(job, outcome, self.writer.submit(Settle(job.id, job.account_id, 0, now_ms, outcome)))

    async def fail_barred(self) -> None:
        """Fail the queued jobs of revoked keys and suspended accounts, and release their holds."""
        now_ms = self.clock.now_ms()
        for job, is_suspended in await self.database.read_async(jobs.barred, self.kind):
            outcome = barred_outcome(is_suspended)
            log.info("generation %s: job %d failed (%s)", generation_name(job.id), job.id, outcome.error_code)
            future = self.writer.submit(Settle(job.id, job.account_id, 0, now_ms, outcome))
            self._count_failed(job, outcome, future, is_fault=False)

    async def renew(self, renewals: Sequence[LeaseRenewal]) -> set[int]:
        """Renew the leases of these attempts in one commit, and return the jobs that they have lost."""
        lease_until_ms = self.clock.lease_ms() + LEASE_MS
        lost: set[int] = await self.writer.run(
            lambda connection: jobs.renew_leases(connection, renewals, lease_until_ms)
        )
        return lost

    def _lapse(self, job: StaleJob, *, forced: bool) -> Requeue:
        message = f"the job was interrupted {MAX_LOSSES} times"
        now_ms, lease_now_ms = self.clock.now_ms(), self.clock.lease_ms()
        return Requeue(
            job.id,
            job.account_id,
            job.attempt,
            now_ms,
            "lapsed",
            MAX_LOSSES,
            "interrupted",
            message,
            forced,
            lease_now_ms,
        )

    def _count_failed(
        self, job: StaleJob, outcome: Outcome, charge: asyncio.Future[Result] | None = None, *, is_fault: bool = True
    ) -> None:
        self.meters.ended(
            self.kind, job.model, job.id, outcome, 0, self.clock.now_ms(), charge,
            engine=job.engine, began_ms=job.created_ms, is_fault=is_fault,
        )  # fmt: skip
