"""One attempt at one job: drawn, kept, charged; or handed back, or failed. Whatever happens, exactly one of these."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal, Protocol

from minitoolai.core.clock import Clock
from minitoolai.core.errors import EngineRefused, ServiceError, StoreError
from minitoolai.core.inference import ImageJobRequest, decode_image_job_request
from minitoolai.core.meters import Meters
from minitoolai.core.models import Outcome
from minitoolai.core.tracing import Attributes, Span, Spans, child_span
from minitoolai.engines.protocols import GeneratedImage, ImageEngine, ImageRequest
from minitoolai.ledger.types import Requeue, Requeued, Result, Settle, Settled, Superseded
from minitoolai.storage.jobs import ClaimedJob
from minitoolai.storage.object_store import ObjectStore
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)

MOST_FAILURES = 3
#: A store that is full or gone is tried for so long before the attempt counts as failed; the picture waits in memory.
STORE_PATIENCE_S = 60.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.25, 5.0


class Home(Protocol):
    """What an attempt needs of the worker that makes it."""

    clock: Clock
    writer: Writer
    meters: Meters
    objects: ObjectStore
    spans: Spans | None


class JobAttempt:
    """An attempt. `task` runs it; `stop` breaks it off from outside."""

    def __init__(self, home: Home, job: ClaimedJob, engine: ImageEngine, on_step: Callable[[int, int], None]) -> None:
        """`on_step(job, step)` hears of every step."""
        self._home = home
        self.job = job
        self.engine = engine
        self.ask: ImageJobRequest = decode_image_job_request(job.request)
        self.key = engine.batch_key(job.model, self.ask.width, self.ask.height)
        self.step = 0
        self._on_step = on_step
        self.task: asyncio.Task[None] | None = None
        #: Somebody else decides on it now: cancelled by its owner, or another attempt is under way.
        self.is_lost = False
        #: None until the engine has drawn, or failed to.
        self.is_drawn: bool | None = None
        self._span: Span | None = None

    def stop(self, *, is_lost: bool) -> None:
        """Break off. A job that is not lost is handed back."""
        self.is_lost = self.is_lost or is_lost
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        """From the claim to the last commit."""
        if self._home.spans is not None:
            self._span = self._start_span(self._home.spans)
        try:
            await self._draw_and_settle()
        except asyncio.CancelledError:
            if self._span is not None:
                self._span.set_attribute("error.type", "lost" if self.is_lost else "handed_back")
            if not self.is_lost:
                self._hand_back()
            raise
        finally:
            if self._span is not None:
                self._span.end()

    def _start_span(self, spans: Spans) -> Span | None:
        job = self.job
        return spans.start_job(self.ask.trace, job.id, job.model, job.created_ms, self._attributes())

    def _attributes(self) -> Attributes:
        return {"gen_ai.provider.name": self.engine.name, "minitoolai.attempt": self.job.attempt}

    async def _draw_and_settle(self) -> None:
        try:
            image = await self.draw()
            self.is_drawn = True
            key = await self.keep(image.png)
        except EngineRefused as error:
            await self.settle(0, Outcome(state="failed", error_code=error.code, error=error.message))
        except ServiceError as error:
            await self.fail(error.code, error.message)
        except StoreError as error:
            await self.fail("storage_error", f"the picture could not be kept: {error}")
        except Exception as error:
            log.exception("job %d met what no engine should raise", self.job.id)
            await self.fail("internal_error", f"{type(error).__name__} while drawing")
        else:
            await self._deliver(image, key)

    async def draw(self) -> GeneratedImage:
        """Have the engine draw it. EngineError, and whatever else engines raise."""
        with child_span(self._span, "draw", self._attributes()):
            return await self.engine.generate(self.job.model, self._request(), self._came_along)

    def _request(self) -> ImageRequest:
        ask = self.ask
        return ImageRequest(
            prompt=ask.prompt,
            negative_prompt=ask.negative_prompt,
            scheduler=ask.scheduler,
            steps=ask.steps,
            cfg_scale=ask.cfg_scale,
            width=ask.width,
            height=ask.height,
            seed=self.job.seed,
        )

    def _came_along(self, step: int, steps: int) -> None:
        self.step = step
        self._on_step(self.job.id, step)

    async def keep(self, png: bytes) -> str:
        """The picture's key. A store that is full or gone may come back: what was drawn is not thrown away at once."""
        delay_s, give_up_s = FIRST_RETRY_S, self._home.clock.steady_s() + STORE_PATIENCE_S
        with child_span(self._span, "keep", {"minitoolai.bytes": len(png)}):
            while True:
                try:
                    return await self._home.objects.put(self.job.id, png)
                except StoreError as error:
                    if self._home.clock.steady_s() + delay_s > give_up_s:
                        raise
                    log.warning("job %d: the picture cannot be kept yet: %s", self.job.id, error)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, LONGEST_RETRY_S)

    # ── how it ends ───────────────────────────────────────────────────────────────────────────────────────

    async def _deliver(self, image: GeneratedImage, key: str) -> None:
        outcome = Outcome(state="succeeded", output_units=1, served_model=image.model, result=key)
        verdict = await self.settle(self.job.price, outcome)
        if isinstance(verdict, Superseded):
            log.warning("job %d: attempt %d came too late and is dropped", self.job.id, self.job.attempt)
        elif isinstance(verdict, Settled) and verdict.repeated and verdict.cost < self.job.price:
            # It was cancelled meanwhile: nobody will ever ask for the picture.
            await self._home.objects.delete(key)

    async def settle(self, cost: int, outcome: Outcome) -> Result:
        """The end, in one commit with what it costs."""
        job = self.job
        now_ms = self._home.clock.now_ms()
        self._home.meters.ended("image", job.model, job.id, outcome, cost, now_ms)
        settle = Settle(job.id, job.account_id, cost, now_ms, outcome, job.attempt)
        spans, span = self._home.spans, self._span
        attributes = {} if spans is None or span is None else spans.start_job_settle(span, job.id, cost, outcome)
        with child_span(span, "settle", attributes):
            future = self._home.writer.submit(settle)
            assert future is not None
            return await self._written(future)

    async def fail(self, code: str, message: str) -> None:
        """This attempt came to nothing: the job waits again, or has failed too often."""
        self._home.meters.engine_failed(self.engine.name, code)
        self.is_drawn = bool(self.is_drawn)
        if self._span is not None:
            self._span.fail(code)
        with child_span(self._span, "queue again", {"error.type": code}):
            future = self._home.writer.submit(self._requeue("failed", code, message))
            assert future is not None
            verdict = await self._written(future)
        again = f"waits again after failure {verdict.failures}" if isinstance(verdict, Requeued) else "has ended"
        # An engine's own words might repeat the prompt: they stand with the job.
        log.warning("job %d: %s at %s; it %s", self.job.id, code, self.engine.name, again)

    async def _written(self, future: asyncio.Future[Result]) -> Result:
        """Once this is queued it will be written, and must not be followed by a handing back."""
        self.is_lost = True
        return await asyncio.shield(future)

    def _hand_back(self) -> None:
        self._home.writer.submit(self._requeue("handed_back"), wait=False)

    def _requeue(
        self, reason: Literal["failed", "handed_back"], code: str = "interrupted", message: str | None = None
    ) -> Requeue:
        job, now_ms = self.job, self._home.clock.now_ms()
        return Requeue(job.id, job.account_id, job.attempt, now_ms, reason, MOST_FAILURES, code, message)
