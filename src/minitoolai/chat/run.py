"""Run one chat: open the engine, read and normalize its output, charge for it, end it. Independent of HTTP.

`finish` queues the charge without awaiting anything, so that a run is charged however it ends. Slow work before the
charge, such as counting with a tokenizer or reading an abandoned response, runs in a background task that calls
`finish` in a `finally`; the run stays in flight until then.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import msgspec

from minitoolai.billing.charging import Bound, Charging, Reservation, state_after, wait_until_durable
from minitoolai.chat.completion import NormalizedCompletion, completion_texts, normalize_completion
from minitoolai.chat.recording import RecordingNormalizer
from minitoolai.chat.router import Route, encode_attempts
from minitoolai.chat.stream.chunks import Chunk
from minitoolai.chat.stream.normalizer import ChunkNormalizer
from minitoolai.chat.stream.passthrough import MessagesPassthrough, check_message
from minitoolai.core.catalog.catalog import ChatModel, ImageTokens
from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.clock import Clock, created_ms, generation_name
from minitoolai.core.counting import LEAST_SHARE, Delivered, Judgement, PromptCount, estimate, least_prompt
from minitoolai.core.errors import ClientLeft, EngineFull, EngineTimeout, ServiceError
from minitoolai.core.in_flight import (
    Cancellation,
    CheckpointSchedule,
    RunFailure,
    StreamOutput,
    break_silence,
    has_died,
)
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.core.models import Outcome, ServingModel
from minitoolai.engines.protocols import ChatEngine, ChatResponse
from minitoolai.ledger.types import Result

log = logging.getLogger(__name__)
T = TypeVar("T")
#: Counts with tokenizers, one text at a time: many clients that disconnect together must not occupy all cores.
_COUNTER = ThreadPoolExecutor(1, thread_name_prefix="tokens")

#: Tell a caller its place in an engine's queue once it has waited for this long: that begins the response.
TELL_PLACE_AFTER_S = 1.0


class RunOwner(Protocol):
    """The service that made a run. A protocol, because service.py imports this module."""

    clock: Clock
    charging: Charging

    def timeouts(self, engine: ChatEngine) -> tuple[float, float]:
        """Return the timeouts for the first token and for the whole response, in seconds."""

    def upstream_cost(self, model: str, engine: str, usage: Usage) -> int | None:
        """Return what the engine charges for this usage in nano-dollars, if that is known."""

    def forget(self, run: ChatRun) -> bool:
        """Remove a run that has ended; return True if no other is in flight."""

    def in_background(self, run: ChatRun, work: Coroutine[Any, Any, None], *, is_drain: bool) -> None:
        """Run `work`, which ends an abandoned run, in a separate task."""

    def image_tokens(self, model: str) -> ImageTokens | None:
        """Return the tokens of an image for this model; None if it accepts none."""


class ChatPlan(msgspec.Struct):
    """How one model would serve a request: checked against model and engines, but not paid for yet."""

    request: ChatRequest
    model: ChatModel
    route: Route
    #: Most output tokens.
    limit: int
    bound: Bound
    #: The prompt by the engine's exact count if it has one, else by our estimate.
    prompt: PromptCount

    @property
    def serving(self) -> ServingModel:
        """Return the model and its prices, for the generation's row."""
        prices = self.model.prices
        return ServingModel(self.model.name, prices.input_nano, prices.output_nano)

    def grant(self, units: int) -> int:
        """Return how many of the output tokens that a hold pays for this model may generate."""
        units = min(units, self.limit)
        # The limit of a Messages request is lowered to what the model can generate, and a response header says so.
        request = self.request
        request.clamped = units < (self.limit if request.messages_form is None else request.limit or self.limit)
        return units


