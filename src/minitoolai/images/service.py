"""Pictures from request to end: submitted, looked at, watched, waited for, cancelled. Knows no HTTP.

What draws them is services/image_worker.py, here or in another process; the two meet in the rows and on the board.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping

import msgspec

from minitoolai.billing import charging as pricing
from minitoolai.billing.charging import Charging
from minitoolai.core.catalog import Catalog, ImageModel
from minitoolai.core.clock import Clock, generation_name, random_number
from minitoolai.core.errors import NotFound, Overloaded, StoreError
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ImageJob, ImageJobRequest, SubmittedJob, decode_image_job_request
from minitoolai.core.models import Caller, NewGeneration, Outcome
from minitoolai.core.signing import UrlSigner
from minitoolai.engines.protocols import ImageEngine
from minitoolai.images.moderation import PromptPolicy
from minitoolai.images.progress import JobEvents
from minitoolai.ledger.types import Settle
from minitoolai.storage import jobs
from minitoolai.storage.database import Database
from minitoolai.storage.writer import Writer

#: As AUTOMATIC1111 draws seeds; and what a JSON number holds exactly everywhere.
SEED_BITS = 32
JOB_ID_BITS = 53
PURPOSE = "image-job"
#: How often a place in the queue, or another process, is looked at by whoever watches.
WATCH_EVERY_S = 0.5

_encode = msgspec.json.Encoder().encode


class ImageService:
    """Everything that serves image jobs in this process, except the drawing itself.

    NotFound, in the same words, for a wrong signature and an unknown job.
    """

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, ImageEngine],
        charging: Charging,
        clock: Clock,
        in_flight: InFlight,
        database: Database,
        writer: Writer,
        policy: PromptPolicy,
        signer: UrlSigner,
        board: JobEvents,
        *,
        queue_limit: int,
        parent: Callable[[], str | None] | None = None,
    ) -> None:
        """`parent`: the trace that a job belongs to, where somebody is told of jobs."""
        self.catalog = catalog
        self.engines = engines
        self._charging = charging
        self._clock = clock
        self._underway = in_flight
        self._database = database
        self._writer = writer
        self._policy = policy
        self._signer = signer
        self._board = board
        self._queue_limit = queue_limit
        self._parent = parent

    def engine_for(self, model: ImageModel) -> ImageEngine | None:
        """Who would draw it now: the first of its engines that is ready, here or in another process."""
        return next((self.engines[name] for name in model.engines if self._is_offered(name, model.name)), None)

    def _is_offered(self, engine: str, model: str) -> bool:
        return self.engines[engine].why_not_ready(model) is None or model in self._board.offers.get(engine, ())

    def why_no_engine(self, model: ImageModel) -> str:
        """Why none of its engines is ready."""
        return "; ".join(f"{name}: {self.engines[name].why_not_ready(model.name)}" for name in model.engines)

    async def submit(self, caller: Caller, ask: ImageJobRequest) -> SubmittedJob:
        """Hold the price and queue the job, in one commit.

        ModelNotFound, ContentRefused, InsufficientBalance; RateLimited beyond the account's queued jobs; Overloaded.
        """
        self._underway.check_open()
        model = self.catalog.image_model(ask.model)
        engine = self.engine_for(model)
        if engine is None:
            raise Overloaded(f"nothing can draw {model.name} ({self.why_no_engine(model)})", retry_after_s=30)
        await self._policy.check(ask.prompt, ask.negative_prompt)
        if self._parent is not None:
            ask = msgspec.structs.replace(ask, trace=self._parent())
        generation = NewGeneration(
            "image",
            model.name,
            engine.name,
            0,
            model.price,
            "queued",
            request=_encode(ask).decode(),
            seed=random_number(SEED_BITS) if ask.seed is None else ask.seed,
            size=f"{ask.width}x{ask.height}",
            webhook_url=ask.webhook_url,
        )
        reservation = await self._charging.reserve(
            caller,
            pricing.image_job_bound(model.price),
            generation,
            hold_id=1 + random_number(JOB_ID_BITS - 1),
            queue_limit=self._queue_limit,
        )
        self._board.notify_queued()
        return SubmittedJob(reservation.hold_id, self._signer.sign(PURPOSE, str(reservation.hold_id)))

    async def look(self, job_id: int, signature: str) -> ImageJob:
        """The job as it stands."""
        self._check(job_id, signature)
        return await self._look(job_id)

    async def find(self, job_id: int) -> ImageJob:
        """The same for whoever needs no signature: this server itself. NotFound."""
        return await self._look(job_id)

    async def watch(self, job_id: int, signature: str) -> AsyncGenerator[ImageJob]:
        """The job as it stands, and again after every change until it has ended."""
        self._check(job_id, signature)
        event = self._board.watch(job_id)
        try:
            shown: ImageJob | None = None
            while shown is None or not shown.is_over:
                event.clear()
                job = await self._look(job_id)
                if job != shown:
                    yield job
                    shown = job
                if not job.is_over:
                    await _heard(event, WATCH_EVERY_S)
        finally:
            self._board.unwatch(job_id, event)

    async def wait(self, submitted: SubmittedJob, timeout_s: float) -> ImageJob:
        """The job once it has ended, or as it stands when the time is up."""
        job_id = submitted.job_id
        event = self._board.watch(job_id)
        give_up_s = self._clock.steady_s() + timeout_s
        try:
            while True:
                event.clear()
                # Steps wake us, too; the rows know nothing new of them.
                if self._board.step_of(job_id) is None:
                    job = await self._look(job_id)
                    if job.is_over or self._clock.steady_s() >= give_up_s:
                        return job
                left_s = give_up_s - self._clock.steady_s()
                if left_s <= 0:
                    return await self._look(job_id)
                await _heard(event, min(left_s, WATCH_EVERY_S))
        finally:
            self._board.unwatch(job_id, event)

    async def cancel(self, job_id: int, signature: str) -> ImageJob:
        """End it and release its hold; one that has ended stays as it is. Overloaded where nothing can be written."""
        job = await self.look(job_id, signature)
        if job.is_over:
            return job
        outcome = Outcome(state="cancelled", error_code="cancelled", error="cancelled on request")
        settle = Settle(job_id, job.account_id, 0, self._clock.now_ms(), outcome)
        future = self._writer.submit(settle)
        assert future is not None
        try:
            await future
        except StoreError as error:
            raise Overloaded("the job could not be cancelled just now; try again", retry_after_s=5) from error
        self._board.stop(job_id)
        return await self._look(job_id)

    def _check(self, job_id: int, signature: str) -> None:
        if not self._signer.verify(PURPOSE, str(job_id), signature):
            raise _unknown()

    async def _look(self, job_id: int) -> ImageJob:
        found = await self._database.read_async(jobs.find, job_id)
        if found is None:
            raise _unknown()
        ask = _forgotten(found) if found.request is None else decode_image_job_request(found.request)
        here = self._board.step_of(job_id)
        return ImageJob(
            job_id=job_id,
            generation=generation_name(job_id),
            account_id=found.account_id,
            state=found.state,
            ahead=found.ahead,
            step=min(found.step if here is None else here, ask.steps) if found.state == "running" else 0,
            steps=ask.steps,
            seed=found.seed,
            model=found.model,
            served_model=found.served_model,
            object=found.result,
            error_code=found.error_code,
            error=found.error,
            width=ask.width,
            height=ask.height,
            created_ms=found.created_ms,
            finished_ms=found.finished_ms,
        )


def _forgotten(found: jobs.JobDetails) -> ImageJobRequest:
    """What is still known of a job whose words are gone."""
    width, _, height = found.size.partition("x")
    steps = max(1, found.step)
    return ImageJobRequest(model=found.model, prompt="", steps=steps, width=int(width), height=int(height))


async def _heard(event: asyncio.Event, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return


def _unknown() -> NotFound:
    return NotFound("there is no such job, or the signature is not its own", param="jobid")
