"""Claims jobs and has them drawn: one hand for each engine, one heart for all leases, one sweep for the dead.

Lives in `serve`, and alone in `minitoolai worker`. Several of them share one queue: rows decide whose a job is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from minitoolai.core.books import Requeue, Requeued, Settled
from minitoolai.core.catalog import Catalog
from minitoolai.core.clock import Clock
from minitoolai.core.errors import EngineError, Overloaded, StoreError
from minitoolai.engines.base_images import ImageEngine
from minitoolai.services.image_board import Board
from minitoolai.services.image_order import Passing, choose, is_suspect
from minitoolai.services.image_run import MOST_FAILURES, ImageRun
from minitoolai.storage import jobs
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.jobs import ClaimedJob, WaitingJob
from minitoolai.storage.objects import ObjectStore
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

LEASE_MS = 20_000
RENEW_EVERY_S = 4.0
#: How often steps are written down where others read them there.
TELL_EVERY_S = 0.25
SWEEP_EVERY_S = 5.0
#: The queue is looked at this often even when nobody knocks: alone, only as a net; else others may have filled it.
LOOK_ALONE_EVERY_S, LOOK_EVERY_S = 2.0, 0.25
#: And an engine that is starting again, whether it is up.
DOWN_LOOK_EVERY_S = 0.1
#: Which engine is ready for what is asked this often.
READY_FOR_S = 1.0
#: An engine that fails at everything, and a database that does not answer, are left in peace for ever longer.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
LOOK_AHEAD = 512
FOREVER_MS = 2**62


class ImageWorker:
    """The drawing side of one process."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, ImageEngine],
        database: Database,
        writer: Writer,
        clock: Clock,
        objects: ObjectStore,
        board: Board,
        *,
        name: str,
        is_alone: bool,
    ) -> None:
        """`is_alone`: no other process draws from this database, nor reads steps from its rows."""
        self.catalog = catalog
        self.engines = engines
        self.database = database
        self.writer = writer
        self.clock = clock
        self.objects = objects
        self.board = board
        self.name = name
        self.is_alone = is_alone
        self.draining = False
        #: Hands that are claiming just now.
        self.claiming = 0
        self.runs: dict[int, ImageRun] = {}
        self._told: dict[int, int] = {}

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Draw until cancelled. A sick database is logged and tried again."""
        hands = [_Hand(self, engine) for engine in self.engines.values()]
        async with asyncio.TaskGroup() as group:
            for hand in hands:
                group.create_task(hand.work())
            group.create_task(self._keep_alive())
            group.create_task(self._sweep())

    async def drain(self, timeout_s: float) -> int:
        """Claim no more, finish what can be finished in this time, hand back the rest; how many those were."""
        self.draining = True
        give_up_s = self.clock.steady_s() + timeout_s
        while (self.runs or self.claiming) and self.clock.steady_s() < give_up_s:
            await asyncio.sleep(0.05)
        left = list(self.runs.values())
        for run in left:
            run.stop(is_lost=False)
        tasks = [run.task for run in left if run.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        return len(left)

    async def recover(self, *, all_of_them: bool = False) -> int:
        """Queue again what nobody draws any more; how many jobs that moved.

        `all_of_them` is for the start of the only process on a database: whoever drew them is gone.
        """
        before_ms = FOREVER_MS if all_of_them else self.clock.now_ms()
        lost = await self.database.read_soon(jobs.lapsed, before_ms)
        futures = [
            self.writer.submit(self._lapse(job, account, attempt, forced=all_of_them))
            for job, account, attempt in lost
            if job not in self.runs
        ]
        verdicts = await asyncio.gather(*(future for future in futures if future is not None))
        moved = sum(isinstance(verdict, Requeued | Settled) for verdict in verdicts)
        if moved:
            log.warning("%d jobs that nobody drew any more wait again, or have failed too often", moved)
            self.board.new_work()
        return moved

    def _lapse(self, job: int, account: int, attempt: int, *, forced: bool) -> Requeue:
        message = f"it was interrupted {MOST_FAILURES} times; nothing was charged"
        now_ms = self.clock.now_ms()
        return Requeue(job, account, attempt, now_ms, "lapsed", MOST_FAILURES, "interrupted", message, forced)

    # ── what the hands do ─────────────────────────────────────────────────────────────────────────────────

    def models_of(self, engine: ImageEngine) -> list[str]:
        """The models that this engine draws now: those for which no engine before it is ready."""
        return [
            model.name
            for model in self.catalog.images.values()
            if engine.name in model.engines
            and next((n for n in model.engines if self.engines[n].why_not_ready(model.name) is None), None)
            == engine.name
        ]

    def begin(self, job: ClaimedJob, engine: ImageEngine) -> ImageRun:
        """Start an attempt at what was just claimed."""
        run = ImageRun(self, job, engine, self.board.step)
        self.runs[job.id] = run
        self.board.begin(job.id, lambda: run.stop(is_lost=True))
        run.task = asyncio.create_task(run.run())
        run.task.add_done_callback(lambda task: self._ended(run, task))
        return run

    def _ended(self, run: ImageRun, task: asyncio.Task[None]) -> None:
        self.runs.pop(run.job.id, None)
        self._told.pop(run.job.id, None)
        self.board.end(run.job.id)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("job %d: its attempt broke off", run.job.id, exc_info=fault)
        # There is room now; and where it failed, it waits again.
        self.board.new_work()

    # ── leases ────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_alive(self) -> None:
        """Renew every lease in one commit; where others read our rows, write down the steps as they are done."""
        renew_at_s = 0.0
        while True:
            await asyncio.sleep(RENEW_EVERY_S if self.is_alone else TELL_EVERY_S)
            is_due = self.clock.steady_s() >= renew_at_s
            runs = [run for run in self.runs.values() if is_due or self._told.get(run.job.id, 0) != run.step]
            if is_due:
                renew_at_s = self.clock.steady_s() + (0.0 if self.is_alone else RENEW_EVERY_S)
            if runs:
                await self._renew(runs)

    async def _renew(self, runs: list[ImageRun]) -> None:
        signs = [jobs.Sign(run.job.id, run.job.attempt, run.step) for run in runs]
        lease_until_ms = self.clock.now_ms() + LEASE_MS
        try:
            lost: set[int] = await self.writer.run(lambda connection: jobs.renew(connection, signs, lease_until_ms))
        except (StoreError, Overloaded) as error:
            log.warning("the leases of %d jobs could not be renewed: %s", len(runs), error)
            return
        self._told.update((sign.id, sign.step) for sign in signs if sign.id in self.runs)
        for run in runs:
            if run.job.id in lost and self.runs.get(run.job.id) is run:
                run.stop(is_lost=True)

    async def _sweep(self) -> None:
        while True:
            try:
                await self.recover()
            except (StoreError, Overloaded) as error:
                log.warning("the sweep for lost jobs failed and will be tried again: %s", error)
            except Exception:
                log.exception("the sweep for lost jobs met what it should not, and will be tried again")
            await asyncio.sleep(SWEEP_EVERY_S)


class _Hand:
    """Fills one engine from the queue."""

    def __init__(self, worker: ImageWorker, engine: ImageEngine) -> None:
        self._worker = worker
        self._engine = engine
        self._wake = worker.board.wakes()
        self._passing = Passing()
        self._resident: str | None = None
        self._models: list[str] = []
        self._models_until_s = 0.0
        self._pause_s = 0.0
        self._paused_until_s = 0.0
        self._is_started = False

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
        if not self._engine.is_up:
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
        if not self._is_started and self._models_now(now_s):
            await self._start()
        runs = [run for run in worker.runs.values() if run.engine is engine]
        if worker.draining or not engine.is_up or len(runs) >= engine.rows or now_s < self._paused_until_s:
            return
        models = self._models_now(now_s)
        waiting = await worker.database.read_soon(jobs.waiting, models, LOOK_AHEAD) if models else []
        chosen = choose(
            waiting,
            self._key_of,
            drawing={run.key for run in runs},
            is_alone=any(is_suspect(run.job) for run in runs),
            resident=self._resident,
            free=engine.rows - len(runs),
            passed_over_s=self._passing.look(waiting, now_s),
        )
        if chosen:
            await self._begin([job.id for job in chosen])

    async def _start(self) -> None:
        """Once there is something that it can draw: its weights may have been put there while we run."""
        self._is_started = True
        try:
            await self._engine.start()
        except (EngineError, OSError) as error:
            log.error("%s did not start: %s", self._engine.name, error)

    async def _begin(self, ids: list[int]) -> None:
        worker, name, now_ms = self._worker, self._engine.name, self._worker.clock.now_ms()

        def change(connection: Connection) -> list[ClaimedJob]:
            return jobs.claim(connection, ids, worker=worker.name, engine=name, now_ms=now_ms, lease_ms=LEASE_MS)

        worker.claiming += 1
        try:
            for job in await worker.writer.run(change):
                run = worker.begin(job, self._engine)
                self._resident = run.key
                assert run.task is not None
                run.task.add_done_callback(partial(self._look_back, run))
        finally:
            worker.claiming -= 1

    def _look_back(self, run: ImageRun, _: asyncio.Task[None]) -> None:
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
