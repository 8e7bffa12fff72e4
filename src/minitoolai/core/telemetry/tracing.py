"""Spans of a request's parts: holds, engine attempts, settles and image jobs.

Charging, Route and JobAttempt each call `Spans` behind an `if self._spans is not None`, so a process without a
collector pays one comparison per step (decision 0009). Spans carry names, numbers and error codes only: never a
prompt, an output, a key or a requested URL. OpenTelemetry itself is known to observability/otel.py alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Protocol

from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.core.models import NewGeneration, Outcome

Attributes = Mapping[str, str | int | bool]


class Span(Protocol):
    """One timed piece of work, from now until `end`."""

    def child(self, name: str, attributes: Attributes, *, is_client: bool = False) -> Span:
        """Start a span below this one. `is_client`: the work is a call over the network."""

    def rename(self, name: str) -> None:
        """Replace the name."""

    def set_attribute(self, name: str, value: str | int | bool) -> None:
        """Add an attribute; ignored once the span has ended."""

    def add_event(self, name: str, at_ms: int) -> None:
        """Add an event at a time in ms since 1970; ignored once the span has ended."""

    def fail(self, code: str) -> None:
        """Mark as failed. Only the error code is recorded, because a message may quote the caller."""

    def end(self) -> None:
        """End the span."""

    def headers(self) -> dict[str, str]:
        """Return `traceparent`, and `tracestate` if the caller sent one."""


#: Span of the current request and of the current engine attempt; None if not traced.
REQUEST: Final[ContextVar[Span | None]] = ContextVar("minitoolai.request_span", default=None)
ATTEMPT: Final[ContextVar[Span | None]] = ContextVar("minitoolai.attempt_span", default=None)
#: Starts the span of a queued job: name, headers with its `traceparent`, attributes.
StartJob = Callable[[str, Mapping[str, str], Attributes], Span | None]


def attempt_headers() -> dict[str, str]:
    """Return the `traceparent` header for a request to an upstream, or nothing."""
    span = ATTEMPT.get()
    return {} if span is None else span.headers()


def request_parent() -> str | None:
    """Return the current request's `traceparent`, to store with work that is done later."""
    span = REQUEST.get()
    return None if span is None else span.headers().get("traceparent")


