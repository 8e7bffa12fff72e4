"""Has jobs drawn: one hand for each engine, one heart for all leases, one sweep for the dead.

Lives in `serve`, and alone in `minitoolai worker`. Several of them share one queue: rows decide whose a job is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Set
from functools import partial

from minitoolai.core.catalog import Catalog
from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.errors import Overloaded, StoreError
from minitoolai.core.meters import Meters
from minitoolai.core.models import Outcome
from minitoolai.core.tracing import Spans
from minitoolai.engines.protocols import ImageEngine
from minitoolai.images.attempt import MOST_FAILURES, JobAttempt
from minitoolai.images.progress import JobEvents
from minitoolai.images.scheduler import LEASE_MS, JobClaimer
from minitoolai.ledger.types import Requeue, Requeued, Settle, Settled
from minitoolai.storage import jobs
from minitoolai.storage import jobs as workers
from minitoolai.storage.database import Database
from minitoolai.storage.jobs import ClaimedJob
from minitoolai.storage.object_store import ObjectStore
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

RENEW_EVERY_S = 4.0
#: How often steps are written down where others read them there.
TELL_EVERY_S = 0.25
SWEEP_EVERY_S = 5.0
REPORT_EVERY_S = 5.0
#: A job that nobody could draw for so long is not wanted any more.
LONGEST_WAIT_MS = MS_PER_DAY
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
        board: JobEvents,
        *,
        name: str,
        is_alone: bool,
        meters: Meters | None = None,
        spans: Spans | None = None,
        late: Set[str] = frozenset(),
    ) -> None:
        """`is_alone`: no other process draws from this database, nor reads steps from its rows.

        `late`: engines that start with their first job.
        """
        self.late = late
        self.meters = meters or Meters()
        self.spans = spans
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
        self.runs: dict[int, JobAttempt] = {}
        self._told: dict[int, int] = {}

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Draw until cancelled. A sick database is logged and tried again."""
        hands = [JobClaimer(self, engine) for engine in self.engines.values()]
        async with asyncio.TaskGroup() as group:
            for hand in hands:
                group.create_task(hand.work())
            group.create_task(self._keep_alive())
            group.create_task(self._sweep())
            if not self.is_alone:
                group.create_task(self._report())

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
        await self._leave()
        return len(left)

    async def _leave(self) -> None:
        if self.is_alone:
            return
        try:
            await self.writer.run(lambda connection: workers.leave(connection, self.name))
        except (StoreError, Overloaded) as error:
            log.warning("this worker could not say that it leaves: %s", error)

    async def _report(self) -> None:
        """Say what can be drawn here, hear what others can."""
        while True:
            offers = {engine.name: self.models_of(engine) for engine in self.engines.values()}
            try:
                if not self.draining:
                    change = partial(workers.report, name=self.name, offers=offers, now_ms=self.clock.now_ms())
                    await self.writer.run(change)
                self.board.offers = await self.database.read_async(workers.offered, self.clock.now_ms())
            except (StoreError, Overloaded) as error:
                log.warning("other workers could not be asked what they draw: %s", error)
            except Exception:
                log.exception("other workers could not be asked what they draw, and will be asked again")
            await asyncio.sleep(REPORT_EVERY_S)

    async def recover(self, *, all_of_them: bool = False) -> int:
        """Queue again what nobody draws any more; how many jobs that moved.

        `all_of_them` is for the start of the only process on a database: whoever drew them is gone.
        """
        before_ms = FOREVER_MS if all_of_them else self.clock.now_ms()
        lost = await self.database.read_async(jobs.lapsed, before_ms)
        futures = [
            self.writer.submit(self._lapse(job, account, attempt, forced=all_of_them))
            for job, account, attempt in lost
            if job not in self.runs
        ]
        verdicts = await asyncio.gather(*(future for future in futures if future is not None))
        moved = sum(isinstance(verdict, Requeued | Settled) for verdict in verdicts)
        if moved:
            log.warning("%d jobs that nobody drew any more wait again, or have failed too often", moved)
            self.board.notify_queued()
        return moved

    def _lapse(self, job: int, account: int, attempt: int, *, forced: bool) -> Requeue:
        message = f"it was interrupted {MOST_FAILURES} times; nothing was charged"
        now_ms = self.clock.now_ms()
        return Requeue(job, account, attempt, now_ms, "lapsed", MOST_FAILURES, "interrupted", message, forced)

    # ── what the hands do ─────────────────────────────────────────────────────────────────────────────────

    def models_of(self, engine: ImageEngine) -> list[str]:
        """The models of the catalog that this engine can draw now."""
        return [
            model.name
            for model in self.catalog.images.values()
            if engine.name in model.engines and engine.why_not_ready(model.name) is None
        ]

    def begin(self, job: ClaimedJob, engine: ImageEngine) -> JobAttempt:
        """Start an attempt at what was just claimed."""
        run = JobAttempt(self, job, engine, self.board.step)
        self.runs[job.id] = run
        self.board.begin(job.id, lambda: run.stop(is_lost=True))
        run.task = asyncio.create_task(run.run())
        run.task.add_done_callback(lambda task: self._ended(run, task))
        return run

    def _ended(self, run: JobAttempt, task: asyncio.Task[None]) -> None:
        self.runs.pop(run.job.id, None)
        self._told.pop(run.job.id, None)
        self.board.end(run.job.id)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("job %d: its attempt broke off", run.job.id, exc_info=fault)
        # There is room now; and where it failed, it waits again.
        self.board.notify_queued()

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
                try:
                    await self._renew(runs)
                except Exception:
                    log.exception("leases could not be renewed, and will be tried again")

    async def _renew(self, runs: list[JobAttempt]) -> None:
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

    async def _give_up(self) -> None:
        """Jobs that waited for an engine which never came: their holds are released."""
        now_ms = self.clock.now_ms()
        error = "nobody was there to draw it for a whole day; nothing was charged"
        outcome = Outcome(state="failed", error_code="expired", error=error)
        for job, account in await self.database.read_async(jobs.stale, now_ms - LONGEST_WAIT_MS):
            log.error("job %d waited for a day and is given up", job)
            self.writer.submit(Settle(job, account, 0, now_ms, outcome), wait=False)

    async def _sweep(self) -> None:
        while True:
            try:
                await self.recover()
                await self._give_up()
            except (StoreError, Overloaded) as error:
                log.warning("the sweep for lost jobs failed and will be tried again: %s", error)
            except Exception:
                log.exception("the sweep for lost jobs met what it should not, and will be tried again")
            await asyncio.sleep(SWEEP_EVERY_S)
