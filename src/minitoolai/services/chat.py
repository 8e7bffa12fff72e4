"""A chat answer from reservation to charge: choose the engine, hold, stream, settle. Knows no HTTP.

The charge is queued in a `finally` that awaits nothing, so no way out of an answer is free of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from minitoolai.core.catalog import Catalog, ChatModel
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import ContextExceeded, EngineError, EngineTimeout, InvalidRequest, Overloaded, ServiceError
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.core.records import Caller, NewGeneration, Outcome
from minitoolai.engines.base import ChatAnswer, ChatEngine
from minitoolai.services import pricing
from minitoolai.services.charging import Charging, Reservation

log = logging.getLogger(__name__)

TICK_S = 0.5
CHECKPOINT_EVERY_S = 1.0
HEARTBEAT_AFTER_S = 15.0
#: Bytes of text a token stands for where nobody counted: English in the tokenizers in use.
BYTES_PER_TOKEN = 4


class ChatRun:
    """One answer under way. Made by ChatService.begin; must end in exactly one call of `finish`."""

    __slots__ = (
        "_checkpoint_s", "_service", "answer", "clamped", "engine", "estimated_prompt", "first_token_s", "model",
        "name", "prompt_tokens", "request", "reservation", "started_s", "stop_reason", "task", "tokens", "usage",
    )  # fmt: skip

    def __init__(
        self,
        service: ChatService,
        request: ChatRequest,
        model: ChatModel,
        engine: ChatEngine,
        reservation: Reservation,
        prompt_tokens: int | None,
    ) -> None:
        self._service = service
        self.request = request
        self.model = model
        self.engine = engine
        self.reservation = reservation
        self.name = generation_name(reservation.hold_id)
        self.estimated_prompt = prompt_tokens is None
        self.prompt_tokens = prompt_tokens if prompt_tokens is not None else request.text_bytes // BYTES_PER_TOKEN
        self.started_s = self._checkpoint_s = service.clock.steady_s()
        self.first_token_s: float | None = None
        self.answer: ChatAnswer | None = None
        self.tokens = 0
        self.usage: Usage | None = None
        self.stop_reason: ServiceError | None = None
        self.task: asyncio.Task[object] | None = None
        self.clamped = False

    async def open(self) -> ChatAnswer:
        """Send the request to the engine; returns as its answer begins."""
        self.answer = await self.engine.open(self.request, self.reservation.units)
        return self.answer

    def stop(self, reason: ServiceError) -> None:
        """Break off from outside: a timeout, a caller who left, a server that stops."""
        if self.stop_reason is None and self.task is not None and not self.task.done():
            self.stop_reason = reason
            self.task.cancel()

    def saw_first_token(self) -> None:
        """Note the time of the first token, once."""
        if self.first_token_s is None:
            self.first_token_s = self._service.clock.steady_s()

    def usage_so_far(self) -> Usage:
        """What the engine said, or our own count."""
        if self.usage is not None:
            return self.usage
        return Usage(self.prompt_tokens if self.tokens else 0, self.tokens, self.prompt_tokens + self.tokens)

    def cost_so_far(self) -> int:
        """What would be charged if the answer ended now."""
        held = self.reservation
        return pricing.chat_cost(held.price_input, held.price_output, self.usage_so_far())

    def finish(
        self, error: ServiceError | None = None, *, served_model: str | None = None, wait: bool = True
    ) -> asyncio.Future[object] | None:
        """Queue the charge for what was read and written; the future resolves once it is durable."""
        self._service.forget(self)
        usage = self.usage_so_far()
        failed = error is not None
        cost = self.cost_so_far()
        if cost > self.reservation.amount:
            log.error("%s cost %d over its hold of %d: the house pays", self.name, cost, self.reservation.amount)
        now_s = self._service.clock.steady_s()
        outcome = Outcome(
            state="cancelled"
            if failed and error and error.code == "client_left"
            else "failed"
            if failed
            else "succeeded",
            input_units=usage.prompt_tokens,
            output_units=usage.completion_tokens,
            cached_units=usage.cached_tokens,
            estimated=self.usage is None and usage.completion_tokens > 0,
            served_model=served_model,
            error_code=error.code if error else None,
            first_token_ms=round((self.first_token_s - self.started_s) * 1000) if self.first_token_s else None,
            duration_ms=round((now_s - self.started_s) * 1000),
        )
        return self._service.charging.settle(self.reservation, cost, outcome, wait=wait)

    def tick(self, now_s: float) -> None:
        """Called twice a second: renew the lease, enforce the timeouts."""
        if now_s - self._checkpoint_s >= CHECKPOINT_EVERY_S:
            self._checkpoint_s = now_s
            self._service.charging.keep_alive(self.reservation, self.cost_so_far())
        waited_s = now_s - self.started_s
        first, total = self._service.timeouts(self.engine)
        if self.first_token_s is None and waited_s > first:
            self.stop(EngineTimeout(f"the model sent no token for {first:.0f} s; nothing was charged"))
        elif waited_s > total:
            self.stop(
                EngineTimeout(f"the answer took more than {total:.0f} s and was cut; what was written is charged")
            )


class ChatService:
    """Everything that serves chats in this process."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, ChatEngine],
        charging: Charging,
        clock: Clock,
        *,
        first_token_timeout_s: float,
        total_timeout_s: float,
    ) -> None:
        self.catalog = catalog
        self.engines = engines
        self.charging = charging
        self.clock = clock
        self._first_token_timeout_s = first_token_timeout_s
        self._total_timeout_s = total_timeout_s
        self.runs: set[ChatRun] = set()
        self.draining = False

    def timeouts(self, engine: ChatEngine) -> tuple[float, float]:
        """Seconds to the first token, and in all."""
        return (
            engine.first_token_timeout_s or self._first_token_timeout_s,
            engine.total_timeout_s or self._total_timeout_s,
        )

    def engine_for(self, model: ChatModel) -> ChatEngine | None:
        """The first of the model's engines that is ready."""
        for name in model.engines:
            engine = self.engines[name]
            if engine.why_not_ready() is None:
                return engine
        return None

    async def begin(self, caller: Caller, request: ChatRequest) -> ChatRun:
        """Check the request against model and engine and hold its upper bound; the caller then opens the run.

        ModelNotFound, InvalidRequest, ContextExceeded, InsufficientBalance, Overloaded.
        """
        if self.draining:
            raise Overloaded("the server is restarting; try again", retry_after_s=2)
        model = self.catalog.chat_model(request.model)
        engine = self._ready_engine(model)
        check_fit(request, model, engine)
        engine.check_room()
        prompt_tokens = await engine.count_prompt(request)
        limit = output_limit(request, model, engine.context_tokens(), prompt_tokens)
        counted = prompt_tokens if prompt_tokens is not None else pricing.prompt_bound(request, model)
        bound = pricing.chat_bound(model, prompt_tokens=counted, limit=limit, choices=request.choices)
        generation = NewGeneration("chat", model.name, engine.name, model.price_input, model.price_output)
        reservation = await self.charging.reserve(caller, bound, generation)
        run = ChatRun(self, request, model, engine, reservation, prompt_tokens)
        run.clamped = reservation.units < limit
        self.runs.add(run)
        return run

    def _ready_engine(self, model: ChatModel) -> ChatEngine:
        engine = self.engine_for(model)
        if engine is None:
            reasons = "; ".join(f"{name}: {self.engines[name].why_not_ready()}" for name in model.engines)
            raise Overloaded(f"no engine for {model.name} is ready ({reasons})", retry_after_s=30)
        return engine

    def forget(self, run: ChatRun) -> None:
        """The run has ended."""
        self.runs.discard(run)

    async def keep_time(self) -> None:
        """Drive the clocks of all answers until cancelled: one task for all of them, no timer for each."""
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self.clock.steady_s()
            for run in list(self.runs):
                run.tick(now_s)

    async def drain(self, timeout_s: float) -> int:
        """Take no more, let what runs finish, break off the rest; how many were broken off."""
        self.draining = True
        give_up_s = self.clock.steady_s() + timeout_s
        while self.runs and self.clock.steady_s() < give_up_s:
            await asyncio.sleep(0.05)
        left = list(self.runs)
        for run in left:
            run.stop(EngineError("the server stopped before the answer ended; what was written is charged"))
        while self.runs and self.clock.steady_s() < give_up_s + 2:
            await asyncio.sleep(0.02)
        return len(left)