class Spans:
    """Start and end the spans of one process."""

    def __init__(self, start_job: StartJob, clock: Clock) -> None:
        self._start_job = start_job
        self._clock = clock
        #: By hold: the request's span, when its work began, and the engine span of a request for audio.
        self._held: dict[int, tuple[Span, int, Span | None]] = {}

    # ── money ─────────────────────────────────────────────────────────────────────────────────────────────

    def start_hold(self, generation: NewGeneration, *, is_job: bool) -> Span | None:
        """Start the span of a hold; None if the request is not traced."""
        request = REQUEST.get()
        if request is None:
            return None
        attributes = {"minitoolai.kind": generation.kind, "gen_ai.request.model": generation.model}
        for name, value in attributes.items():
            request.set_attribute(name, value)
        return request.child("submit" if is_job else "hold", attributes)

    def end_hold(self, span: Span, error: BaseException) -> None:
        """End the span of a hold that was refused or cancelled."""
        if isinstance(error, ServiceError):
            span.fail(error.code)
        span.end()

    def hold_placed(self, span: Span, hold_id: int, amount: int, generation: NewGeneration, *, is_job: bool) -> None:
        """End the span of a hold. The settle of a job happens elsewhere, so only other holds are remembered."""
        request, name = REQUEST.get(), generation_name(hold_id)
        span.set_attribute("minitoolai.generation", name)
        span.set_attribute("minitoolai.held_nano", amount)
        span.end()
        if request is None:
            return
        request.set_attribute("minitoolai.generation", name)
        if not is_job:
            is_single = generation.kind in ("speech", "transcription")
            engine = _engine_span(request, generation.engine, 1) if is_single else None
            self._held[hold_id] = (request, self._clock.now_ms(), engine)

    def start_settle(self, hold_id: int, cost: int, outcome: Outcome) -> Span | None:
        """Start the span of a settle, and end what the request had open; None if the hold is not traced."""
        request, began_ms, engine = self._held.pop(hold_id, (None, 0, None))
        if request is None:
            return None
        if outcome.first_token_ms is not None:
            request.add_event("first token", began_ms + outcome.first_token_ms)
        _set_outcome(request, outcome)
        if engine is not None:
            _set_outcome(engine, outcome)
            engine.end()
        return request.child("settle", _usage(hold_id, cost, outcome))

    def end_settle(self, span: Span, charge: asyncio.Future[Any] | None) -> None:
        """End the span once the charge is durable."""
        if charge is None:
            span.end()
        else:
            charge.add_done_callback(partial(_end_with, span))

    # ── engines ───────────────────────────────────────────────────────────────────────────────────────────

    def start_attempt(self, engine: str, number: int) -> Span | None:
        """Start the span of one attempt at an engine, and make it the parent of the upstream's own spans."""
        request = REQUEST.get()
        span = None if request is None else _engine_span(request, engine, number)
        ATTEMPT.set(span)
        return span

    def end_attempt(self, span: Span, error: ServiceError | None) -> None:
        """End the span of an attempt."""
        if error is not None:
            span.fail(error.code)
        span.end()

    # ── image jobs ────────────────────────────────────────────────────────────────────────────────────────

    def start_job(
        self, traceparent: str | None, job_id: int, model: str, created_ms: int, attempt: Attributes
    ) -> Span | None:
        """Start the span of an attempt at a job, below the request that submitted it."""
        attributes = {
            **attempt,
            "minitoolai.kind": "image",
            "minitoolai.generation": generation_name(job_id),
            "gen_ai.request.model": model,
            "minitoolai.waited_ms": max(0, self._clock.now_ms() - created_ms),
        }
        return self._start_job("image job", {"traceparent": traceparent} if traceparent else {}, attributes)

    def start_job_settle(self, span: Span, job_id: int, cost: int, outcome: Outcome) -> Attributes:
        """Record on a job's span how it ended; returns the attributes of the settle's own span."""
        _set_outcome(span, outcome)
        return _usage(job_id, cost, outcome)


@contextmanager
def child_span(parent: Span | None, name: str, attributes: Attributes) -> Iterator[None]:
    """Run a block inside a span below `parent`; do nothing if that is None."""
    span = None if parent is None else parent.child(name, attributes)
    try:
        yield
    except (ServiceError, StoreError) as error:
        if span is not None:
            span.fail(error.code if isinstance(error, ServiceError) else "storage_error")
        raise
    finally:
        if span is not None:
            span.end()


def _engine_span(request: Span, name: str, number: int) -> Span:
    return request.child("engine", {"gen_ai.provider.name": name, "minitoolai.attempt": number}, is_client=True)


def _set_outcome(span: Span, outcome: Outcome) -> None:
    if outcome.state == "failed":
        span.fail(outcome.error_code or "failed")
    elif outcome.error_code is not None:
        span.set_attribute("error.type", outcome.error_code)


def _usage(hold_id: int, cost: int, outcome: Outcome) -> Attributes:
    attributes: dict[str, str | int | bool] = {
        "minitoolai.generation": generation_name(hold_id),
        "minitoolai.state": outcome.state,
        "minitoolai.cost_nano": cost,
        "gen_ai.usage.input_tokens": outcome.input_units,
        "gen_ai.usage.output_tokens": outcome.output_units,
    }
    if outcome.served_model is not None:
        attributes["gen_ai.response.model"] = outcome.served_model
    return attributes


def _end_with(span: Span, charge: asyncio.Future[Any]) -> None:
    if charge.cancelled():
        span.fail("cancelled")
    elif (error := charge.exception()) is not None:
        span.fail(type(error).__name__)
    span.end()
