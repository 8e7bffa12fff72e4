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

from minitoolai.accounts.keys import barred_outcome
from minitoolai.accounts.revocation import CHECK_EVERY_S
from minitoolai.billing.job_leases import RENEW_EVERY_S, SWEEP_EVERY_S, JobLeases
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.clock import jitter_s
from minitoolai.core.errors import Overloaded, StoreError
from minitoolai.engines.placement import PlacedEngine
from minitoolai.engines.protocols import ImageEngine
from minitoolai.images.attempt import JobAttempt, JobServices
from minitoolai.images.scheduler import LISTENERS, MAX_WAITING, JobClaimer, WorkerState
from minitoolai.storage.database import Membership
from minitoolai.storage.tables import accounts, jobs
from minitoolai.storage.tables.jobs import ClaimedJob

log = logging.getLogger(__name__)

#: If other processes read the steps, write changed ones this often. A large fleet writes them more rarely, up to so
#: many times a second for all of its workers together, because each of them writes a row of its own.
WRITE_STEPS_EVERY_S, WRITE_STEPS_AT_LEAST_EVERY_S = 0.5, 2.0
FLEET_STEPS_PER_S = 100
REGISTER_EVERY_S = 5.0
#: So many workers of a fleet look for others that have vanished, this often, and for abandoned jobs. Twice missing, and
#: a worker's jobs are queued again.
WATCHERS, WATCH_EVERY_S = 3, 1.0
#: Count the jobs of a placed engine when one was queued, but not more often than the first, and at least this often.
SCALE_PAUSE_S, SCALE_EVERY_S = 0.2, 1.0
#: After the database was away, every worker has this long to open a session again.
SETTLED_S = 10.0


