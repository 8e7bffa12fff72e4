"""Start chats: choose the engine, check its capabilities, hold the maximum cost. Independent of HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec

from minitoolai.accounts.keys import check_model
from minitoolai.billing import charging as pricing
from minitoolai.billing.charging import Bound, Charging, Reservation
from minitoolai.chat.image_inputs import ImageInputs
from minitoolai.chat.preferences import Preferences, best_latency
from minitoolai.chat.router import Router
from minitoolai.chat.run import ChatPlan, ChatRun, in_counter
from minitoolai.core.catalog.catalog import Catalog, ChatModel, ImageTokens
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.catalog.stand_ins import StandIns
from minitoolai.core.clock import Clock
from minitoolai.core.counting import PromptCount, estimate_prompt, estimate_tokens, expect_prompt
from minitoolai.core.errors import ContextExceeded, InvalidRequest, ModelNotFound, RateLimited, ServiceError
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ChatRequest, MessagesForm, Usage
from minitoolai.core.models import Caller, NewGeneration
from minitoolai.core.request_fields import named_bytes
from minitoolai.core.telemetry.tracing import Spans
from minitoolai.engines.protocols import ChatEngine

log = logging.getLogger(__name__)

#: Abandoned responses of one account that are read to their end at the same time. All of them are read; an account
#: with more gets a 429 for new requests until they end.
MAX_DRAINING = 64
#: Remedy for a prompt that exceeds the context of an embedded model, which most often comes from an agent.
_FOR_AGENTS = ". A coding agent's first prompt has about 20,000 tokens: choose a model with a larger context"
#: Maximum number of models that an error message suggests.
MAX_SUGGESTIONS = 5
#: Holds the cost of a job, or returns the hold that it already has.
PlaceHold = Callable[[Bound, NewGeneration], Awaitable[Reservation]]


class ChatService:
    """Serve the chats of this process: choose engines, reserve the cost and start runs."""

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
        image_inputs: ImageInputs,
        refuses_unknown_fields: bool = False,
        spans: Spans | None = None,
        stand_ins: StandIns | None = None,
    ) -> None:
        self.catalog = catalog
        self.engines = engines
        self.stand_ins = stand_ins or StandIns(catalog)
        self._may_be_free = self.stand_ins.policy == "free"
        self.routes = Router(catalog, engines, clock, charging.meters, spans, self.stand_ins)
        self.charging = charging
        self._image_inputs = image_inputs
        self._refuses_unknown_fields = refuses_unknown_fields
        self.clock = clock
        self._first_token_timeout_s = first_token_timeout_s
        self._total_timeout_s = total_timeout_s
        self.in_flight = in_flight
        self._background: set[asyncio.Task[None]] = set()
        #: Number of abandoned responses that are read to their end, by account.
        self._draining: dict[int, int] = {}

    def timeouts(self, engine: ChatEngine) -> tuple[float, float]:
        """Return the timeouts for the first token and for the whole response, in seconds."""
        return (
            engine.first_token_timeout_s or self._first_token_timeout_s,
            engine.total_timeout_s or self._total_timeout_s,
        )

    def engine_for(self, model: ChatModel) -> ChatEngine | None:
        """Return the first of the model's engines that is ready, if any."""
        return next(iter(self.routes.candidates(model)), None)

    async def begin(self, caller: Caller, request: ChatRequest, place: PlaceHold | None = None) -> ChatRun:
        """Check the request against model and engine, and hold its maximum cost. The caller then opens the run.

        `place` holds the cost in another way, and its caller registers the run if it is to be run.

        Raises ModelNotFound, InvalidRequest, ContextExceeded, InsufficientBalance, EngineRateLimited or Overloaded.
        """
        self.in_flight.check_open()
        if self._draining:
            self._check_draining(caller)
        request.account_id = caller.account_id
        if request.preferences is None:
            plan, alternatives = await self._plan(request, self._model(request, caller.price_group)), []
            bound = plan.bound
        else:
            plan, *alternatives = await self._preferred_plans(caller, request, request.preferences)
            bound = pricing.dearest([plan.bound, *(other.bound for other in alternatives)])
        model, prices = plan.model, plan.model.prices
        generation = NewGeneration("chat", model.name, plan.route.engine.name, prices.input_nano, prices.output_nano)
        reservation = await (
            self.charging.reserve(caller, bound, generation) if place is None else place(bound, generation)
        )
        run = ChatRun(self, plan, reservation, alternatives)
        if place is None:
            self.in_flight.add(run)
        return run

    async def _plan(self, request: ChatRequest, model: ChatModel, engines: list[ChatEngine] | None = None) -> ChatPlan:
        """Choose the engines, of these or of all, check the request against them, and compute its maximum cost."""
        route = self.routes.choose(
            model, lambda engine: check_capabilities(request, model, engine, self), request.account_id, engines
        )
        engine = route.engine
        if self._may_be_free and self.stand_ins.is_free(engine.name, model.name):
            model = msgspec.structs.replace(model, prices=Prices.of_nano(0))
        if request.messages_form is not None:
            await self._fit_messages_form(request, request.messages_form, model, engine)
        if request.extras or request.dropped or request.dropped_tools:
            self._drop_fields(request, model, engine)
        if request.images:
            await self._image_inputs.load(request, must_fetch=not route.fetches_images, as_png=route.plain_images)
        prompt_tokens = await engine.count_prompt(request)
        # Embeddings have no output tokens.
        limit = output_limit(request, model, engine.context_tokens(), prompt_tokens) if request.embed is None else 0
        max_prompt = prompt_tokens if prompt_tokens is not None else pricing.prompt_bound(request, model)
        bound = pricing.chat_bound(model, prompt_tokens=max_prompt, limit=limit, choices=request.choices)
        if prompt_tokens is None:
            prompt = expect_prompt(request, model.image_tokens, max_prompt)
        else:
            prompt = PromptCount(prompt_tokens)
        return ChatPlan(request, model, route, limit, bound, prompt)

    async def _preferred_plans(self, caller: Caller, request: ChatRequest, preferences: Preferences) -> list[ChatPlan]:
        """Return plans for all models of the request that can serve it now, in the preferred order.

        Raises ModelNotFound or KeyForbids for any of the models, and the first model's error if none can serve it.
        """
        models = [self._model(request, caller.price_group, name) for name in preferences.models]
        for model in models:
            check_model(caller, model.name)
        documents = 0 if request.messages_form is None else request.messages_form.document_bytes
        longest = max(pricing.prompt_bound(request, model) for model in models) + documents
        latency, plans = self.charging.meters.latency, list[ChatPlan]()
        refusal: ServiceError | None = None
        chosen: list[tuple[ChatModel, list[ChatEngine]]] = []
        for model in preferences.affordable(request, models, longest):
            try:
                engines = preferences.engines(model.name, self.routes.candidates(model), self.catalog.engines, latency)
                chosen.append((model, engines))
            except InvalidRequest as error:
                refusal = refusal or error
        if preferences.sorts_models_by_latency:
            chosen.sort(key=lambda pair: best_latency(pair[0], pair[1], latency))
        for model, engines in chosen:
            try:
                plans.append(await self._plan(request.for_model(model.name), model, engines))
            except ServiceError as error:
                refusal = refusal or error
        if not plans:
            assert refusal is not None
            raise refusal
        return plans

    def count_refusal(self, request: ChatRequest, error: ServiceError) -> None:
        """Count a request that was refused although it is valid, for the first of the engines that serve its model."""
        try:
            model = self._model(request)
        except ModelNotFound:
            return
        engine = next(iter(self.routes.candidates(model)), None)
        self.charging.count_refusal(model.engines[0] if engine is None else engine.name, model.name, error)

    def _drop_fields(self, request: ChatRequest, model: ChatModel, engine: ChatEngine) -> None:
        """Record the fields that this engine does not receive, and count the bytes of those that an engine receives."""
        dropped = [*request.dropped, *(name for name in request.extras if name not in engine.forwards)]
        if self._refuses_unknown_fields and (unknown := [*dropped, *request.dropped_tools]):
            raise InvalidRequest(
                f"{unknown[0][:100]} is not supported by this API. Leave it out", param=unknown[0][:100]
            )
        request.dropped = dropped
        forwards = frozenset[str]().union(*(self.engines[name].forwards for name in model.engines))
        request.other_bytes += named_bytes(request.extras, forwards)

    async def count_tokens(self, caller: Caller, request: ChatRequest) -> int:
        """Return the prompt tokens of a Messages request: by the engine if it can, else our estimate."""
        self.in_flight.check_open()
        model = self._model(request, caller.price_group)
        check_model(caller, model.name)
        route = self.routes.choose(
            model, lambda engine: check_capabilities(request, model, engine, self), caller.account_id
        )
        engine = route.engine
        if request.images:
            await self._image_inputs.load(request, must_fetch=not route.fetches_images)
        counted = await engine.count_messages(request)
        if counted is not None:
            return counted
        return await in_counter(estimate_prompt, request, model.image_tokens, engine.tokenizer)

    async def _fit_messages_form(
        self, request: ChatRequest, form: MessagesForm, model: ChatModel, engine: ChatEngine
    ) -> None:
        """Complete the chat of a Messages request, now that its engine is known."""
        request.other_bytes += min(form.document_bytes, model.context)
        for url, field in form.urls:
            await self._image_inputs.check_url(url, field)
        fields = request.fields
        if form.effort is not None and model.reasoning_effort:
            fields["reasoning_effort"] = form.effort
            if not engine.speaks_messages and engine.unsupported_field(request) == "reasoning_effort":
                del fields["reasoning_effort"]
        if engine.speaks_messages:
            request.extras.pop("top_k", None)
        elif not self._refuses_unknown_fields:
            request.dropped += form.dropped
            if "reasoning_effort" not in fields:
                request.dropped += form.effort_fields

    def _model(self, request: ChatRequest, price_group: str | None = None, name: str | None = None) -> ChatModel:
        """Return the request's model, or another one of the same kind, with the prices of a group."""
        catalog = self.catalog if price_group is None else self.catalog.of_group(price_group)
        if request.embed is not None:
            return catalog.embedding_model(name or request.model)
        return catalog.chat_model(name or request.model)

    def upstream_cost(self, model: str, engine: str, usage: Usage) -> int | None:
        """Return what the engine charges the operator, in nano-dollars. None if the catalog has no cost for it."""
        price = self.catalog.upstream_costs.get((engine, model))
        return None if price is None else price.cost(usage)

    def forget(self, run: ChatRun) -> bool:
        """Remove a run that has ended. Return True if it was the last one in flight."""
        return self.in_flight.discard(run)

    def image_tokens(self, model: str) -> ImageTokens | None:
        """Return the tokens of an image for this model; None if it accepts none."""
        entry = self.catalog.chat.get(model)
        return None if entry is None else entry.image_tokens

    def in_background(self, run: ChatRun, work: Coroutine[Any, Any, None], *, is_drain: bool) -> None:
        """Run `work`, which ends an abandoned run, in a separate task. `is_drain`: it reads the response to its end."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        account = run.reservation.account_id
        if is_drain:
            self._draining[account] = self._draining.get(account, 0) + 1

        def on_end(task: asyncio.Task[None]) -> None:
            self._background.discard(task)
            if is_drain:
                self._draining[account] -= 1
                if not self._draining[account]:
                    del self._draining[account]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("%s: charged for what was done so far, after an error", run.name, exc_info=error)

        task.add_done_callback(on_end)

    def _check_draining(self, caller: Caller) -> None:
        """Raise RateLimited if too many abandoned responses of this account are still generated and billed."""
        draining = self._draining.get(caller.account_id, 0)
        if draining >= MAX_DRAINING:
            raise RateLimited(
                f"{draining} responses that clients of this account abandoned are still being generated. "
                "Try again when they have ended.",
                retry_after_s=2,
            )


# ── capabilities ──────────────────────────────────────────────────────────────────────────────────────────


def check_capabilities(request: ChatRequest, model: ChatModel, engine: ChatEngine, chats: ChatService) -> None:
    """Raise InvalidRequest for a field that this model cannot honour on this engine, suggesting models that can."""
    if request.messages_form is not None and (refusal := _refusal(request.messages_form, engine)) is not None:
        raise refusal
    if request.images and not accepts_images(model, engine):
        raise InvalidRequest(vision_unavailable_reason(model, engine, chats), param="messages")
    field = engine.unsupported_field(request)
    if field is not None:
        _check_size(request, model, engine)
        others = models_supporting(chats, lambda _, other: other.unsupported_field(request) is None)
        raise InvalidRequest(
            f"{field} is not supported by the engine that serves {model.name} here; leave it out" + _suggest(others),
            param=field,
        )
    if request.limit is not None and request.limit > model.max_output and not request.limit_is_default:
        raise InvalidRequest(
            f"max_completion_tokens is {request.limit} and {model.name} generates at most {model.max_output}; lower it",
            param="max_completion_tokens",
        )


def _refusal(form: MessagesForm, engine: ChatEngine) -> InvalidRequest | None:
    """Return why this engine cannot serve a Messages request, or None if it can."""
    if not engine.speaks_messages:
        return form.refusal
    if form.urls and not engine.fetches_images:
        _, field = form.urls[0]
        return InvalidRequest(
            f"{field}: the engine does not fetch documents here; send the document as base64", param=field
        )
    return None


def _check_size(request: ChatRequest, model: ChatModel, engine: ChatEngine) -> None:
    """Raise ContextExceeded for a prompt that the engine could not read even without the field that it lacks."""
    context, tokens = engine.context_tokens(), estimate_tokens(request.text_bytes)
    if context is not None and context < model.context and tokens > context:
        raise _prompt_exceeds(
            f"the prompt has about {tokens} tokens, but the context of {model.name} here is {context} tokens", request
        )


def models_supporting(chats: ChatService, supports: Callable[[ChatModel, ChatEngine], bool]) -> list[str]:
    """Return the names of the models with a ready engine that supports a capability."""
    pairs = ((model, chats.engine_for(model)) for model in chats.catalog.chat.values())
    return [model.name for model, engine in pairs if engine is not None and supports(model, engine)]


def _suggest(others: list[str]) -> str:
    if not others:
        return "; no model here can at the moment"
    more = f" and {len(others) - MAX_SUGGESTIONS} more" if len(others) > MAX_SUGGESTIONS else ""
    return f", or use a model that can: {', '.join(others[:MAX_SUGGESTIONS])}{more}"


def accepts_images(model: ChatModel, engine: ChatEngine) -> bool:
    """Return True if this model accepts images on this engine: both must support them."""
    return model.image_tokens is not None and engine.vision


def vision_unavailable_reason(model: ChatModel, engine: ChatEngine, chats: ChatService) -> str:
    """Explain why images are refused, and how to get them accepted."""
    available = models_supporting(chats, accepts_images)
    if model.image_tokens is None:
        others = available or [other.name for other in chats.catalog.chat.values() if other.image_tokens is not None]
        return f"{model.name} cannot see images; remove the image_url part{_suggest(others)}"
    what = f"{model.name} is served here by an engine that cannot see images"
    return f"{what}; remove the image_url part{_suggest(available)}"


def output_limit(request: ChatRequest, model: ChatModel, context: int | None, prompt_tokens: int | None) -> int:
    """Return the output limit to hold and to enforce: the requested one, or the most that fits in the context.

    Raises ContextExceeded if the prompt leaves no room for output, or less than was requested.
    """
    limit = min(request.limit or model.max_output, model.max_output)
    window = min(model.context, context or model.context)
    if prompt_tokens is None:
        return limit
    room = window - prompt_tokens
    if room < 1 or (request.limit is not None and not request.limit_is_default and limit > room):
        message = (
            f"the prompt has {prompt_tokens} tokens and the request allows {limit} output tokens, but the context of "
            f"{model.name} here is {window} tokens for both: shorten the messages or lower max_completion_tokens"
        )
        if window < model.context and prompt_tokens > window:
            raise _prompt_exceeds(message, request)
        raise ContextExceeded(message, param="messages")
    return min(limit, room)


def _prompt_exceeds(message: str, request: ChatRequest) -> ContextExceeded:
    """Return the error for a prompt that exceeds the context of an embedded model."""
    error = ContextExceeded(message + _FOR_AGENTS, param="messages")
    error.is_agents_first = bool(request.fields.get("tools")) and not any(
        message.get("role") == "assistant" for message in request.messages
    )
    return error