def check_fit(request: ChatRequest, model: ChatModel, engine: ChatEngine) -> None:
    """InvalidRequest that names the field which this model, on this engine, cannot honour."""
    if request.images and model.image_tokens is None:
        raise InvalidRequest(f"{model.name} cannot see images; gpt-4o-mini and gpt-4o can", param="messages")
    if request.images and not engine.vision:
        raise InvalidRequest(
            f"{model.name} is answered here by {engine.name}, which cannot see images; remove the image_url part, or "
            "have the operator set an upstream that can, such as MINITOOLAI_OPENAI_API_KEY",
            param="messages",
        )
    field = engine.unsupported_field(request)
    if field is not None:
        raise InvalidRequest(
            f"{field} is not supported by {engine.name}, which answers for {model.name} here; leave it out", param=field
        )
    if request.limit is not None and request.limit > model.max_output and not request.limit_is_default:
        raise InvalidRequest(
            f"max_completion_tokens is {request.limit} and {model.name} writes at most {model.max_output}",
            param="max_completion_tokens",
        )


def output_limit(request: ChatRequest, model: ChatModel, context: int | None, prompt_tokens: int | None) -> int:
    """Output tokens to hold and force: what was asked, or the most that fits. ContextExceeded where nothing fits."""
    limit = min(request.limit or model.max_output, model.max_output)
    window = min(model.context, context or model.context)
    if prompt_tokens is None:
        return limit
    room = window - prompt_tokens
    if room < 1 or (request.limit is not None and not request.limit_is_default and limit > room):
        raise ContextExceeded(
            f"the prompt is {prompt_tokens} tokens and {limit} of output were asked for; {model.name} has {window} "
            "here for both: shorten the messages or lower max_completion_tokens",
            param="messages",
        )
    return min(limit, room)
