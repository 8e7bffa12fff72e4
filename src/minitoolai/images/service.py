"""Submit, watch and cancel image jobs. Independent of HTTP.

`ImageWorker` runs the jobs, in this process or another. Service and worker communicate through the job rows and, within
one process, through `JobEvents`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import msgspec

from minitoolai.accounts.request_bodies import BodyKeeper
from minitoolai.billing.charging import Charging, image_job_bound
from minitoolai.core.catalog.catalog import Catalog, ImageModel
from minitoolai.core.clock import generation_name, random_number
from minitoolai.core.errors import InsufficientBalance, InvalidRequest, NotFound, Overloaded, ServiceError, StoreError
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import EditInputs, ImageJob, ImageJobRequest, SubmittedJob, decode_image_job_request
from minitoolai.core.models import Caller, NewGeneration, Outcome
from minitoolai.core.money import short_dollars
from minitoolai.core.signing import UrlSigner
from minitoolai.core.telemetry.tracing import request_parent
from minitoolai.engines.images.codec import EDITS
from minitoolai.engines.images.lora_tags import without_tags
from minitoolai.engines.protocols import ImageEngine
from minitoolai.http.exchanges import keep_parameters
from minitoolai.http.validation import shortened
from minitoolai.images.attempt import JobServices
from minitoolai.images.lora_tags import check_lora_tags
from minitoolai.images.moderation import PromptPolicy
from minitoolai.ledger.types import Settle
from minitoolai.storage.selling import purses
from minitoolai.storage.tables import jobs

#: Values of `quality` that every model accepts, as if it was left out.
_USUAL_QUALITIES = ("auto", "standard")
#: Seeds as in AUTOMATIC1111.
SEED_BITS = 32
#: Job IDs fit exactly into a JSON number of every client.
JOB_ID_BITS = 53
#: Purpose of the signature that gives access to a job.
SIGNATURE_PURPOSE = "image-job"
#: Read the row of a watched job this often: its queue position and the progress in other processes send no event.
POLL_EVERY_S = 0.5

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class ImageService:
    """Submit, read, watch and cancel image jobs.

    A wrong signature and an unknown job raise NotFound with the same message, so that job IDs cannot be probed.
    """

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, ImageEngine],
        services: JobServices,
        charging: Charging,
        *,
        policy: PromptPolicy,
        signer: UrlSigner,
        in_flight: InFlight,
        queue_limit: int,
        accepts_without_workers: bool = False,
    ) -> None:
        """`queue_limit` is the largest number of queued jobs per account.

        `accepts_without_workers`: queue jobs that no process can run yet, because workers start when jobs wait.
        """
        self._accepts_without_workers = accepts_without_workers
        self.stand_ins = services.stand_ins
        self.catalog = catalog
        self.engines = engines
        self.in_flight = in_flight
        #: Stores what jobs ask for, for accounts that have asked for it.
        self.bodies: BodyKeeper | None = None
        self._services = services
        self._events = services.events
        self._clock = services.clock
        self._charging = charging
        self._policy = policy
        self._signer = signer
        self._queue_limit = queue_limit

    # ── engines ───────────────────────────────────────────────────────────────────────────────────────────

    def engine_for(self, model: ImageModel, images: int = 0) -> ImageEngine | None:
        """Return the first of the model's engines that is ready, in this process or another.

        `images`: how many uploaded images it must be able to change.
        """
        return next(
            (self.engines[name] for name in model.engines if self._is_available(name, model.name, images)), None
        )

    def check_images(self, name: str, images: int) -> None:
        """Raise InvalidRequest if no engine of a model could change so many images, ready or not."""
        model = self.catalog.image_model(name)
        most = max((self.engines[engine].max_images for engine in model.engines), default=0)
        if images > most > 0:
            raise InvalidRequest(
                f"image was sent {images} times; {model.name} takes {most if most > 1 else 'one'}", param="image"
            )
        if images > most:
            raise InvalidRequest(f"{model.name} only draws from words; choose another model", param="model")

    def _is_available(self, engine: str, model: str, images: int) -> bool:
        if self.stand_ins.refuses(engine, model) or self.engines[engine].max_images < images:
            return False
        if self.engines[engine].why_not_ready(model) is None and self.engines[engine].max_concurrency:
            return True
        return model in self._events.available_models.get(engine, ())

    def why_no_engine(self, model: ImageModel) -> str:
        """Return why none of the model's engines is ready."""
        return "; ".join(f"{name}: {self.why_not(name, model.name)}" for name in model.engines)

    def why_not(self, engine: str, model: str) -> str | None:
        """Return None if the engine can serve this model in this process, else the reason, for the operator."""
        return self.stand_ins.why_refused(engine, model) or self.engines[engine].why_not_ready(model)

    def engine_to_come(self, model: ImageModel, images: int = 0) -> ImageEngine | None:
        """Return the engine for which a job may wait until a worker starts, if the operator wants that."""
        if not self._accepts_without_workers:
            return None
        able = (self.engines[name] for name in model.engines if not self.stand_ins.refuses(name, model.name))
        return next((engine for engine in able if engine.max_images >= images), None)

    def price_of(self, model: ImageModel, request: ImageJobRequest, engine: ImageEngine | None) -> int:
        """Return the price of one image in nano-dollars."""
        if engine is not None and self.stand_ins.is_free(engine.name, model.name):
            return 0
        return model.price_of(f"{request.width}x{request.height}", request.quality)

    # ── submitting ────────────────────────────────────────────────────────────────────────────────────────

    async def submit(
        self,
        caller: Caller,
        request: ImageJobRequest,
        inputs: EditInputs | None = None,
        announce: Callable[[SubmittedJob], Awaitable[None]] | None = None,
        job_id: int | None = None,
    ) -> SubmittedJob:
        """Hold the price and queue the job, in one commit. `inputs`: the images that it changes.

        `announce` is called before the commit, which stores the answer for the request's Idempotency-Key.

        Raises ModelNotFound, ContentRefused, InsufficientBalance, RateLimited if the account's queue is full, and
        Overloaded if no engine is ready.
        """
        try:
            job = await self._submit(caller, request, inputs, announce, job_id or self.new_job_id())
        except ServiceError as error:
            if error.is_fault:
                model = self.catalog.image_model(request.model)
                engine = self.engine_for(model, _count(request, inputs))
                self._charging.count_refusal(model.engines[0] if engine is None else engine.name, model.name, error)
            raise
        if caller.body_days and self.bodies is not None:
            keep_parameters(self.bodies, caller, job.job_id, msgspec.structs.replace(request, trace=None))
        return job

    async def _submit(
        self,
        caller: Caller,
        request: ImageJobRequest,
        inputs: EditInputs | None,
        announce: Callable[[SubmittedJob], Awaitable[None]] | None,
        job_id: int,
    ) -> SubmittedJob:
        self.in_flight.check_open()
        model = self.catalog.of_group(caller.price_group).image_model(request.model)
        count = _count(request, inputs)
        engine = self.engine_for(model, count) or self.engine_to_come(model, count)
        if engine is None:
            self.stand_ins.unavailable.add(model.name, self.why_no_engine(model))
            raise Overloaded(f"{model.name} is not available at the moment; try again later", retry_after_s=30)
        check_lora_tags(request, model.name, engine.lora_names(model.name))
        await self._policy.check(request.prompt, request.negative_prompt)
        if (bare := without_tags(request.prompt)) != request.prompt:
            # A tag within a word must not hide it.
            await self._policy.check(bare, without_tags(request.negative_prompt))
        if request.model != model.name:
            request = msgspec.structs.replace(request, model=model.name)
        if self._services.spans is not None:
            request = msgspec.structs.replace(request, trace=request_parent())
        request = _with_quality(request, model)
        waits = not self._is_available(engine.name, model.name, 0)
        job = msgspec.structs.replace(self.known_job(job_id), waits_for_worker=waits)
        if announce is not None:
            await announce(job)
        if inputs is None:
            return await self._reserve(caller, request, model, engine, job)
        uploads = self._services.inputs
        try:
            request = await uploads.put(job_id, request, inputs)
            return await self._reserve(caller, request, model, engine, job)
        except StoreError as error:
            await uploads.delete(job_id)
            log.error("the uploads of a job could not be stored: %s", error)
            raise Overloaded("the image could not be stored; try again", retry_after_s=5) from error
        except ServiceError:
            await uploads.delete(job_id)
            raise

    def new_job_id(self) -> int:
        """Return an ID for a new job."""
        return 1 + random_number(JOB_ID_BITS - 1)

    def known_job(self, job_id: int) -> SubmittedJob:
        """Return what a caller needs to follow this job."""
        return SubmittedJob(job_id, self._signer.sign(SIGNATURE_PURPOSE, str(job_id)))

    async def _reserve(
        self, caller: Caller, request: ImageJobRequest, model: ImageModel, engine: ImageEngine, job: SubmittedJob
    ) -> SubmittedJob:
        size = f"{request.width}x{request.height}"
        price = self.price_of(model, request, engine)
        generation = NewGeneration(
            "image",
            model.name,
            engine.name,
            0,
            price,
            "queued",
            request=_encode(request).decode(),
            seed=random_number(SEED_BITS) if request.seed is None else request.seed,
            size=size,
            webhook_url=request.webhook_url,
        )
        await self._charging.reserve(
            caller,
            image_job_bound(price),
            generation,
            hold_id=job.job_id,
            queue_limit=self._queue_limit,
        )
        self._events.notify_queued()
        return job

    async def check_balance(self, caller: Caller, request: ImageJobRequest, count: int) -> None:
        """Raise InsufficientBalance unless the account can pay for `count` images like this one.

        Each image has a hold of its own; this refuses all of them before the first is generated.
        """
        model = self.catalog.of_group(caller.price_group).image_model(request.model)
        request = _with_quality(request, model)
        price = self.price_of(model, request, self.engine_for(model, 1 if request.task in EDITS else 0))
        needed = count * price
        # Each image is held on the plan's credit or on the balance, never on both.
        wallets = await self._services.database.read_async(
            purses.wallets, caller.account_id, self._services.clock.now_ms()
        )
        available = sum(wallets)
        if price and sum(max(left, 0) // price for left in wallets) < count:
            what, remedy = (f"n: {count} images cost", ", or lower n") if count > 1 else ("this image costs", "")
            raise InsufficientBalance(
                f"{what} ${short_dollars(needed)}, but only ${short_dollars(available)} is available; top up{remedy}",
                needed=needed,
                available=available,
            )

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    async def get(self, job_id: int, signature: str) -> ImageJob:
        """Return the current state of a job. Raises NotFound if the signature is wrong."""
        self._check_signature(job_id, signature)
        return await self.find(job_id)

    async def find(self, job_id: int) -> ImageJob:
        """Return the current state of a job without a signature, for use within the server. Raises NotFound."""
        row = await self._services.database.read_async(jobs.find, job_id)
        if row is None:
            raise _not_found()
        request = _request_of_erased(row) if row.request is None else decode_image_job_request(row.request)
        local_step = self._events.step_of(job_id)
        step = row.step if local_step is None else local_step
        return ImageJob(
            job_id=job_id,
            generation=generation_name(job_id),
            account_id=row.account_id,
            state=row.state,
            ahead=row.ahead,
            step=min(step, request.steps) if row.state == "running" else 0,
            steps=request.steps,
            seed=row.seed,
            model=row.model,
            engine=row.engine,
            served_model=row.served_model,
            shown_model=self.stand_ins.shown_model(row.model, row.engine, row.served_model),
            is_demo=self.stand_ins.is_stand_in(row.engine, row.model),
            object=row.result,
            error_code=row.error_code,
            error=row.error,
            width=request.width,
            height=request.height,
            output_format=request.output_format,
            created_ms=row.created_ms,
            finished_ms=row.finished_ms,
        )

    async def watch(self, job_id: int, signature: str) -> AsyncGenerator[ImageJob]:
        """Yield the job's state now and after every change, until the job has ended."""
        self._check_signature(job_id, signature)
        event = self._events.watch(job_id)
        try:
            previous: ImageJob | None = None
            while previous is None or not previous.is_over:
                event.clear()
                job = await self.find(job_id)
                if job != previous:
                    yield job
                    previous = job
                if not job.is_over:
                    await _wait_for(event, POLL_EVERY_S)
        finally:
            self._events.unwatch(job_id, event)

    async def wait(self, submitted: SubmittedJob, timeout_s: float) -> ImageJob:
        """Return the job once it has ended, or its state after `timeout_s`."""
        job_id = submitted.job_id
        event = self._events.watch(job_id)
        give_up_s = self._clock.steady_s() + timeout_s
        try:
            while True:
                event.clear()
                # Steps also set the event. While the job runs in this process, its row has nothing new.
                if self._events.step_of(job_id) is None:
                    job = await self.find(job_id)
                    if job.is_over or self._clock.steady_s() >= give_up_s:
                        return job
                left_s = give_up_s - self._clock.steady_s()
                if left_s <= 0:
                    return await self.find(job_id)
                await _wait_for(event, min(left_s, POLL_EVERY_S))
        finally:
            self._events.unwatch(job_id, event)

    # ── cancelling ────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, job_id: int, signature: str) -> ImageJob:
        """Cancel the job and release its hold. A job that has ended does not change.

        Raises NotFound, and Overloaded if the database cannot be written.
        """
        job = await self.get(job_id, signature)
        if job.is_over:
            return job
        outcome = Outcome(state="cancelled", error_code="cancelled", error="cancelled on request")
        now_ms = self._clock.now_ms()
        future = self._services.writer.submit(Settle(job_id, job.account_id, 0, now_ms, outcome))
        assert future is not None
        self._services.meters.ended(
            "image", job.model, job_id, outcome, 0, now_ms, future, engine=job.engine, began_ms=job.created_ms
        )
        try:
            await future
        except StoreError as error:
            raise Overloaded("the job could not be cancelled; try again", retry_after_s=5) from error
        self._events.stop(job_id)
        await self._services.inputs.delete(job_id)
        return await self.find(job_id)

    def _check_signature(self, job_id: int, signature: str) -> None:
        if not self._signer.verify(SIGNATURE_PURPOSE, str(job_id), signature):
            raise _not_found()


def _count(request: ImageJobRequest, inputs: EditInputs | None) -> int:
    """Return how many images the engine of a job has to change. Enlarging needs no engine."""
    return len(inputs.images) if inputs is not None and request.task in EDITS else 0


def _request_of_erased(row: jobs.JobDetails) -> ImageJobRequest:
    """Return the remaining data of a request after its text was erased."""
    width, _, height = row.size.partition("x")
    return ImageJobRequest(model=row.model, prompt="", steps=max(1, row.step), width=int(width), height=int(height))


async def _wait_for(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


def _with_quality(request: ImageJobRequest, model: ImageModel) -> ImageJobRequest:
    """Return the request with its quality if the model has it. Raise InvalidRequest if it has another one only."""
    quality, known = request.quality, model.qualities
    if not quality or quality in known:
        return request
    if quality in _USUAL_QUALITIES:
        return msgspec.structs.replace(request, quality="")
    remedy = f"it may be {', '.join(known)}" if known else f"{model.name} has one quality; leave it out"
    raise InvalidRequest(f"quality is {shortened(quality)}; {remedy}", param="quality")


def _not_found() -> NotFound:
    return NotFound(
        "there is no job with this jobid and signature; send both as you received them when you submitted the job",
        param="jobid",
    )
