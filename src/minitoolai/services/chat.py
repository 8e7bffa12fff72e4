"""Chats from request to reservation: choose the engine, check the fit, hold the bound. Knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from minitoolai.core.catalog import Catalog, ChatModel
from minitoolai.core.clock import Clock
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.core.records import Caller, NewGeneration
from minitoolai.engines.base import ChatAnswer, ChatEngine
from minitoolai.services import pricing
from minitoolai.services.charging import Charging
from minitoolai.services.chat_run import ChatRun
from minitoolai.services.fit import check_fit, output_limit
from minitoolai.services.routes import Route, Routes
from minitoolai.services.seeing import Seeing
from minitoolai.services.underway import Underway

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
        underway: Underway,
        *,
        first_token_timeout_s: float,
        total_timeout_s: float,
        seeing: Seeing,
        route: type[Route] = Route,
    ) -> None:
        self.catalog = catalog
        self.engines = engines
        self.routes = Routes(catalog, engines, clock, charging.meters, route)
        self.charging = charging
        self._seeing = seeing
        self.clock = clock
        self._first_token_timeout_s = first_token_timeout_s
        self._total_timeout_s = total_timeout_s
        self.underway = underway
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
        self.underway.check_open()
        model = self._model(request)
        route = self.routes.choose(model, lambda engine: check_fit(request, model, engine, self))
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
        self.underway.add(run)
        return run

    def _model(self, request: ChatRequest) -> ChatModel:
        if request.embed is not None:
            return self.catalog.embedding_model(request.model)
        return self.catalog.chat_model(request.model)

    def purchase(self, model: str, engine: str, usage: Usage) -> int | None:
        """What the engine charges us for this, in nano-dollars; None where the catalog does not say."""
        price = self.catalog.purchases.get((engine, model))
        return None if price is None else pricing.chat_cost(*price, usage)

    def forget(self, run: ChatRun) -> bool:
        """The run has ended; True where it was the only one."""
        return self.underway.discard(run)

    def reads_on(self, run: ChatRun, answer: ChatAnswer) -> bool:
        """Whether the rest of an abandoned answer is now read in the background, for its usage."""
        if run.is_finished or not run.engine.bills_after_cancel or len(self._reading_on) >= READ_ON_AT_MOST:
            return False
        task = asyncio.ensure_future(run.read_on(answer))
        self._reading_on.add(task)
        task.add_done_callback(self._reading_on.discard)
        return True
