"""One attempt at one image job: generate, store, settle.

Every attempt ends in exactly one way: the job is settled, it is requeued after a failure, it is handed back to the
queue, or the attempt was superseded and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from minitoolai.billing.job_leases import MAX_FAILURES, MAX_LOSSES
from minitoolai.core.backoff import Backoff
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.stand_ins import StandIns
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import EngineLost, EngineRefused, ObjectMissing, Overloaded, ServiceError, StoreError
from minitoolai.core.inference import EditInputs, ImageJobRequest, decode_image_job_request
from minitoolai.core.models import Outcome
from minitoolai.core.telemetry.meters import Meters
from minitoolai.core.telemetry.tracing import Attributes, Span, Spans, child_span
from minitoolai.core.threads import PICTURES
from minitoolai.engines.images.codec import encode_enlarged, to_format
from minitoolai.engines.images.upscaling import Upscaler
from minitoolai.engines.protocols import GeneratedImage, ImageEngine, ImageRequest
from minitoolai.images.inputs import JobInputs
from minitoolai.images.progress import JobEvents
from minitoolai.images.provenance.marks import ImageMarks
from minitoolai.images.unstored import StoreOutage, UnstoredImages
from minitoolai.ledger.types import Requeue, Requeued, Result, Settle, Settled, Superseded
from minitoolai.storage.database import Database
from minitoolai.storage.object_store import ObjectStore
from minitoolai.storage.tables import jobs
from minitoolai.storage.tables.jobs import ClaimedJob
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

#: Retry a full or unreachable object store for this long before the attempt fails. The image is kept on disk meanwhile,
#: and no more jobs are claimed.
STORE_RETRY_S = 6 * 3600.0
#: Bounds of the exponential backoff between those retries.
FIRST_RETRY_S, LONGEST_RETRY_S = 0.25, 5.0


@dataclass(frozen=True)
class JobServices:
    """Services that the image service, the worker and its attempts share."""

    database: Database
    writer: Writer
    clock: Clock
    objects: ObjectStore
    events: JobEvents
    meters: Meters = field(default_factory=Meters)
    spans: Spans | None = None
    #: None if marking is off.
    marks: ImageMarks | None = None
    #: Where images wait while the object store is away; None: in memory only.
    unstored: UnstoredImages | None = None
    #: Whether the object store is away, as seen by the attempts of this process.
    outage: StoreOutage = field(default_factory=StoreOutage)
    #: The catalog, and what its embedded models do for models that are not theirs.
    stand_ins: StandIns = field(default_factory=lambda: StandIns(Catalog({}, {})))
    #: None if no model has an upscaler.
    upscaler: Upscaler | None = None

    @property
    def inputs(self) -> JobInputs:
        """Return where the uploads of jobs are."""
        return JobInputs(self.database, self.writer, self.objects, self.clock)


#: The model that images name that were enlarged by a filter.
LANCZOS = "lanczos"


class JobAttempt:
    """Run one attempt. `task` executes `run`; `stop` cancels it from outside."""

    def __init__(self, services: JobServices, job: ClaimedJob, engine: ImageEngine) -> None:
        self._services = services
        self.job = job
        self.engine = engine
        self.request: ImageJobRequest = decode_image_job_request(job.request)
        self.key = engine.batch_key(job.model, self.request.width, self.request.height)
        self.step = 0
        self.task: asyncio.Task[None] | None = None
        #: The job was cancelled, another attempt owns it, or its end is already queued. Do not hand it back.
        self.superseded = False
        #: Whether the engine generated an image; None while that is open.
        self.generated: bool | None = None
        #: Its key was revoked or its account suspended: how the job ends instead.
        self.refusal: Outcome | None = None
        self._span: Span | None = None

    def stop(self, *, superseded: bool) -> None:
        """Cancel the attempt. Unless it is superseded, its job returns to the queue."""
        self.superseded = self.superseded or superseded
        if self.task is not None:
            self.task.cancel()

    def refuse(self, outcome: Outcome) -> None:
        """Fail the job unpaid. No effect once its end is queued."""
        if self.superseded or self.refusal is not None:
            return
        self.refusal = outcome
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        """Run from the claim to the last commit."""
        if self.refusal is not None:
            await self.settle(0, self.refusal, is_fault=False)
            return
        if self._services.spans is not None:
            self._span = self._start_span(self._services.spans)
        try:
            await self._generate_and_settle()
        except asyncio.CancelledError:
            if self._span is not None:
                self._span.set_attribute("error.type", "lost" if self.superseded else "handed_back")
            if self.refusal is not None and not self.superseded:
                self._submit_settle(0, self.refusal, is_fault=False)
            elif not self.superseded:
                self._hand_back()
            raise
        finally:
            if self._span is not None:
                self._span.end()

    def _start_span(self, spans: Spans) -> Span | None:
        job = self.job
        return spans.start_job(self.request.trace, job.id, job.model, job.created_ms, self._attributes())

    def _attributes(self) -> Attributes:
        return {"gen_ai.provider.name": self.engine.name, "minitoolai.attempt": self.job.attempt}

    async def _generate_and_settle(self) -> None:
        try:
            image, data = await self._unstored_or_new()
            self.generated = True
            key = await self.store(data, image.model)
        except EngineRefused as error:
            self._log_failure(logging.INFO, error.code)
            outcome = Outcome(state="failed", error_code=error.code, error=error.message)
            await self.settle(0, outcome, is_fault=False)
        except EngineLost as error:
            await self.lose(error)
        except ServiceError as error:
            await self.fail(error.code, error.message)
        except ObjectMissing as error:
            log.error("job %d: its upload is missing: %s", self.job.id, error)
            await self.fail("storage_error", "the uploaded image is missing from our storage")
        except StoreError as error:
            log.warning("job %d: the image could not be stored or read: %s", self.job.id, error)
            await self.fail("storage_error", "the image could not be stored")
        except Exception as error:
            log.exception("job %d: the engine raised an unexpected exception", self.job.id)
            await self.fail("internal_error", f"{type(error).__name__} while generating the image", is_logged=True)
        else:
            await self._deliver(image, key)

    async def _unstored_or_new(self) -> tuple[GeneratedImage, bytes]:
        """Return the image and its signed bytes: of an earlier attempt if the store was away then, else a new one."""
        unstored = self._services.unstored
        if unstored is not None and (kept := await unstored.find(self.job.id)) is not None:
            return GeneratedImage(png=kept.data, model=kept.model), kept.data
        image = await self.generate(await self._engine_request())
        return image, await self._sign(image)

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Generate the image. Raises EngineError, and any exception that a faulty engine raises."""
        with child_span(self._span, "draw", self._attributes()):
            if request.task == "upscale":
                image = await self._enlarge(request)
            else:
                image = await self.engine.generate(self.job.model, request, self._on_progress)
        own = self.request
        if own.output_format == "png":
            return image
        data = await PICTURES.run(to_format, image.png, own.output_format, own.output_compression)
        return GeneratedImage(png=data, model=image.model)

    async def _enlarge(self, request: ImageRequest) -> GeneratedImage:
        """Enlarge the upload by the model's upscaler, or by Lanczos's filter if it has none or that fails."""
        upscaler = self._services.upscaler
        found = None if upscaler is None else await upscaler.enlarge(self.job.model, request.images[0])
        name, large = (LANCZOS, None) if found is None else found
        return GeneratedImage(png=await PICTURES.run(encode_enlarged, request, name, large), model=name)

    async def _sign(self, image: GeneratedImage) -> bytes:
        """Return the image with its manifest, if marking is on."""
        marks, job = self._services.marks, self.job
        if marks is None:
            return image.png
        model = self._services.stand_ins.shown_model(job.model, self.engine.name, image.model)
        generator = self._services.stand_ins.catalog.shop.generator
        return await PICTURES.run(marks.sign, image.png, job.id, job.created_ms, model, generator)

    async def _engine_request(self) -> ImageRequest:
        """Return the request with its uploads. Raises StoreError."""
        request, marks = self.request, self._services.marks
        inputs = await self._services.inputs.get(request) if request.images else EditInputs(())
        return ImageRequest(
            prompt=request.prompt,
            model=self.job.model,
            negative_prompt=request.negative_prompt,
            scheduler=request.scheduler,
            steps=request.steps,
            cfg_scale=request.cfg_scale,
            width=request.width,
            height=request.height,
            seed=self.job.seed,
            quality=request.quality,
            task=request.task,
            images=inputs.images,
            mask=inputs.mask,
            strength=request.strength,
            generator=self._services.stand_ins.catalog.shop.version,
            watermark=marks.codec.watermark(self.job.id, self.job.created_ms) if marks else None,
        )

    def _on_progress(self, step: int, _: int) -> None:
        self.step = step
        self._services.events.step(self.job.id, step)

    async def store(self, png: bytes, model: str = "") -> str:
        """Store the image and return its key. While the store is away, keep the image on disk and try again.

        Raises StoreError once `STORE_RETRY_S` have passed.
        """
        services, job_id = self._services, self.job.id
        clock, unstored = services.clock, services.unstored
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, clock=clock.steady_s)
        give_up_s = clock.steady_s() + STORE_RETRY_S
        is_kept, is_cleared = False, not self.job.setbacks
        with child_span(self._span, "keep", {"minitoolai.bytes": len(png)}), services.outage.watched(job_id) as outage:
            while True:
                try:
                    key = await services.objects.put(job_id, png)
                except StoreError as error:
                    delay_s = backoff.record_failure()
                    if clock.steady_s() + delay_s > give_up_s:
                        raise
                    if unstored is not None and not is_kept:
                        is_kept = await unstored.keep(job_id, model, png)
                    is_cleared = is_cleared or await self._forget_losses()
                    outage.failed()
                    log.info("job %d: storing the image failed, will retry: %s", job_id, error)
                else:
                    break
                await asyncio.sleep(delay_s)
        if unstored is not None:
            await unstored.forget(job_id)
        return key

    async def _forget_losses(self) -> bool:
        """Forget earlier losses, for the workers may be lost as often as they like while images wait for the store.

        Return False if that could not be written.
        """
        try:
            await self._services.writer.run(partial(jobs.forget_losses, job_id=self.job.id, attempt=self.job.attempt))
        except (StoreError, Overloaded) as error:
            log.info("job %d: its losses could not be forgotten, will retry: %s", self.job.id, error)
            return False
        return True

    # ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────

    async def _deliver(self, image: GeneratedImage, key: str) -> None:
        outcome = Outcome(
            state="succeeded",
            output_units=1,
            served_model=image.model,
            result=key,
            delivered_bytes=len(image.png),
        )
        result = await self.settle(self.job.price, outcome)
        if isinstance(result, Superseded):
            log.warning("job %d: dropped the image of attempt %d, superseded", self.job.id, self.job.attempt)
        elif isinstance(result, Settled) and result.repeated and result.cost < self.job.price:
            # The job was cancelled meanwhile, so no caller can fetch the image.
            await self._services.objects.delete(key)

    async def settle(self, cost: int, outcome: Outcome, *, is_fault: bool = True) -> Result:
        """End the job and charge `cost` in the same commit. `is_fault`: see ServiceError."""
        job, span, spans = self.job, self._span, self._services.spans
        attributes = {} if spans is None or span is None else spans.start_job_settle(span, job.id, cost, outcome)
        with child_span(span, "settle", attributes):
            result = await self._written(self._submit_settle(cost, outcome, is_fault=is_fault))
        if isinstance(result, Settled):
            await self._delete_inputs()
        return result

    async def _delete_inputs(self) -> None:
        """Delete the uploads of the job, which has ended."""
        if self.request.images:
            await self._services.inputs.delete(self.job.id)

    def _submit_settle(self, cost: int, outcome: Outcome, *, is_fault: bool) -> asyncio.Future[Result]:
        job, services = self.job, self._services
        now_ms = services.clock.now_ms()
        future = services.writer.submit(Settle(job.id, job.account_id, cost, now_ms, outcome, job.attempt))
        assert future is not None
        self._count(outcome, cost, now_ms, future, is_fault=is_fault)
        return future

    def _count(
        self, outcome: Outcome, cost: int, now_ms: int, charge: asyncio.Future[Result], *, is_fault: bool = True
    ) -> None:
        self._services.meters.ended(
            "image",
            self.job.model,
            self.job.id,
            outcome,
            cost,
            now_ms,
            charge,
            engine=self.engine.name,
            began_ms=self.job.created_ms,
            is_fault=is_fault,
        )

    async def fail(self, code: str, message: str, *, is_logged: bool = False) -> None:
        """Record a failed attempt. The job is requeued, or fails for good after `MAX_FAILURES`."""
        self._services.meters.engine_failed(self.engine.name, code, self._services.clock.now_ms())
        self.generated = bool(self.generated)
        if self._span is not None:
            self._span.fail(code)
        with child_span(self._span, "queue again", {"error.type": code}):
            requeue = self._requeue("failed", code, message)
            future = self._services.writer.submit(requeue)
            assert future is not None
            self._count(Outcome("failed", error_code=code), 0, requeue.now_ms, future)
            result = await self._written(future)
        if isinstance(result, Requeued):
            log.info(
                "job %d: attempt failed at %s (%s); requeued after failure %d",
                self.job.id,
                self.engine.name,
                code,
                result.count,
            )
        else:
            if not is_logged:
                self._log_failure(logging.WARNING, code)
            if isinstance(result, Settled):
                await self._delete_inputs()

    async def lose(self, error: EngineLost) -> None:
        """Record an attempt that was lost with the engine's machine. The job fails only after `MAX_LOSSES` in a row."""
        job = self.job
        log.info("job %d: handed back by %s: %s", job.id, self.engine.name, error.message)
        requeue = self._requeue("handed_back")
        if error.under_way:
            message = f"the job was interrupted {MAX_LOSSES} times"
            requeue = Requeue(
                job.id, job.account_id, job.attempt, requeue.now_ms, "lapsed", MAX_LOSSES, "interrupted", message, True
            )
        future = self._services.writer.submit(requeue)
        assert future is not None
        self._count(Outcome("failed", error_code="interrupted"), 0, requeue.now_ms, future)
        if isinstance(await self._written(future), Settled):
            self._log_failure(logging.WARNING, "interrupted")
            await self._delete_inputs()

    def _log_failure(self, level: int, code: str) -> None:
        """Log that the job has failed for good. The code only: an engine's message may repeat the prompt."""
        job, engine = self.job, self.engine.name
        log.log(
            level,
            "generation %s: job %d of model %s failed at %s (%s)",
            generation_name(job.id),
            job.id,
            job.model,
            engine,
            code,
            extra={"fields": {"model": job.model, "engine": engine, "reason": code}},
        )

    async def _written(self, future: asyncio.Future[Result]) -> Result:
        """Wait for the write. It happens even if the attempt is cancelled, so the job is not handed back as well."""
        self.superseded = True
        return await asyncio.shield(future)

    def _hand_back(self) -> None:
        self._services.writer.submit(self._requeue("handed_back"), wait=False)

    def _requeue(
        self, reason: Literal["failed", "handed_back"], code: str = "interrupted", message: str | None = None
    ) -> Requeue:
        job, now_ms = self.job, self._services.clock.now_ms()
        return Requeue(job.id, job.account_id, job.attempt, now_ms, reason, MAX_FAILURES, code, message)