class ImageWorker:
    """Run image jobs in one process."""

    def __init__(
        self, catalog: Catalog, engines: Mapping[str, ImageEngine], services: JobServices, state: WorkerState
    ) -> None:
        self.state = state
        self.events = services.events
        self.outage = services.outage
        #: Of a process on a shared database, once it is registered.
        self.membership: Membership | None = None
        #: A process that only draws. What need not be done by each of a large fleet is done by its first workers:
        #: listening for new jobs, and looking for abandoned ones. Nor does it ask what the others offer.
        self.only_draws = False
        self._is_registered_anew = asyncio.Event()
        self._catalog = catalog
        self._engines = engines
        self._services = services
        self._leases = JobLeases(
            "image", services.database, services.writer, services.clock, services.meters,
            jobs.expired_leases, jobs.jobs_waiting_since,
        )  # fmt: skip

    # ── lifecycle ─────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Run jobs until cancelled. Database errors are logged and retried."""
        placed = [engine for engine in self._engines.values() if isinstance(engine, PlacedEngine)]
        async with asyncio.TaskGroup() as group:
            for engine in self._engines.values():
                # Each copy of a placed engine has its own batches, and jobs are claimed for it.
                places = engine.copies if isinstance(engine, PlacedEngine) else [engine]
                for one in places:
                    claimer = JobClaimer(one, self._services, self.state, models_of=self.models_of, begin=self._begin)
                    claimer.starts_engine, claimer.claimers = one is engine, len(places)
                    group.create_task(claimer.run())
            for each in placed:
                group.create_task(self._scale(each))
            group.create_task(self._renew_leases())
            group.create_task(self._sweep_forever())
            group.create_task(self._watch_barred())
            if not self.state.single_process:
                group.create_task(self._register())
                group.create_task(self._watch_others())
                group.create_task(self._publish_steps())

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
            now_ms, state = self._services.clock.lease_ms(), self.state
            presence = (self.membership.session_pid or None) if self.membership else None
            self._is_registered_anew.clear()
            try:
                if not state.draining:
                    change = partial(
                        jobs.register_worker, name=state.name, offers=offers, now_ms=now_ms, presence=presence
                    )
                    await self._services.writer.run(change)
                if not self.only_draws:
                    models = await self._services.database.read_async(jobs.available_models, now_ms)
                    self.events.available_models = models
                state.fleet = await self._services.database.read_async(jobs.fleet, state.name, now_ms)
                if self.membership is not None and self.only_draws:
                    self.membership.listen(state.fleet.rank < LISTENERS)
            except (StoreError, Overloaded) as error:
                log.warning("registering this worker failed, will retry: %s", error)
            except Exception:
                log.exception("registering this worker failed unexpectedly, will retry")
            await _wait_for(self._is_registered_anew, jitter_s(0.9, 1.1) * REGISTER_EVERY_S)

    def registered_anew(self) -> None:
        """Publish the new session of this process without delay, or the others would think that it has vanished."""
        self._is_registered_anew.set()

    async def _watch_others(self) -> None:
        """Requeue the jobs of workers without a session, instead of waiting for their leases to expire.

        Only the first few workers do this. A session may be replaced, so a worker must be missing twice.
        """
        missing: set[str] = set()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            if self.state.fleet.rank >= WATCHERS or not self._is_settled():
                missing = set()
                continue
            try:
                now_missing = await self._services.database.read_async(self._services.database.vanished_workers)
                now_missing.discard(self.state.name)
                if gone := now_missing & missing:
                    await self._leases.requeue_of(gone)
                    self.events.notify_queued()
                missing = now_missing
            except (StoreError, Overloaded) as error:
                log.warning("looking for vanished workers failed, will retry: %s", error)
            except Exception:
                log.exception("looking for vanished workers failed unexpectedly, will retry")

    def _is_settled(self) -> bool:
        """Return True if the session of this process is old enough that all others have theirs, after an outage."""
        return self.membership is not None and self.membership.session_age_s() > SETTLED_S

    async def _unregister(self) -> None:
        if self.state.single_process:
            return
        try:
            await self._services.writer.run(lambda connection: jobs.unregister_worker(connection, self.state.name))
        except (StoreError, Overloaded) as error:
            log.warning("unregistering this worker failed, its registration will expire: %s", error)

    # ── attempts ──────────────────────────────────────────────────────────────────────────────────────────

    def models_of(self, engine: ImageEngine) -> list[str]:
        """Return the catalog's models that this engine can run now. One without room draws nothing."""
        if not engine.max_concurrency:
            return []
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
        self.events.end(job_id)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %d: the attempt raised an exception", job_id, exc_info=error)
        # The engine has room now, and a failed job is queued again.
        self.events.notify_queued()

    async def _scale(self, engine: PlacedEngine) -> None:
        """Let a placed engine have as many copies as its jobs need."""
        queued, copies = self.events.queued_event(), set[ImageEngine](engine.copies)
        engine.on_ready(self.events.notify_queued)
        while True:
            queued.clear()
            try:
                models = self.models_of(engine)
                if models and not self.state.draining:
                    read = partial(jobs.waiting, engine=engine.name, models=models, limit=MAX_WAITING)
                    waiting = len(await self._services.database.read_async(read))
                    engine.scale(waiting, sum(one.engine in copies for one in self.state.attempts.values()))
            except (StoreError, Overloaded) as error:
                log.warning("counting the jobs of %s failed, will retry: %s", engine.name, error)
            except Exception:
                log.exception("scaling %s failed unexpectedly, will retry", engine.name)
            await asyncio.sleep(SCALE_PAUSE_S)
            await _wait_for(queued, SCALE_EVERY_S)

    # ── leases ────────────────────────────────────────────────────────────────────────────────────────────

    async def _renew_leases(self) -> None:
        """Renew all leases in one commit, every few seconds."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            if attempts := list(self.state.attempts.values()):
                try:
                    await self._renew(attempts)
                except Exception:
                    log.exception("renewing leases failed unexpectedly, will retry")

    async def _publish_steps(self) -> None:
        """Let other processes see the steps of the jobs that run here: one small row for all of them."""
        written: dict[int, int] = {}
        while True:
            await asyncio.sleep(steps_every_s(self.state.fleet.size))
            steps = {job_id: attempt.step for job_id, attempt in self.state.attempts.items() if attempt.step}
            # Nothing reads the steps of jobs that have ended.
            if steps.items() <= written.items():
                continue
            try:
                await self._services.writer.run(partial(jobs.write_steps, worker=self.state.name, steps=steps))
                written = steps
            except (StoreError, Overloaded) as error:
                log.info("publishing the steps of %d jobs failed, will retry: %s", len(steps), error)
            except Exception:
                log.exception("publishing steps failed unexpectedly, will retry")

    async def _renew(self, attempts: list[JobAttempt]) -> None:
        renewals = [jobs.LeaseRenewal(attempt.job.id, attempt.job.attempt, attempt.step) for attempt in attempts]
        try:
            lost = await self._leases.renew(renewals)
        except (StoreError, Overloaded) as error:
            log.warning("renewing %d leases failed, will retry: %s", len(attempts), error)
            return
        running = self.state.attempts
        for attempt in attempts:
            if attempt.job.id in lost and running.get(attempt.job.id) is attempt:
                attempt.stop(superseded=True)

    # ── recovery ──────────────────────────────────────────────────────────────────────────────────────────

    async def recover(self, *, include_unexpired: bool = False) -> int:
        """Requeue jobs with an expired lease and return their number.

        `include_unexpired` is for the start of the only process on a database: no other process can hold a lease.
        """
        recovered = await self._leases.recover(self.state.attempts, include_unexpired=include_unexpired)
        if recovered:
            self.events.notify_queued()
        return recovered

    async def sweep(self) -> None:
        """Requeue abandoned jobs, and fail those that waited too long or whose account is barred."""
        if self.only_draws and self.state.fleet.rank >= WATCHERS:
            return
        await self.recover()
        await self._leases.fail_waiting()
        await self._leases.fail_barred()

    async def _sweep_forever(self) -> None:
        while True:
            try:
                await self.sweep()
            except (StoreError, Overloaded) as error:
                log.warning("the sweep for expired leases failed, will retry: %s", error)
            except Exception:
                log.exception("the sweep for expired leases failed unexpectedly, will retry")
            await asyncio.sleep(SWEEP_EVERY_S * (1.0 if self.state.single_process else jitter_s(0.8, 1.2)))

    async def _watch_barred(self) -> None:
        """End the attempts whose key was revoked or whose account was suspended. A failed check is retried."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            ids = list(self.state.attempts)
            try:
                barred = await self._services.database.read_async(accounts.barred_holds, ids) if ids else {}
            except (StoreError, Overloaded) as error:
                log.warning("check of %d jobs for revoked keys failed, will retry: %s", len(ids), error)
                continue
            for job_id, is_suspended in barred.items():
                if (attempt := self.state.attempts.get(job_id)) is not None:
                    attempt.refuse(barred_outcome(is_suspended))


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


def steps_every_s(workers: int) -> float:
    """Return how often a worker publishes its steps, in a fleet of this size."""
    return min(max(WRITE_STEPS_EVERY_S, workers / FLEET_STEPS_PER_S), WRITE_STEPS_AT_LEAST_EVERY_S)
