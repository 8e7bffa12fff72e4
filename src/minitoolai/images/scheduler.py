"""Fills one engine from the queue: looks, chooses, claims, begins. Leaves an engine that fails in peace for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence, Set
from functools import partial
from typing import Protocol

from minitoolai.core.clock import Clock, jitter_s
from minitoolai.core.errors import EngineError, Overloaded, StoreError
from minitoolai.engines.protocols import ImageEngine
from minitoolai.images.attempt import JobAttempt
from minitoolai.images.progress import JobEvents
from minitoolai.storage import jobs
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.jobs import ClaimedJob, WaitingJob
from minitoolai.storage.writer import Writer

# (merged from image_order) Who is drawn next, and beside whom: a pure choice among the jobs that wait.
# (merged from image_order)
# (merged from image_order) The queue's order is fair between accounts. Against it stand the model in memory and the batch under way, for which
# (merged from image_order) whoever fits is preferred; but nobody at the head of the queue is passed over for longer than PATIENCE_S.

#: A job that has failed this often is drawn alone: it may have been its neighbours' fault, or they its victims.
SUSPECT_FAILURES = 2
HEAD_OF_LINE_LIMIT_S = 2.0
#: With nothing under way, the model in memory is preferred to the head's by so many turns.
RESIDENT_TURNS = 2

KeyOf = Callable[[WaitingJob], str]


def must_run_alone(job: WaitingJob | ClaimedJob) -> bool:
    """Only alone will it show who is at fault."""
    return job.failures >= SUSPECT_FAILURES


def pick_batch(
    waiting: Sequence[WaitingJob],
    key_of: KeyOf,
    *,
    drawing: Collection[str],
    is_alone: bool,
    resident: str | None,
    free: int,
    head_wait_s: float,
) -> list[WaitingJob]:
    """Up to `free` jobs to begin now, of `waiting` in the queue's order.

    `drawing` are the batch keys under way, `is_alone` says that a suspect is; `resident` is the key drawn last;
    `head_wait_s` is how long the head of the queue has seen others go first.
    """
    if not waiting or free <= 0 or is_alone:
        return []
    head, is_impatient = waiting[0], head_wait_s >= HEAD_OF_LINE_LIMIT_S
    if drawing:
        # Room beside what is under way: for whoever fits, until the head has waited enough.
        is_blocked = must_run_alone(head) or key_of(head) not in drawing
        if is_blocked and is_impatient:
            return []
        return [job for job in waiting if key_of(job) in drawing and not must_run_alone(job)][:free]
    if must_run_alone(head):
        return [head]
    key = key_of(head)
    near = (job for job in waiting if job.turn <= head.turn + RESIDENT_TURNS and not must_run_alone(job))
    if not is_impatient and resident is not None and any(key_of(job) == resident for job in near):
        key = resident
    return [job for job in waiting if key_of(job) == key and not must_run_alone(job)][:free]


class HeadOfLineTimer:
    """How long the head of the queue has been passed over, as far as this process has seen."""

    def __init__(self) -> None:
        self._head: int | None = None
        self._since_s = 0.0

    def look(self, waiting: Sequence[WaitingJob], now_s: float) -> float:
        """Seconds since this head became it."""
        head = waiting[0].id if waiting else None
        if head != self._head:
            self._head, self._since_s = head, now_s
        return now_s - self._since_s


log = logging.getLogger(__name__)

LEASE_MS = 20_000
#: The queue is looked at this often even when nobody knocks: alone, only as a net; else others may have filled it.
LOOK_ALONE_EVERY_S, LOOK_EVERY_S = 2.0, 0.5
#: And an engine that is starting again, whether it is up.
DOWN_LOOK_EVERY_S = 0.1
#: Which engine is ready for what is asked this often.
READY_FOR_S = 1.0
#: An engine that fails at everything, and a database that does not answer, are left in peace for ever longer.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
LOOK_AHEAD = 512
#: Where several processes could start an engine for the first job, one will be the first, and mostly the only one.
START_JITTER_S = 2.0


class Home(Protocol):
    """What a hand needs of its worker."""

    name: str
    is_alone: bool
    #: Engines that start with their first job.
    late: Set[str]
    draining: bool
    claiming: int
    runs: dict[int, JobAttempt]
    board: JobEvents
    clock: Clock
    database: Database
    writer: Writer

    def models_of(self, engine: ImageEngine) -> list[str]:
        """The models of the catalog that this engine can draw now."""

    def begin(self, job: ClaimedJob, engine: ImageEngine) -> JobAttempt:
        """Start an attempt at what was just claimed."""


class JobClaimer:
    """Fills one engine from the queue."""

    def __init__(self, worker: Home, engine: ImageEngine) -> None:
        self._worker = worker
        self._engine = engine
        self._wake = worker.board.wakes()
        self._passing = HeadOfLineTimer()
        self._resident: str | None = None
        self._models: list[str] = []
        self._models_until_s = 0.0
        self._pause_s = 0.0
        self._paused_until_s = 0.0
        self._is_started = False
        self._modesty_ms = 0 if worker.is_alone else round(1000 * jitter_s(0.0, START_JITTER_S))

    async def work(self) -> None:
        """Until cancelled; whatever happens, it goes on."""
        while True:
            self._wake.clear()
            try:
                await self._fill()
            except (StoreError, Overloaded) as error:
                log.warning("%s cannot claim jobs just now: %s", self._engine.name, error)
                await asyncio.sleep(FIRST_PAUSE_S)
            except Exception:
                log.exception("%s could not be filled, and will be tried again", self._engine.name)
                await asyncio.sleep(FIRST_PAUSE_S)
            await self._rest(self._delay_s())

    def _delay_s(self) -> float:
        """Until the next look, if nobody knocks before."""
        if not self._engine.is_up and self._is_started:
            return DOWN_LOOK_EVERY_S
        look_s = LOOK_ALONE_EVERY_S if self._worker.is_alone else LOOK_EVERY_S
        paused_s = self._paused_until_s - self._worker.clock.steady_s()
        return min(look_s, paused_s) if paused_s > 0 else look_s

    async def _rest(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _fill(self) -> None:
        """Claim what the engine has room for, and begin."""
        worker, engine, now_s = self._worker, self._engine, self._worker.clock.steady_s()
        if not self._is_started and self._models_now(now_s) and await self._is_time():
            await self._start()
        runs = [run for run in worker.runs.values() if run.engine is engine]
        if worker.draining or not engine.is_up or len(runs) >= engine.max_concurrency or now_s < self._paused_until_s:
            return
        models = self._models_now(now_s)
        waiting = await worker.database.read_async(jobs.waiting, engine.name, models, LOOK_AHEAD) if models else []
        chosen = pick_batch(
            waiting,
            self._key_of,
            drawing={run.key for run in runs},
            is_alone=any(must_run_alone(run.job) for run in runs),
            resident=self._resident,
            free=engine.max_concurrency - len(runs),
            head_wait_s=self._passing.look(waiting, now_s),
        )
        if chosen:
            await self._begin([job.id for job in chosen])

    async def _is_time(self) -> bool:
        """At once; or, to cost no memory where nobody wants pictures, when a job waits for it that nobody takes."""
        worker = self._worker
        if self._engine.name not in worker.late:
            return True
        if worker.draining or not self._engine.max_concurrency:
            return False
        waiting = await worker.database.read_async(jobs.waiting, self._engine.name, self._models, 1)
        return bool(waiting) and worker.clock.now_ms() - waiting[0].created_ms >= self._modesty_ms

    async def _start(self) -> None:
        """Once there is something that it can draw: its weights may have been put there while we run."""
        self._is_started = True
        try:
            await self._engine.start()
        except (EngineError, OSError) as error:
            log.error("%s did not start: %s", self._engine.name, error)

    async def _begin(self, ids: list[int]) -> None:
        worker, now_ms = self._worker, self._worker.clock.now_ms()

        def change(connection: Connection) -> list[ClaimedJob]:
            return jobs.claim(connection, ids, worker=worker.name, now_ms=now_ms, lease_ms=LEASE_MS)

        worker.claiming += 1
        try:
            for job in await worker.writer.run(change):
                run = worker.begin(job, self._engine)
                self._resident = run.key
                assert run.task is not None
                run.task.add_done_callback(partial(self._look_back, run))
        finally:
            worker.claiming -= 1

    def _look_back(self, run: JobAttempt, _: asyncio.Task[None]) -> None:
        """An engine that says it is up and yet fails is left in peace: three attempts are soon used up."""
        now_s = self._worker.clock.steady_s()
        if run.is_drawn:
            self._pause_s = 0.0
        elif run.is_drawn is False and self._engine.is_up and now_s >= self._paused_until_s:
            self._paused_until_s = now_s + self._pause_s
            self._pause_s = min(max(FIRST_PAUSE_S, self._pause_s * 2), LONGEST_PAUSE_S)

    def _models_now(self, now_s: float) -> list[str]:
        if now_s >= self._models_until_s:
            self._models, self._models_until_s = self._worker.models_of(self._engine), now_s + READY_FOR_S
        return self._models

    def _key_of(self, job: WaitingJob) -> str:
        width, _, height = job.size.partition("x")
        return self._engine.batch_key(job.model, int(width), int(height))