class ChatRun:
    """One chat in flight, made by `ChatService.begin`. Its caller must call `finish` or `close`, however it ends."""

    #: The last place in the engine's queue that was sent to the caller.
    _told_place: int | None = None

    def __init__(
        self,
        service: RunOwner,
        plan: ChatPlan,
        reservation: Reservation,
        alternatives: Sequence[ChatPlan] = (),
    ) -> None:
        """Prepare the run. `alternatives` are plans for other models, which the reservation pays for, too.

        The run keeps its prices, even if the catalog is replaced.
        """
        self._service = service
        self.request = request = plan.request
        self.route = plan.route
        self.engine = plan.route.engine
        self._alternatives = alternatives
        self._granted = reservation.units
        if (units := plan.grant(reservation.units)) < reservation.units:
            reservation = msgspec.structs.replace(reservation, units=units)
        #: Events before the first word, while another model may still take over.
        self._held_back: list[bytes] = []
        self.reservation = reservation
        self.hold_id = reservation.hold_id
        self.name = generation_name(reservation.hold_id)
        self._created_s = created_ms(reservation.hold_id) // 1000
        self.events = self._new_events()
        self.started_s = self._alive_at_s = self._silent_since_s = service.clock.steady_s()
        self._checkpoints = CheckpointSchedule(self.started_s)
        self._first_token_s: float | None = None
        self._has_waited = False
        self._prompt = plan.prompt
        self._prices = plan.model.prices
        self._prompt_is_checked = False
        #: Bytes of the prompt that a text completion repeats before its output.
        self._echoed_bytes = 0 if request.prompt is None else _echoed_bytes(request)
        #: Our count by the engine's tokenizer.
        self._counted: Usage | None = None
        #: The usage that was charged.
        self._charged: Judgement | None = None
        self._response: ChatResponse | None = None
        #: An engine call that continues if the client disconnects, because the engine bills for all of it.
        self._pending: asyncio.Future[Any] | None = None
        self._charge: asyncio.Future[Result] | None = None
        self.is_finished = False
        #: The completion, if the request is not streamed.
        self._completion: NormalizedCompletion | None = None
        self.cancellation = Cancellation()
        #: Output of a stream; None for a response that is sent whole.
        self.output: StreamOutput | None = None
        #: Called once, at the first tick: the response takes longer than half a second.
        self.on_slow: Callable[[], None] | None = None
        #: Called when another model takes over: headers may change.
        self.on_new_model: Callable[[], None] | None = None
        #: The model, if it is not the one of the generation's row. A job may have been queued for another one.
        self._serving = None if reservation.attempt is None else plan.serving

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────

    def _new_events(self, head: Chunk | None = None) -> ChunkNormalizer:
        kind: type[ChunkNormalizer] = ChunkNormalizer if self.engine.tokenizer is None else RecordingNormalizer
        if self.request.messages_form is not None and self.engine.speaks_messages:
            kind = MessagesPassthrough
        return kind(
            forwards=self.engine.complete_chunks,
            include_usage=self.request.include_usage,
            name=f"chatcmpl-{self.name[4:]}",
            created_s=self._created_s,
            model=self.request.model,
            engine=self.engine.label,
            choices=self.request.choices,
            head=head,
        )

    async def open(self) -> None:
        """Open the engine's response, failing over to the next engine on errors. Raises the last error if all fail."""
        while self._response is None:
            self._start_attempt()
            if self.route.engine is not self.engine:
                self._switch_engine(self.route.engine)
            try:
                if self.engine.bills_after_cancel:
                    self._response = await self._keep(self._open_engine)
                else:
                    self._response = await self.engine.open(self.request, self.reservation.units)
            except (ServiceError, asyncio.CancelledError) as error:
                await self._fail_over(error)

    def _start_attempt(self) -> None:
        try:
            self.route.start_attempt()
        except ServiceError:
            if not self._alternatives:
                raise
            self._switch_model()
            self._start_attempt()

    async def _open_engine(self) -> ChatResponse:
        return await self.engine.open(self.request, self.reservation.units)

    async def _keep(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await an engine call that continues if this task is cancelled, or await the pending one."""
        pending: asyncio.Future[T] = self._pending or asyncio.ensure_future(start())
        self._pending = pending
        try:
            await asyncio.shield(pending)
        except ServiceError:
            self._pending = None
            raise
        # After a CancelledError the call continues, and its result is kept.
        self._pending = None
        return pending.result()

    async def _discard_pending(self) -> None:
        """Cancel an engine call if it is still pending, and close its response."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        pending.cancel()
        await asyncio.wait([pending])
        if pending.cancelled() or pending.exception() is not None:
            return
        result = pending.result()
        if not isinstance(result, bytes):
            await result.close()

    async def _fail_over(self, error: ServiceError | asyncio.CancelledError) -> None:
        """Switch to the next engine. Only possible before the caller has received anything.

        Raises the failure again if no engine is left, or if the task was cancelled for another reason than a timeout
        of the engine.
        """
        if isinstance(error, asyncio.CancelledError):
            timeout_error = self.cancellation.take_attempt()
            if timeout_error is None:
                raise error
            error = timeout_error
            await self._discard_pending()
        response, self._response = self._response, None
        if response is not None:
            await response.close()
        # The wait before a retry must not count towards an engine's first-token timeout.
        self._alive_at_s = math.inf
        try:
            await self.route.fail_over(error, had_begun=response is not None)
        except ServiceError as failure:
            if not self._alternatives or isinstance(failure, ClientLeft):
                raise
            self._switch_model()
        else:
            self._switch_engine(self.route.engine)

    def _switch_engine(self, engine: ChatEngine) -> None:
        self.engine = engine
        # Chunks without text may have been sent already. The chunks of the next engine share their head.
        self.events = self._new_events(self.events.head)
        self._alive_at_s = self._service.clock.steady_s()

    def _switch_model(self) -> None:
        """Go on with the next model of the request, as the first engine of its plan."""
        plan, *self._alternatives = self._alternatives
        plan.route.carry_on(self.route)
        self.request, self.route, self.engine = plan.request, plan.route, plan.route.engine
        self._prompt, self._prices, self._prompt_is_checked = plan.prompt, plan.model.prices, False
        self._serving = plan.serving
        self.reservation = self.reservation.for_model(self._serving, plan.grant(self._granted))
        self._held_back.clear()
        self.events = self._new_events()
        self._alive_at_s = self._service.clock.steady_s()
        if self.on_new_model is not None:
            self.on_new_model()

    async def next_block(self) -> bytes | None:
        """Return the next whole events for the caller, or None at the end. Raises EngineError if the engine fails."""
        assert self._response is not None
        while not self._has_ended():
            block = self._process_chunk(await self._response.next_bytes())
            if block:
                return block
        return None

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Pass every block to `write` as it arrives, until the end. Raises EngineError if the engine fails.

        `write` returns an awaitable if the caller reads too slowly, else None. If the engine supports callbacks, blocks
        are written from them, without waking a task per block. Fails over if an engine fails before its first word.
        """
        if self._alternatives:
            return await self._flow_held_back(write)
        while True:
            try:
                return await self._flow(write)
            except (ServiceError, asyncio.CancelledError) as error:
                if self.events.has_spoken:
                    raise
                await self._fail_over(error)
            await self.open()

    async def _flow_held_back(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Do what `flow` does, but pass nothing on before the first word: until then, the model may change."""

        def write_later(block: bytes) -> Awaitable[None] | None:
            if self._held_back or not self.events.has_spoken:
                self._held_back.append(block)
                if not self.events.has_spoken:
                    return None
                block = b"".join(self._held_back)
                self._held_back.clear()
            return write(block)

        while True:
            try:
                await self._flow(write_later)
                break
            except (ServiceError, asyncio.CancelledError) as error:
                if self.events.has_spoken:
                    raise
                await self._fail_over(error)
            await self.open()
        if self._held_back and (slow := write(b"".join(self._held_back))) is not None:
            await slow

    async def _flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        assert self._response is not None
        while True:
            if self._response.set_callbacks(None):
                slow = await self._pump(self._response, write)
            else:
                block = await self.next_block()
                slow = write(block) if block else None
            if slow is not None:
                await slow
            elif self._has_ended():
                return

    async def _pump(
        self, response: ChatResponse, write: Callable[[bytes], Awaitable[None] | None]
    ) -> Awaitable[None] | None:
        """Write blocks from callbacks until the end, or until `write` returns an awaitable; return that awaitable."""
        halt: asyncio.Future[Awaitable[None] | None] = asyncio.get_running_loop().create_future()
        match_template = self.events.match_template

        def on_readable() -> None:
            if halt.done():
                return
            try:
                slow = None
                while slow is None and not self._has_ended():
                    data = response.read_nowait()
                    if data is None:
                        return
                    block = self._process_chunk(data)
                    slow = write(block) if block else None
                # Reading the last bytes may close the connection, which calls this function again, nested.
                if not halt.done():
                    response.set_callbacks(None)
                    halt.set_result(slow)
            except Exception as error:  # noqa: BLE001 - raised again in the waiting task
                if not halt.done():
                    halt.set_exception(error)

        def on_chunk(data: bytes) -> None:
            try:
                block = match_template(data)
                is_new = block is None
                if block is None:
                    block = self._process_chunk(data)
                # The task was just cancelled: the chunk is charged, but can no longer be written.
                if halt.done():
                    return
                slow = write(block) if block else None
                # A chunk that matches the template never ends the stream.
                if slow is not None or (is_new and self._has_ended()):
                    response.set_callbacks(None)
                    halt.set_result(slow)
            except Exception as error:  # noqa: BLE001 - raised again in the waiting task
                if not halt.done():
                    response.set_callbacks(None)
                    halt.set_exception(error)

        response.set_callbacks(on_readable, on_chunk)
        try:
            on_readable()
            return await halt
        finally:
            response.set_callbacks(None)

    def _process_chunk(self, data: bytes) -> bytes:
        """Normalize bytes from the engine into whole events for the caller. Empty bytes mean the end."""
        events = self.events
        block = events.feed(data) if data else events.end()
        if self._first_token_s is None and (block or events.pieces):
            # Every event of a choice shows that the engine is working; comments do not. An event without text, such
            # as the role, is not the first token.
            self._alive_at_s = self._service.clock.steady_s()
            if events.pieces:
                self._first_token_s = self._alive_at_s
        return block

    def _has_ended(self) -> bool:
        if self.events.error is not None:
            raise self.events.error
        return self.events.done

    async def read_whole(self) -> bytes:
        """Return the body of a response that is not streamed, with every documented field."""
        while True:
            try:
                return await self._read_whole()
            except (ServiceError, asyncio.CancelledError) as error:
                await self._fail_over(error)
            await self.open()

    async def _read_whole(self) -> bytes:
        response = self._response
        assert response is not None
        if self.engine.bills_after_cancel:
            body = await self._keep(lambda: _read(response))
        else:
            body = await response.read()
        # Store it before counting: it must be charged even if the client disconnects meanwhile.
        completion = self._completion = self._normalize(body)
        if self.engine.tokenizer is not None and self._must_count(completion.judgement):
            texts = await in_counter(completion_texts, completion.body)
            await self._count(Delivered(len(texts), completion.size, texts))
            completion = self._normalize(body)
        self._completion, self.events.served_model = completion, completion.model
        self._first_token_s = self._service.clock.steady_s()
        return completion.body

    @property
    def passes_through(self) -> bool:
        """True if the engine's response is in the format of the request already."""
        return isinstance(self.events, MessagesPassthrough)

    @property
    def expected_prompt(self) -> int:
        """The tokens of the prompt by our own count or, if the engine can, by the engine's."""
        return self._prompt.tokens

    def _normalize(self, body: bytes) -> NormalizedCompletion:
        if self.request.messages_form is not None and self.passes_through:
            completion = check_message(
                body,
                prompt=self._prompt,
                max_output=self._max_output(),
                model=self.request.model,
                engine=self.engine.label,
                name=self.name,
            )
        else:
            completion = self._normalize_chat(body)
        if completion.judgement.doubts and self._must_check_prompt(completion.judgement):
            return self._normalize(body)
        return completion

    def _normalize_chat(self, body: bytes) -> NormalizedCompletion:
        return normalize_completion(
            body,
            forwards=self.engine.complete_chunks,
            name=self.name,
            created_s=self._created_s,
            prompt=self._prompt,
            max_output=self._max_output(),
            output=None if self._counted is None else self._counted.completion_tokens,
            is_exact=self.engine.token_events,
            echoed=self._echoed_bytes,
            model=self.request.model,
            engine=self.engine.label,
        )

    def final_events(self) -> bytes:
        """Return the events to send once the charge is durable."""
        return self.events.final_events(self.usage_so_far())

    # ── charging ────────────────────────────────────────────────────────────────────────────────────────────

    def usage_so_far(self) -> Usage:
        """Return the usage reported by the engine, or our own count. Zero before the first token."""
        return self._judge().usage

    def _judge(self) -> Judgement:
        """Return the usage so far, and whether any part of it is our own count. It is fixed when it is charged."""
        if self._charged is not None:
            return self._charged
        if self._completion is not None:
            return self._completion.judgement
        judgement = self.events.usage_if_ended(
            self._prompt,
            self._max_output(),
            is_exact=self.engine.token_events,
            output=None if self._counted is None else self._counted.completion_tokens,
            echoed=self._echoed_bytes,
        )
        return self._judge() if judgement.doubts and self._must_check_prompt(judgement) else judgement

    def _must_check_prompt(self, judgement: Judgement) -> bool:
        """Return True if a reported prompt seems too low. Then lower the limit, once, for a second check."""
        if "prompt_low" not in judgement.doubts or self._prompt_is_checked:
            return False
        self._prompt_is_checked = True
        least = min(self._prompt.least, least_prompt(self.request))
        self._prompt = msgspec.structs.replace(self._prompt, least=least)
        return True

    def _must_count(self, judgement: Judgement) -> bool:
        """Return True if this is our own count, and the engine's tokenizer, if it has one, can give a better one."""
        return judgement.is_estimated and self._counted is None

    async def _count(self, delivered: Delivered) -> None:
        """Count the prompt and the delivered text with the engine's tokenizer, in a thread."""
        image_tokens = self._service.image_tokens(self.request.model)
        counted = await in_counter(estimate, self.request, delivered, self.engine.tokenizer, image_tokens)
        self._counted = counted
        prompt = min(counted.prompt_tokens, self._prompt.most)
        least = min(self._prompt.least, prompt // LEAST_SHARE)
        self._prompt = msgspec.structs.replace(self._prompt, tokens=prompt, least=least)

    async def _count_stream(self) -> None:
        events = self.events
        if self._completion is None and isinstance(events, RecordingNormalizer) and self._must_count(self._judge()):
            await self._count(Delivered(events.pieces, max(0, events.size - self._echoed_bytes), events.texts()))

    def _max_output(self) -> int:
        """Return the number of output tokens that the hold pays for."""
        return self.reservation.units * self.request.choices

    def cost_so_far(self) -> int:
        """Return the charge if the run ended now, in nano-dollars."""
        return self._prices.cost(self._sold(self.usage_so_far()))

    def _sold(self, usage: Usage) -> Usage:
        """Return the usage to charge for. An embedded engine's cache hits cost the full price."""
        return usage if self.engine.sells_cache else usage.without_cache()

    async def count_output(self) -> None:
        """Count the output with the engine's tokenizer, if it has one and the count is needed."""
        if self.engine.tokenizer is not None:
            await self._count_stream()

    async def charge(self, *, within_s: float) -> None:
        """Settle the hold and wait until that is durable. Raises TimeoutError if the database does not respond."""
        if self.engine.tokenizer is not None:
            await self._count_stream()
        self.finish()
        if self._charge is not None:
            await wait_until_durable(self._charge, within_s=within_s)

    def finish(self, error: ServiceError | None = None) -> None:
        """Queue the charge for the usage so far. Awaits nothing. Only the first call has an effect."""
        if self.is_finished:
            return
        self.is_finished = True
        is_last = self._service.forget(self)
        self.route.end_attempt(error)
        judgement = self._charged = self._judge()
        cost, price_split = self._prices.charge(self._sold(judgement.usage))
        if judgement.doubts:
            self._report_doubts(judgement)
        if cost > self.reservation.amount:
            log.error(
                "%s: cost of %d exceeds its hold of %d; charging the hold, the operator bears the difference",
                self.name,
                cost,
                self.reservation.amount,
            )
            self._service.charging.meters.fell_short(self.engine.name, cost - self.reservation.amount)
        self._charge = self._service.charging.settle(
            self.reservation, cost, self._outcome(judgement, error, price_split), error=error, is_last=is_last
        )

    def _report_doubts(self, judgement: Judgement) -> None:
        for doubt in judgement.doubts:
            count = self._service.charging.meters.disbelieved(self.engine.name, doubt)
            # Log the 1st, 2nd, 4th, 8th … time: an upstream that reports nonsense does so in every response.
            if count & (count - 1) == 0:
                log.warning(
                    "%s: usage reported by %s not believed (%s, seen %d times); charging %d and %d tokens instead",
                    self.name,
                    self.engine.name,
                    doubt,
                    count,
                    judgement.usage.prompt_tokens,
                    judgement.usage.completion_tokens,
                )

    def _outcome(self, judgement: Judgement, error: ServiceError | None, price_split: str | None) -> Outcome:
        first_s, usage, completion = self._first_token_s, judgement.usage, self._completion
        return Outcome(
            state=state_after(error),
            input_units=usage.prompt_tokens,
            output_units=usage.completion_tokens,
            cached_units=usage.cached_tokens,
            delivered_bytes=self.events.size if completion is None else completion.size,
            estimated=judgement.is_estimated,
            served_model=self.events.served_model,
            error_code=error.code if error else None,
            first_token_ms=None if first_s is None else round((first_s - self.started_s) * 1000),
            engine=self.route.fallback_engine if self.reservation.attempt is None else self.engine.name,
            attempts=encode_attempts(self.route.attempts),
            upstream_cost=self._service.upstream_cost(self.request.model, self.engine.name, usage),
            price_split=price_split,
            serving=self._serving,
            is_streamed=self.request.stream,
        )

    # ── ending ────────────────────────────────────────────────────────────────────────────────────────────

    async def close(self, error: ServiceError | None = None) -> None:
        """Finish the run and close the engine's response.

        If the client disconnected and the engine bills for the whole response anyway, first read it to its end in the
        background. If the engine has a tokenizer, first count with it in the background.
        """
        if isinstance(error, ClientLeft) and self._can_drain():
            self._service.in_background(self, self.drain(), is_drain=True)
            return
        response, self._response = self._response, None
        if not self.is_finished and self.engine.tokenizer is not None and self._must_count(self._judge()):
            self._service.in_background(self, self._count_and_finish(error), is_drain=False)
        else:
            self.finish(error)
        if self._pending is not None:
            await self._discard_pending()
        if response is not None:
            await response.close()

    async def _count_and_finish(self, error: ServiceError | None) -> None:
        try:
            await self._count_stream()
        finally:
            self.finish(error)

    def _can_drain(self) -> bool:
        """Return True if the engine received the request, and bills for its whole response."""
        if self.is_finished or not self.engine.bills_after_cancel or self.request.waits:
            return False
        return self._response is not None or self._pending is not None

    async def drain(self) -> None:
        """Read the response to its end for its usage, after the client has left. The engine bills for all of it."""
        # The run was cancelled because the client left. Arm it again, so that a timeout can end the drain.
        self.cancellation.arm()
        self.output = self.on_slow = None
        error: ServiceError = ClientLeft("the client disconnected")
        try:
            try:
                if self._response is None:
                    self._response = await self._keep(self._open_engine)
                if self.request.stream:
                    while await self.next_block() is not None:
                        pass
                else:
                    await self._read_whole()
            except ServiceError as failure:
                error = failure
            except asyncio.CancelledError:
                # Timeout or shutdown: charge the output received so far.
                if self.cancellation.take() is None:
                    raise
            await self._count_stream()
        finally:
            self.cancellation.disarm()
            self.finish(error)
            response, self._response = self._response, None
            await self._discard_pending()
            if response is not None:
                await response.close()

    def describe_failure(self, error: ServiceError) -> RunFailure:
        """Return the model, the engine and the reason of a failure, for the log. Codes only: messages quote prompts."""
        attempts = self.route.attempts
        reason = error.code
        if len(attempts) > 1:
            reason += f", after {', '.join(f'{one.engine}: {one.error_code}' for one in attempts)}"
        return RunFailure(self.request.model, self.engine.name, reason)

    def stop(self, reason: ServiceError) -> None:
        """Cancel the run with this error: a timeout, a client that disconnected, a server that stops."""
        self.cancellation.cancel(reason)

    def lose(self, reason: ServiceError) -> None:
        """Stop because the hold was settled elsewhere. Has no effect once the charge is queued: its result decides."""
        if not self.is_finished:
            self.stop(reason)

    def tick(self, now_s: float) -> None:
        """Renew the lease, enforce the timeouts and send heartbeats. Called twice a second."""
        if has_died(self):
            return
        if self.on_slow is not None:
            self.on_slow()
            self.on_slow = None
        if self.output is not None:
            self._silent_since_s = break_silence(self.output, self._silent_since_s, now_s)
        if self._checkpoints.is_due(now_s):
            self._service.charging.keep_alive(self.reservation, self.cost_so_far(), self.lose, self._serving)
        first_s, total_s = self._service.timeouts(self.engine)
        if self.request.queue_place is not None:
            self._tell_place(self.request.queue_place(), now_s)
        if self.request.waits:
            self._has_waited = True
        elif self.request.queue_place is not None:
            # Only the total timeout limits the wait for an embedded engine, which serves every request in its turn.
            self._has_waited, self._alive_at_s = True, now_s
        elif self._has_waited:
            # The wait for a free slot must not count towards the first-token timeout.
            self._has_waited, self._alive_at_s = False, now_s
        if now_s - self.started_s > total_s:
            self._on_total_timeout(total_s, now_s)
        elif (
            self._first_token_s is None
            and now_s - self._alive_at_s > first_s
            # A response that is sent whole has no first token. Waiting for a free slot is limited for both.
            and (self.request.stream or self.request.waits)
        ):
            self._on_first_token_timeout(first_s)

    def _following(self) -> ChatEngine | None:
        """Return the engine that would take over, if there is one."""
        following = self.route.next_engine()
        return self._alternatives[0].route.engine if following is None and self._alternatives else following

    def _tell_place(self, place: int, now_s: float) -> None:
        """Tell the caller of a stream its place in the engine's queue, whenever it has changed."""
        if self.output is not None and place != self._told_place and now_s - self.started_s > TELL_PLACE_AFTER_S:
            self._told_place = place
            self.output.comment(f"waiting for a free slot, place {place} in the queue")

    def _on_total_timeout(self, total_s: float, now_s: float) -> None:
        """Fail over if nothing was sent and the next engine has time left, else stop."""
        error = EngineTimeout(
            f"the response took more than {total_s:g} s and was cut off; the output so far is charged"
        )
        is_waiting_to_retry = self._alive_at_s == math.inf
        following = None if is_waiting_to_retry or self.events.has_spoken else self._following()
        if following is not None and now_s - self.started_s < self._service.timeouts(following)[1]:
            self.cancellation.cancel_attempt(error)
        else:
            self.stop(error)

    def _on_first_token_timeout(self, waited_s: float) -> None:
        """Fail over to another engine after the first-token timeout, or stop if there is none."""
        if self.request.waits:
            error: ServiceError = EngineFull(
                f"{THE_ENGINE} had no free slot for {waited_s:g} s; try again", retry_after_s=2
            )
        else:
            error = EngineTimeout(f"{THE_ENGINE} sent no token for {waited_s:g} s; nothing was charged")
        if not self.events.has_spoken and self._following() is not None:
            self.cancellation.cancel_attempt(error)
        else:
            self.stop(error)


async def in_counter(function: Callable[..., T], *arguments: object) -> T:
    """Run a function that counts with a tokenizer in a thread, one at a time."""
    return await asyncio.get_running_loop().run_in_executor(_COUNTER, lambda: function(*arguments))


async def _read(response: ChatResponse) -> bytes:
    return await response.read()


def _echoed_bytes(request: ChatRequest) -> int:
    return request.text_bytes * int(request.fields.get("n") or 1) if request.fields.get("echo") else 0
