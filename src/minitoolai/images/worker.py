"""Run queued image jobs.

One `JobClaimer` per engine claims jobs, one task renews all leases, and one task requeues jobs with an expired lease.
Runs inside `serve` or standalone as `minitoolai worker`. Any number of workers can share a queue; the job row records
which worker owns it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from minitoolai.core.catalog import Catalog
from minitoolai.core.clock import MS_PER_DAY, generation_name
from minitoolai.core.errors import Overloaded, StoreError
from minitoolai.core.models import Outcome
from minitoolai.engines.protocols import ImageEngine
from minitoolai.images.attempt import MAX_FAILURES, JobAttempt, JobServices
from minitoolai.images.scheduler import LEASE_MS, JobClaimer, WorkerState
from minitoolai.ledger.types import Requeue, Requeued, Result, Settle, Settled
from minitoolai.storage import jobs
from minitoolai.storage.jobs import ClaimedJob, StaleJob

log = logging.getLogger(__name__)

RENEW_EVERY_S = 4.0
#: If other processes read the rows, write changed steps this often.
WRITE_STEPS_EVERY_S = 0.25
SWEEP_EVERY_S = 5.0
REGISTER_EVERY_S = 5.0
#: Fail jobs that have waited this long without a worker that can run them.
MAX_WAIT_MS = MS_PER_DAY
FOREVER_MS = 2**62


class ImageWorker:
    """Run image jobs in one process."""

    def __init__(
        self, catalog: Catalog, engines: Mapping[str, ImageEngine], services: JobServices, state: WorkerState
    ) -> None:
        self.state = state
        self.events = services.events
        self._catalog = catalog
        self._engines = engines
        self._services = services
        #: The last step of each job that is in its row.
        self._written_steps: dict[int, int] = {}

    # ── lifecycle ─────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Run jobs until cancelled. Database errors are logged and retried."""
        claimers = [
            JobClaimer(engine, self._services, self.state, models_of=self.models_of, begin=self._begin)
            for engine in self._engines.values()
        ]
        async with asyncio.TaskGroup() as group:
            for claimer in claimers:
                group.create_task(claimer.run())
            group.create_task(self._renew_leases())
            group.create_task(self._sweep())
            if not self.state.single_process:
                group.create_task(self._register())

    async def drain(self, timeout_s: float) -> int:
        """Stop claiming and let attempts finish within `timeout_s`. Requeue the others and return their number."""
        state, clock = self.state, self._services.clock
        state.draining = True
        give_up_s = clock.steady_s() + timeout_s
        while (state.attempts or state.claiming) and clock.steady_s() < give_up_s:
            await asyncio.sleep(0.05)
        unfinished = list(state.attempts.values())
        for attempt in unfinished:
            attempt.stop(superseded=False)
        tasks = [attempt.task for attempt in unfinished if attempt.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        await self._unregister()
        return len(unfinished)

    async def _register(self) -> None:
        """Publish which models this process can run, and read which ones the others can."""
        while True:
            offers = {engine.name: self.models_of(engine) for engine in self._engines.values()}
            # The time that all processes share, because their wall clocks may differ.
            now_ms = self._services.clock.lease_ms()
            try:
                if not self.state.draining:
                    change = partial(jobs.register_worker, name=self.state.name, offers=offers, now_ms=now_ms)
                    await self._services.writer.run(change)
                self.events.available_models = await self._services.database.read_async(jobs.available_models, now_ms)
            except (StoreError, Overloaded) as error:
                log.warning("registering this worker failed, will retry: %s", error)
            except Exception:
                log.exception("registering this worker failed unexpectedly, will retry")
            await asyncio.sleep(REGISTER_EVERY_S)

    async def _unregister(self) -> None:
        if self.state.single_process:
            return
        try:
            await self._services.writer.run(lambda connection: jobs.unregister_worker(connection, self.state.name))
        except (StoreError, Overloaded) as error:
            log.warning("unregistering this worker failed, its registration will expire: %s", error)

    # ── attempts ──────────────────────────────────────────────────────────────────────────────────────────

    def models_of(self, engine: ImageEngine) -> list[str]:
        """Return the catalog's models that this engine can run now."""
        return [
            model.name
            for model in self._catalog.images.values()
            if engine.name in model.engines and engine.why_not_ready(model.name) is None
        ]

    def _begin(self, job: ClaimedJob, engine: ImageEngine) -> JobAttempt:
        """Start an attempt at a claimed job."""
        attempt = JobAttempt(self._services, job, engine)
        self.state.attempts[job.id] = attempt
        self.events.begin(job.id, lambda: attempt.stop(superseded=True))
        attempt.task = asyncio.create_task(attempt.run())
        attempt.task.add_done_callback(lambda task: self._end(attempt, task))
        return attempt

    def _end(self, attempt: JobAttempt, task: asyncio.Task[None]) -> None:
        job_id = attempt.job.id
        self.state.attempts.pop(job_id, None)
        self._written_steps.pop(job_id, None)
        self.events.end(job_id)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %d: the attempt raised an exception", job_id, exc_info=error)
        # The engine has room now, and a failed job is queued again.
        self.events.notify_queued()

    # ── leases ────────────────────────────────────────────────────────────────────────────────────────────

    async def _renew_leases(self) -> None:
        """Renew all leases in one commit. If other processes read the rows, also write steps as they finish."""
        single_process, clock = self.state.single_process, self._services.clock
        renew_at_s = 0.0
        while True:
            await asyncio.sleep(RENEW_EVERY_S if single_process else WRITE_STEPS_EVERY_S)
            is_due = clock.steady_s() >= renew_at_s
            attempts = [
                attempt
                for job_id, attempt in self.state.attempts.items()
                if is_due or self._written_steps.get(job_id, 0) != attempt.step
            ]
            if is_due:
                renew_at_s = clock.steady_s() + (0.0 if single_process else RENEW_EVERY_S)
            if attempts:
                try:
                    await self._renew(attempts)
                except Exception:
                    log.exception("renewing leases failed unexpectedly, will retry")

    async def _renew(self, attempts: list[JobAttempt]) -> None:
        renewals = [jobs.LeaseRenewal(attempt.job.id, attempt.job.attempt, attempt.step) for attempt in attempts]
        lease_until_ms = self._services.clock.lease_ms() + LEASE_MS
        try:
            lost: set[int] = await self._services.writer.run(
                lambda connection: jobs.renew_leases(connection, renewals, lease_until_ms)
            )
        except (StoreError, Overloaded) as error:
            log.warning("renewing %d leases failed, will retry: %s", len(attempts), error)
            return
        running = self.state.attempts
        self._written_steps.update((renewal.id, renewal.step) for renewal in renewals if renewal.id in running)
        for attempt in attempts:
            if attempt.job.id in lost and running.get(attempt.job.id) is attempt:
                attempt.stop(superseded=True)

    # ── recovery ──────────────────────────────────────────────────────────────────────────────────────────

    async def recover(self, *, include_unexpired: bool = False) -> int:
        """Requeue jobs with an expired lease and return their number.

        `include_unexpired` is for the start of the only process on a database: no other process can hold a lease.
        """
        database, clock = self._services.database, self._services.clock
        if database.is_shared and not include_unexpired:
            await database.read_async(database.sync_time)
        before_ms = FOREVER_MS if include_unexpired else clock.lease_ms()
        expired = await database.read_async(jobs.expired_leases, before_ms)
        abandoned = [job for job in expired if job.id not in self.state.attempts]
        futures = [self._services.writer.submit(self._requeue(job, forced=include_unexpired)) for job in abandoned]
        results = await asyncio.gather(*(future for future in futures if future is not None))
        for job, result in zip(abandoned, results, strict=True):
            if isinstance(result, Settled) and not result.repeated:
                self._count_failed(job, Outcome("failed", error_code="interrupted"))
        requeued = sum(isinstance(result, Requeued) for result in results)
        failed = sum(isinstance(result, Settled) for result in results)
        if requeued or failed:
            log.warning("requeued %d jobs with expired leases (%d failed permanently)", requeued, failed)
            self.events.notify_queued()
        return requeued + failed

    def _count_failed(self, job: StaleJob, outcome: Outcome, charge: asyncio.Future[Result] | None = None) -> None:
        now_ms = self._services.clock.now_ms()
        self._services.meters.ended(
            "image", job.model, job.id, outcome, 0, now_ms, charge, engine=job.engine, began_ms=job.created_ms
        )

    def _requeue(self, job: StaleJob, *, forced: bool) -> Requeue:
        message = f"the job was interrupted {MAX_FAILURES} times"
        now_ms, lease_now_ms = self._services.clock.now_ms(), self._services.clock.lease_ms()
        return Requeue(
            job.id,
            job.account_id,
            job.attempt,
            now_ms,
            "lapsed",
            MAX_FAILURES,
            "interrupted",
            message,
            forced,
            lease_now_ms,
        )

    async def _fail_expired(self) -> None:
        """Fail jobs that waited too long for an engine, and release their holds."""
        now_ms = self._services.clock.now_ms()
        error = "no worker could run this model within 24 hours"
        outcome = Outcome(state="failed", error_code="expired", error=error)
        for job in await self._services.database.read_async(jobs.jobs_waiting_since, now_ms - MAX_WAIT_MS):
            log.warning(
                "generation %s: job %d of model %s failed at %s (expired): no worker could run it for 24 hours",
                generation_name(job.id),
                job.id,
                job.model,
                job.engine,
            )
            self._count_failed(
                job, outcome, self._services.writer.submit(Settle(job.id, job.account_id, 0, now_ms, outcome))
            )

    async def _sweep(self) -> None:
        while True:
            try:
                await self.recover()
                await self._fail_expired()
            except (StoreError, Overloaded) as error:
                log.warning("the sweep for expired leases failed, will retry: %s", error)
            except Exception:
                log.exception("the sweep for expired leases failed unexpectedly, will retry")
            await asyncio.sleep(SWEEP_EVERY_S)
