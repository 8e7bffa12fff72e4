"""The parts of a request that are told of, each the ordinary one with eyes: money, engines, pictures.

None of this is built where no collector is set, so nothing of it costs anything there. Told are names, numbers and
codes: never a prompt, an answer, a key, or an address as it was called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from minitoolai.billing.charging import Bound, Charging, Reservation
from minitoolai.chat.router import Route
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.core.models import Caller, NewGeneration, Outcome
from minitoolai.engines.protocols import GeneratedImage
from minitoolai.images.attempt import JobAttempt
from minitoolai.ledger.types import Result

if TYPE_CHECKING:
    from minitoolai.observability.otel import Span, Traces

#: The request that the code at work belongs to, and the attempt at an engine; None where nobody is to be told.
REQUEST: Final[ContextVar[Span | None]] = ContextVar("minitoolai.request_span", default=None)
_ATTEMPT: Final[ContextVar[Span | None]] = ContextVar("minitoolai.attempt_span", default=None)


def attempt_headers() -> dict[str, str]:
    """What makes the work of an upstream a part of the attempt under way: `traceparent`, or nothing."""
    span = _ATTEMPT.get()
    return {} if span is None else span.headers()


def request_parent() -> str | None:
    """The `traceparent` of the request under way, for work that is done later."""
    span = REQUEST.get()
    return None if span is None else span.headers().get("traceparent")


# ── money ─────────────────────────────────────────────────────────────────────────────────────────────────


class TracedCharging(Charging):
    """The wait for each of the two commits is a span; what was used and charged stands on the second."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        #: Of holds that will be settled here: the request, when its work began, and a voice that speaks.
        self._held: dict[int, tuple[Span, int, Span | None]] = {}

    async def reserve(
        self,
        caller: Caller,
        bound: Bound,
        generation: NewGeneration,
        *,
        hold_id: int | None = None,
        queue_limit: int | None = None,
    ) -> Reservation:
        """As ever."""
        request = REQUEST.get()
        if request is None:
            return await super().reserve(caller, bound, generation, hold_id=hold_id, queue_limit=queue_limit)
        facts = {"minitoolai.kind": generation.kind, "gen_ai.request.model": generation.model}
        for name, fact in facts.items():
            request.note(name, fact)
        hold = request.child("hold" if queue_limit is None else "submit", facts)
        try:
            held = await super().reserve(caller, bound, generation, hold_id=hold_id, queue_limit=queue_limit)
        except ServiceError as error:
            hold.fail(error.code)
            raise
        else:
            name = generation_name(held.hold_id)
            hold.note("minitoolai.generation", name)
            hold.note("minitoolai.held_nano", held.amount)
            request.note("minitoolai.generation", name)
        finally:
            hold.end()
        if queue_limit is None:
            voice = _engine_span(request, generation.engine, 1) if generation.kind == "speech" else None
            self._held[held.hold_id] = (request, self._clock.now_ms(), voice)
        return held

    def settle(
        self, reservation: Reservation, cost: int, outcome: Outcome, *, is_last: bool = False
    ) -> asyncio.Future[Result] | None:
        """As ever."""
        request, began_ms, voice = self._held.pop(reservation.hold_id, (None, 0, None))
        if request is None:
            return super().settle(reservation, cost, outcome, is_last=is_last)
        if outcome.first_token_ms is not None:
            request.event("first token", began_ms + outcome.first_token_ms)
        _note_end(request, outcome)
        if voice is not None:
            _note_end(voice, outcome)
            voice.end()
        span = request.child("settle", _used(reservation.hold_id, cost, outcome))
        charge = super().settle(reservation, cost, outcome, is_last=is_last)
        if charge is None:
            span.end()
        else:
            charge.add_done_callback(partial(_durable, span))
        return charge


def _note_end(span: Span, outcome: Outcome) -> None:
    if outcome.state == "failed":
        span.fail(outcome.error_code or "failed")
    elif outcome.error_code is not None:
        span.note("error.type", outcome.error_code)


