"""Submit, watch and cancel image jobs. Independent of HTTP.

`ImageWorker` runs the jobs, in this process or another. Service and worker communicate through the job rows and, within
one process, through `JobEvents`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

import msgspec

from minitoolai.billing.charging import Charging, image_job_bound
from minitoolai.core.catalog import Catalog, ImageModel
from minitoolai.core.clock import generation_name, random_number
from minitoolai.core.errors import InsufficientBalance, NotFound, Overloaded, ServiceError, StoreError
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ImageJob, ImageJobRequest, SubmittedJob, decode_image_job_request
from minitoolai.core.models import Caller, NewGeneration, Outcome
from minitoolai.core.money import format_dollars
from minitoolai.core.signing import UrlSigner
from minitoolai.core.tracing import request_parent
from minitoolai.engines.protocols import ImageEngine
from minitoolai.images.attempt import JobServices
from minitoolai.images.moderation import PromptPolicy
from minitoolai.ledger.types import Settle
from minitoolai.storage import accounts, jobs

#: Seeds as in AUTOMATIC1111.
SEED_BITS = 32
#: Job IDs fit exactly into a JSON number of every client.
JOB_ID_BITS = 53
#: Purpose of the signature that gives access to a job.
SIGNATURE_PURPOSE = "image-job"
#: Read the row of a watched job this often: its queue position and the progress in other processes send no event.
POLL_EVERY_S = 0.5

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
    ) -> None:
        """`queue_limit` is the largest number of queued jobs per account."""
        self.catalog = catalog
        self.engines = engines
        self.in_flight = in_flight
        self._services = services
        self._events = services.events
        self._clock = services.clock
        self._charging = charging
        self._policy = policy
        self._signer = signer
        self._queue_limit = queue_limit

    # ── engines ───────────────────────────────────────────────────────────────────────────────────────────

    def engine_for(self, model: ImageModel) -> ImageEngine | None:
        """Return the first of the model's engines that is ready, in this process or another."""
        return next((self.engines[name] for name in model.engines if self._is_available(name, model.name)), None)

    def _is_available(self, engine: str, model: str) -> bool:
        if self.engines[engine].why_not_ready(model) is None:
            return True
        return model in self._events.available_models.get(engine, ())

    def why_no_engine(self, model: ImageModel) -> str:
        """Return why none of the model's engines is ready."""
        return "; ".join(f"{name}: {self.engines[name].why_not_ready(model.name)}" for name in model.engines)

    # ── submitting ────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, caller: Caller, request: ImageJobRequest) -> SubmittedJob:
        """Hold the price and queue the job, in one commit.

        Raises ModelNotFound, ContentRefused, InsufficientBalance, RateLimited if the account's queue is full, and
        Overloaded if no engine is ready.
        """
        try:
            return await self._submit(caller, request)
        except ServiceError as error:
            if error.is_fault and (model := self.catalog.images.get(request.model)) is not None:
                engine = self.engine_for(model)
                self._charging.count_refusal(model.engines[0] if engine is None else engine.name, model.name, error)
            raise

    async def _submit(self, caller: Caller, request: ImageJobRequest) -> SubmittedJob:
        self.in_flight.check_open()
        model = self.catalog.image_model(request.model)
        engine = self.engine_for(model)
        if engine is None:
            raise Overloaded(
                f"{model.name} is temporarily unavailable ({self.why_no_engine(model)}); try again later",
                retry_after_s=30,
            )
        await self._policy.check(request.prompt, request.negative_prompt)
        if self._services.spans is not None:
            request = msgspec.structs.replace(request, trace=request_parent())
        generation = NewGeneration(
            "image",
            model.name,
            engine.name,
            0,
            model.price,
            "queued",
            request=_encode(request).decode(),
            seed=random_number(SEED_BITS) if request.seed is None else request.seed,
            size=f"{request.width}x{request.height}",
            webhook_url=request.webhook_url,
        )
        reservation = await self._charging.reserve(
            caller,
            image_job_bound(model.price),
            generation,
            hold_id=1 + random_number(JOB_ID_BITS - 1),
            queue_limit=self._queue_limit,
        )
        self._events.notify_queued()
        return SubmittedJob(reservation.hold_id, self._signer.sign(SIGNATURE_PURPOSE, str(reservation.hold_id)))

    async def check_balance(self, caller: Caller, model: str, count: int) -> None:
        """Raise InsufficientBalance unless the account can pay for `count` images.

        Each image has a hold of its own; this refuses all of them before the first is generated.
        """
        needed = count * self.catalog.image_model(model).price
        balance = await self._services.database.read_async(accounts.balance_of, caller.account_id)
        available = balance.available
        if available < needed:
            raise InsufficientBalance(
                f"n: {count} images cost ${format_dollars(needed)}, but only ${format_dollars(available)} is "
                "available; top up, or lower n",
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
            object=row.result,
            error_code=row.error_code,
            error=row.error,
            width=request.width,
            height=request.height,
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
        return await self.find(job_id)

    def _check_signature(self, job_id: int, signature: str) -> None:
        if not self._signer.verify(SIGNATURE_PURPOSE, str(job_id), signature):
            raise _not_found()


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


def _not_found() -> NotFound:
    return NotFound(
        "there is no job with this jobid and signature; send both as you received them when you submitted the job",
        param="jobid",
    )
