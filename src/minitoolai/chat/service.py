"""Chats from request to reservation: choose the engine, check the fit, hold the bound. Knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from minitoolai.billing import charging as pricing
from minitoolai.billing.charging import Charging
from minitoolai.chat.image_inputs import ImageInputs
from minitoolai.chat.router import Router
from minitoolai.chat.run import ChatRun
from minitoolai.core.catalog import Catalog, ChatModel
from minitoolai.core.clock import Clock
from minitoolai.core.errors import ContextExceeded, InvalidRequest
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.core.models import Caller, NewGeneration
from minitoolai.core.tracing import Spans
from minitoolai.engines.protocols import ChatEngine, ChatResponse

# (merged from fit) Whether a request fits a model and the engine that answers; a refusal names the field and the models that can.

#: Models that a refusal names at most.
NAMED_AT_MOST = 5


class ModelLookup(Protocol):
    """Who could answer instead."""

    catalog: Catalog
    engines: Mapping[str, ChatEngine]

    def engine_for(self, model: ChatModel) -> ChatEngine | None:
        """The one that would answer now."""


def check_capabilities(request: ChatRequest, model: ChatModel, engine: ChatEngine, offers: ModelLookup) -> None:
    """InvalidRequest that names the field which this model, on this engine, cannot honour."""
    if request.images and not sees(model, engine):
        raise InvalidRequest(_blind(model, engine, offers), param="messages")
    field = engine.unsupported_field(request)
    if field is not None:
        others = models_that(offers, lambda _, other: other.unsupported_field(request) is None)
        raise InvalidRequest(
            f"{field} is not supported by {engine.name}, which answers for {model.name} here; leave it out"
            + _or(others),
            param=field,
        )
    if request.limit is not None and request.limit > model.max_output and not request.limit_is_default:
        raise InvalidRequest(
            f"max_completion_tokens is {request.limit} and {model.name} writes at most {model.max_output}",
            param="max_completion_tokens",
        )


def models_that(offers: ModelLookup, can: Callable[[ChatModel, ChatEngine], bool]) -> list[str]:
    """The names of the models whose engine, as things stand, can."""
    found = ((model, offers.engine_for(model)) for model in offers.catalog.chat.values())
    return [model.name for model, engine in found if engine is not None and can(model, engine)]


def _or(others: list[str]) -> str:
    if not others:
        return "; no model here can at the moment"
    more = f" and {len(others) - NAMED_AT_MOST} more" if len(others) > NAMED_AT_MOST else ""
    return f", or use a model that can: {', '.join(others[:NAMED_AT_MOST])}{more}"


def sees(model: ChatModel, engine: ChatEngine) -> bool:
    """Whether pictures may be shown to this model on this engine: it depends on both."""
    return model.image_tokens is not None and engine.vision


def _blind(model: ChatModel, engine: ChatEngine, offers: ModelLookup) -> str:
    seeing = models_that(offers, sees)
    if model.image_tokens is None:
        could = seeing or [other.name for other in offers.catalog.chat.values() if other.image_tokens is not None]
        return f"{model.name} cannot see images; remove the image_url part{_or(could)}"
    return (
        f"{model.name} is answered here by {engine.name}, which cannot see images; remove the image_url part"
        f"{_or(seeing)}, or have the operator set an upstream that can, such as MINITOOLAI_OPENAI_API_KEY"
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
            "here for both: shortened the messages or lower max_completion_tokens",
            param="messages",
        )
    return min(limit, room)


log = logging.getLogger(__name__)

#: Abandoned answers that are read to their end at once; more are cut, and charged by our own count.
READ_ON_AT_MOST = 64


class ChatService:
    """Everything that serves chats in this process."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, ChatEngine],
        charging: Charging,
        clock: Clock,
        in_flight: InFlight,
        *,
        first_token_timeout_s: float,
        total_timeout_s: float,
        seeing: ImageInputs,
        spans: Spans | None = None,
    ) -> None:
        self.catalog = catalog
        self.engines = engines
        self.routes = Router(catalog, engines, clock, charging.meters, spans)
        self.charging = charging
        self._seeing = seeing
        self.clock = clock
        self._first_token_timeout_s = first_token_timeout_s
        self._total_timeout_s = total_timeout_s
        self.in_flight = in_flight
        self._reading_on: set[asyncio.Task[None]] = set()

    def timeouts(self, engine: ChatEngine) -> tuple[float, float]:
        """Seconds to the first token, and in all."""
        return (
            engine.first_token_timeout_s or self._first_token_timeout_s,
            engine.total_timeout_s or self._total_timeout_s,
        )

    def engine_for(self, model: ChatModel) -> ChatEngine | None:
        """The first of the model's engines that is ready."""
        return next(iter(self.routes.candidates(model)), None)

    async def begin(self, caller: Caller, request: ChatRequest) -> ChatRun:
        """Check the request against model and engine and hold its upper bound; the caller then opens the run.

        ModelNotFound, InvalidRequest, ContextExceeded, InsufficientBalance, EngineRateLimited, Overloaded.
        """
        self.in_flight.check_open()
        model = self._model(request)
        route = self.routes.choose(model, lambda engine: check_capabilities(request, model, engine, self))
        engine = route.engine
        if request.images:
            await self._seeing.look(request, must_fetch=not route.fetches_images, plain=route.plain_images)
        prompt_tokens = await engine.count_prompt(request)
        # A vector is no output: nothing of it is counted.
        limit = output_limit(request, model, engine.context_tokens(), prompt_tokens) if request.embed is None else 0
        counted = prompt_tokens if prompt_tokens is not None else pricing.prompt_bound(request, model)
        bound = pricing.chat_bound(model, prompt_tokens=counted, limit=limit, choices=request.choices)
        generation = NewGeneration("chat", model.name, engine.name, model.price_input, model.price_output)
        reservation = await self.charging.reserve(caller, bound, generation)
        request.clamped = reservation.units < limit
        if prompt_tokens is None:
            prompt_tokens = pricing.prompt_estimate(request, model)
        run = ChatRun(self, request, route, reservation, prompt_tokens)
        self.in_flight.add(run)
        return run

    def _model(self, request: ChatRequest) -> ChatModel:
        if request.embed is not None:
            return self.catalog.embedding_model(request.model)
        return self.catalog.chat_model(request.model)

    def upstream_cost(self, model: str, engine: str, usage: Usage) -> int | None:
        """What the engine charges us for this, in nano-dollars; None where the catalog does not say."""
        price = self.catalog.upstream_costs.get((engine, model))
        return None if price is None else pricing.chat_cost(*price, usage)

    def forget(self, run: ChatRun) -> bool:
        """The run has ended; True where it was the only one."""
        return self.in_flight.discard(run)

    def drain_for_usage(self, run: ChatRun, answer: ChatResponse) -> bool:
        """Whether the rest of an abandoned answer is now read in the background, for its usage."""
        if run.is_finished or not run.engine.bills_after_cancel or len(self._reading_on) >= READ_ON_AT_MOST:
            return False
        task = asyncio.ensure_future(run.read_on(answer))
        self._reading_on.add(task)
        task.add_done_callback(self._reading_on.discard)
        return True