def _used(hold_id: int, cost: int, outcome: Outcome) -> dict[str, str | int | bool]:
    facts: dict[str, str | int | bool] = {
        "minitoolai.generation": generation_name(hold_id),
        "minitoolai.state": outcome.state,
        "minitoolai.cost_nano": cost,
        "gen_ai.usage.input_tokens": outcome.input_units,
        "gen_ai.usage.output_tokens": outcome.output_units,
    }
    if outcome.served_model is not None:
        facts["gen_ai.response.model"] = outcome.served_model
    return facts


def _durable(span: Span, charge: asyncio.Future[Result]) -> None:
    if charge.cancelled():
        span.fail("cancelled")
    elif (error := charge.exception()) is not None:
        span.fail(type(error).__name__)
    span.end()


# ── engines ───────────────────────────────────────────────────────────────────────────────────────────────


class TracedRoute(Route):
    """Every attempt at an engine is a span."""

    __slots__ = ("_count", "_span")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._count = 0
        self._span: Span | None = None

    def ask(self) -> None:
        """As ever."""
        super().ask()
        request = REQUEST.get()
        self._count += 1
        self._span = None if request is None else _engine_span(request, self.engine.name, self._count)
        _ATTEMPT.set(self._span)

    def end(self, error: ServiceError | None, *, had_begun: bool = False) -> None:
        """As ever."""
        super().end(error, had_begun=had_begun)
        span, self._span = self._span, None
        if span is not None:
            if error is not None:
                span.fail(error.code)
            span.end()


def _engine_span(request: Span, name: str, attempt: int) -> Span:
    return request.child("engine", {"gen_ai.provider.name": name, "minitoolai.attempt": attempt}, calls_out=True)


# ── pictures ──────────────────────────────────────────────────────────────────────────────────────────────


class TracedImageRun(JobAttempt):
    """An attempt at a job is a span, under the request that submitted it; so are drawing, keeping, and the commit."""

    def __init__(self, traces: Traces, clock: Clock, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._traces = traces
        self._clock = clock
        self._span: Span | None = None

    async def run(self) -> None:
        """As ever."""
        self._span = self._begin()
        try:
            await super().run()
        except asyncio.CancelledError:
            if self._span is not None:
                self._span.note("error.type", "lost" if self.is_lost else "handed_back")
            raise
        finally:
            if self._span is not None:
                self._span.end()

    def _begin(self) -> Span | None:
        job, facts = self.job, self._facts()
        facts |= {
            "minitoolai.kind": "image",
            "minitoolai.generation": generation_name(job.id),
            "gen_ai.request.model": job.model,
            "minitoolai.waited_ms": max(0, self._clock.now_ms() - job.created_ms),
        }
        return self._traces.job("image job", {"traceparent": self.ask.trace} if self.ask.trace else {}, facts)

    def _facts(self) -> dict[str, str | int | bool]:
        return {"gen_ai.provider.name": self.engine.name, "minitoolai.attempt": self.job.attempt}

    async def draw(self) -> GeneratedImage:
        """As ever."""
        with _piece(self._span, "draw", self._facts()):
            return await super().draw()

    async def keep(self, png: bytes) -> str:
        """As ever."""
        with _piece(self._span, "keep", {"minitoolai.bytes": len(png)}):
            return await super().keep(png)

    async def settle(self, cost: int, outcome: Outcome) -> Result:
        """As ever."""
        if self._span is not None:
            _note_end(self._span, outcome)
        with _piece(self._span, "settle", _used(self.job.id, cost, outcome)):
            return await super().settle(cost, outcome)

    async def fail(self, code: str, message: str) -> None:
        """As ever."""
        if self._span is not None:
            self._span.fail(code)
        with _piece(self._span, "queue again", {"error.type": code}):
            await super().fail(code, message)


@contextmanager
def _piece(span: Span | None, name: str, facts: dict[str, str | int | bool]) -> Iterator[None]:
    piece = None if span is None else span.child(name, facts)
    try:
        yield
    except (ServiceError, StoreError) as error:
        if piece is not None:
            piece.fail(error.code if isinstance(error, ServiceError) else "storage_error")
        raise
    finally:
        if piece is not None:
            piece.end()
