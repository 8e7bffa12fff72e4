"""Claim image jobs for one engine: read the queue, pick a batch, claim it under a lease, start the attempts.

`pick_batch` is a pure function. The queue's order is fair between accounts; against it stand the model in memory and
the running batch, for which matching jobs are preferred. The job at the head of the queue is never passed over for
longer than `HEAD_OF_LINE_LIMIT_S`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field
from functools import partial

from minitoolai.accounts.keys import barred_outcome
from minitoolai.billing.job_leases import LEASE_MS
from minitoolai.core.backoff import Backoff
from minitoolai.core.clock import jitter_s
from minitoolai.core.errors import EngineError, Overloaded, StoreError
from minitoolai.engines.protocols import ImageEngine
from minitoolai.images.attempt import JobAttempt, JobServices
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts, jobs
from minitoolai.storage.tables.jobs import ClaimedJob, Fleet, WaitingJob

log = logging.getLogger(__name__)

#: Poll the queue this often without a notification: a safety net for a single process, needed if others write to it.
POLL_SINGLE_PROCESS_EVERY_S, POLL_EVERY_S = 2.0, 0.5
#: A fleet with room reads the queue this often, all of its workers together: each polls rarely, at a random time.
FLEET_POLLS_PER_S = 50.0
#: The first workers of a fleet listen for new jobs. Each listening session would cost the server work for every job.
LISTENERS = 3
#: A worker that was notified waits for a random part of this, so that the others find the job claimed and do nothing.
NOTIFIED_JITTER_S = 0.02
#: Poll this often while the engine is restarting.
POLL_RESTARTING_EVERY_S = 0.1
#: Cache for this long which models the engine is ready for.
MODELS_TTL_S = 1.0
#: Bounds of the exponential backoff after failures of the engine. The first is also the pause after database errors.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
#: Consider this many jobs from the head of the queue: by the only process, and by one of several, which would else
#: read much more than they claim.
MAX_WAITING, MAX_WAITING_SHARED = 512, 128
#: Read the whole queue at least this often, see `JobClaimer._waiting`.
READ_ALL_EVERY_S = 2.0
#: One of several processes names this many times the jobs that it has room for: another may be claiming the first ones.
SPARE = 4
#: Longest random delay before starting an on-demand engine, so that usually only one of several processes starts it.
START_JITTER_S = 2.0

# ── batch selection ───────────────────────────────────────────────────────────────────────────────────────

#: Run a job alone after this many failures and losses: it may have broken its batch, or its batch may have broken it.
SUSPECT_SETBACKS = 2
HEAD_OF_LINE_LIMIT_S = 2.0
#: If nothing is running, prefer the loaded model to the head's for jobs within this many turns of the head.
LOADED_MODEL_TURNS = 2

KeyOf = Callable[[WaitingJob], str]


def must_run_alone(job: WaitingJob | ClaimedJob) -> bool:
    """Return True for a suspect job. Running it alone shows whether it causes them."""
    return job.setbacks >= SUSPECT_SETBACKS


def pick_batch(
    waiting: Sequence[WaitingJob],
    key_of: KeyOf,
    *,
    running_keys: Collection[str],
    exclusive: bool,
    loaded_key: str | None,
    free: int,
    head_wait_s: float,
) -> list[WaitingJob]:
    """Return up to `free` jobs to start now, from `waiting` in the queue's order.

    `running_keys` are the batch keys in progress; `exclusive` means that a suspect job is running alone; `loaded_key`
    is the key that ran last; `head_wait_s` is how long the head of the queue has been passed over.
    """
    if not waiting or free <= 0 or exclusive:
        return []
    head, is_impatient = waiting[0], head_wait_s >= HEAD_OF_LINE_LIMIT_S
    if running_keys:
        # Fill the running batch with matching jobs, until the head has waited long enough.
        is_blocked = must_run_alone(head) or key_of(head) not in running_keys
        if is_blocked and is_impatient:
            return []
        return [job for job in waiting if key_of(job) in running_keys and not must_run_alone(job)][:free]
    if must_run_alone(head):
        return [head]
    key = key_of(head)
    near = (job for job in waiting if job.turn <= head.turn + LOADED_MODEL_TURNS and not must_run_alone(job))
    if not is_impatient and loaded_key is not None and any(key_of(job) == loaded_key for job in near):
        key = loaded_key
    return [job for job in waiting if key_of(job) == key and not must_run_alone(job)][:free]


class HeadOfLineTimer:
    """Measure how long the current head of the queue has been passed over, as seen by this process."""

    def __init__(self) -> None:
        self._head: int | None = None
        self._since_s = 0.0

    def update(self, waiting: Sequence[WaitingJob], now_s: float) -> float:
        """Return for how many seconds this job has been the head. A new head starts at 0."""
        head = waiting[0].id if waiting else None
        if head != self._head:
            self._head, self._since_s = head, now_s
        return now_s - self._since_s


# ── claiming ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class WorkerState:
    """State that a worker shares with its claimers."""

    #: The name of this worker in the job rows.
    name: str
    #: No other process claims jobs from this database or reads progress from its rows.
    single_process: bool
    #: Engines that start with their first job instead of with the process, because they cost memory.
    start_on_demand: Set[str] = frozenset()
    #: Claim no more jobs.
    draining: bool = False
    #: The place of this worker among all that report.
    fleet: Fleet = Fleet()
    #: Number of claims in progress.
    claiming: int = 0
    #: Attempts in progress, by job ID.
    attempts: dict[int, JobAttempt] = field(default_factory=dict)


class JobClaimer:
    """Claim jobs from the queue for one engine."""

    def __init__(
        self,
        engine: ImageEngine,
        services: JobServices,
        state: WorkerState,
        *,
        models_of: Callable[[ImageEngine], list[str]],
        begin: Callable[[ClaimedJob, ImageEngine], JobAttempt],
    ) -> None:
        """`models_of` returns the models that an engine is ready for; `begin` starts an attempt at a claimed job."""
        self._engine = engine
        self._services = services
        self._state = state
        self._models_of = models_of
        self._begin = begin
        self._queued = services.events.queued_event()
        self._head_timer = HeadOfLineTimer()
        self._loaded_key: str | None = None
        self._models: list[str] = []
        self._models_until_s = 0.0
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, clock=services.clock.steady_s)
        self._has_failed = False
        #: Head of the queue at the last read, and when to read it from the beginning again.
        self._head: jobs.Place | None = None
        self._read_all_at_s = 0.0
        self._is_started = False
        #: Start the engine once it has a model; False: something else starts and stops it.
        self.starts_engine = True
        #: Claimers of this process for the same jobs.
        self.claimers = 1
        self._start_jitter_s = 0.0 if state.single_process else jitter_s(0.0, START_JITTER_S)
        #: How long this process has seen a job wait for an engine that is not started.
        self._start_timer = HeadOfLineTimer()

    async def run(self) -> None:
        """Claim until cancelled. Errors are logged and the claim is retried."""
        while True:
            self._queued.clear()
            try:
                await self._fill()
            except (StoreError, Overloaded) as error:
                log.warning("claiming jobs for %s failed, will retry: %s", self._engine.name, error)
                await asyncio.sleep(FIRST_PAUSE_S)
            except Exception:
                log.exception("claiming jobs for %s failed unexpectedly, will retry", self._engine.name)
                await asyncio.sleep(FIRST_PAUSE_S)
            await self._wait_queued(self._delay_s())

    def _delay_s(self) -> float:
        """Return the longest wait for a notification before the next poll."""
        if not self._engine.is_up and self._is_started:
            return POLL_RESTARTING_EVERY_S
        poll_s = POLL_SINGLE_PROCESS_EVERY_S if self._state.single_process else self._poll_s()
        paused_s = self._backoff.retry_at_s - self._services.clock.steady_s()
        return min(poll_s, paused_s) if paused_s > 0 else poll_s

    def _poll_s(self) -> float:
        """Return a random wait. Its mean grows with the fleet, so that all together poll equally often."""
        mean_s = max(POLL_EVERY_S, self._state.fleet.size * self.claimers / FLEET_POLLS_PER_S)
        return jitter_s(0.5 * mean_s, 1.5 * mean_s)

    async def _wait_queued(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._queued.wait()
        except TimeoutError:
            return
        if self._state.fleet.size > 1 and not self._is_drawing():
            await asyncio.sleep(jitter_s(0.0, NOTIFIED_JITTER_S))

    def _is_drawing(self) -> bool:
        """Return True if this engine is already drawing: it should refill without a pause."""
        return any(attempt.engine is self._engine for attempt in self._state.attempts.values())

    async def _fill(self) -> None:
        """Claim and start as many jobs as the engine has room for."""
        state, engine, now_s = self._state, self._engine, self._services.clock.steady_s()
        if (
            self.starts_engine
            and not self._is_started
            and self._ready_models(now_s)
            and await self._should_start(now_s)
        ):
            await self._start()
        running = [attempt for attempt in state.attempts.values() if attempt.engine is engine]
        if self._services.outage.is_on:
            # An image that is drawn now could not be stored.
            return
        if state.draining or not engine.is_up or len(running) >= engine.max_concurrency or not self._backoff.is_due():
            return
        free = engine.max_concurrency - len(running)
        spare = 1 if state.single_process else SPARE
        waiting = await self._waiting(
            self._ready_models(now_s), MAX_WAITING if state.single_process else MAX_WAITING_SHARED
        )
        batch = pick_batch(
            waiting,
            self._key_of,
            running_keys={attempt.key for attempt in running},
            exclusive=any(must_run_alone(attempt.job) for attempt in running),
            loaded_key=self._loaded_key,
            free=free * spare,
            head_wait_s=self._head_timer.update(waiting, now_s),
        )
        if batch:
            await self._claim([job.id for job in batch], free)

    async def _waiting(self, models: list[str], limit: int) -> list[WaitingJob]:
        """Read the queue from its last known head; from the beginning if nothing is there, and every two seconds.

        New jobs come behind the head of a queue that is not empty. One that was queued again may be before it.
        """
        if not models:
            return []
        now_s = self._services.clock.steady_s()
        since = self._head if now_s < self._read_all_at_s else None
        read = partial(self._services.database.read_async, jobs.waiting, self._engine.name, models, limit)
        waiting: list[WaitingJob] = await read(since)
        if not waiting and since is not None:
            since, waiting = None, await read(None)
        if since is None:
            self._read_all_at_s = now_s + READ_ALL_EVERY_S
        self._head = (waiting[0].turn, waiting[0].created_ms, waiting[0].id) if waiting else None
        return waiting

    async def _should_start(self, now_s: float) -> bool:
        """Return True if the engine should start now. One that starts on demand needs a job that has waited for it."""
        state, engine = self._state, self._engine
        if engine.name not in state.start_on_demand:
            return True
        if state.draining or not engine.max_concurrency:
            return False
        waiting = await self._waiting(self._models, 1)
        # Not from the time in the job's row: the wall clock of the process that wrote it may differ.
        return self._start_timer.update(waiting, now_s) >= self._start_jitter_s and bool(waiting)

    async def _start(self) -> None:
        """Start the engine. Called once a model is ready, because weights may be installed while the process runs."""
        self._is_started = True
        try:
            await self._engine.start()
        except (EngineError, OSError) as error:
            log.error("engine %s did not start: %s", self._engine.name, error)

    async def _claim(self, ids: list[int], limit: int) -> None:
        """Claim at most `limit` of these jobs under a lease, and start an attempt at each.

        Jobs that another process is claiming are passed over.
        """
        state, now_ms = self._state, self._services.clock.lease_ms()

        def change(connection: Connection) -> tuple[list[ClaimedJob], dict[int, bool]]:
            claimed = jobs.claim(connection, ids, worker=state.name, now_ms=now_ms, lease_ms=LEASE_MS, limit=limit)
            return claimed, accounts.barred_holds(connection, [job.id for job in claimed])

        state.claiming += 1
        try:
            claimed, barred = await self._services.writer.run(change)
            for job in claimed:
                attempt = self._begin(job, self._engine)
                if job.id in barred:
                    # Its task has not begun yet, so nothing is drawn.
                    attempt.refusal = barred_outcome(barred[job.id])
                self._loaded_key = attempt.key
                assert attempt.task is not None
                attempt.task.add_done_callback(partial(self._record_outcome, attempt))
        finally:
            state.claiming -= 1

    def _record_outcome(self, attempt: JobAttempt, _: asyncio.Task[None]) -> None:
        """Pause claims with exponential backoff while an engine reports that it is up and yet fails.

        Otherwise it would use up all attempts of its jobs within moments. The first failure is retried without a pause.
        """
        if attempt.generated:
            self._backoff.record_success()
            self._has_failed = False
        elif attempt.generated is False and self._engine.is_up and self._backoff.is_due():
            if self._has_failed:
                self._backoff.record_failure()
            self._has_failed = True

    def _ready_models(self, now_s: float) -> list[str]:
        if now_s >= self._models_until_s:
            self._models, self._models_until_s = self._models_of(self._engine), now_s + MODELS_TTL_S
        return self._models

    def _key_of(self, job: WaitingJob) -> str:
        width, _, height = job.size.partition("x")
        return self._engine.batch_key(job.model, int(width), int(height))
