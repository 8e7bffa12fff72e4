"""OpenTelemetry, and the only module that knows it: spans begin here, and a thread of their own sends them.

Imported only where somebody is to be told. A collector that is slow or away costs no request anything: the queue has
an end, and what does not fit is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span as Recorded
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from minitoolai.core.tracing import Attributes

log = logging.getLogger(__name__)

#: Spans that wait for the collector; more are dropped, the oldest first.
QUEUE: Final = 4096
#: One request to the collector, with the tries that the library makes of it.
PATIENCE_S: Final = 5.0
#: How long a stopping process waits for what is queued.
FLUSH_S: Final = 3.0
_DELAY_MS: Final = 1000
_BATCH: Final = 512
_NS_PER_MS: Final = 1_000_000
_W3C: Final = TraceContextTextMapPropagator()
_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class Span:
    """A piece of work that is told of, from now until `end`."""

    __slots__ = ("_context", "_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Recorded) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    def child(self, name: str, attributes: Attributes, *, is_client: bool = False) -> Span:
        """Start a span below this one. `is_client`: the work is a call over the network."""
        kind = SpanKind.CLIENT if is_client else SpanKind.INTERNAL
        return Span(self._tracer, self._tracer.start_span(name, self._context, kind, attributes))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set_attribute(self, name: str, value: str | int | bool) -> None:
        """Add an attribute; ignored once the span has ended."""
        if self._span.is_recording():
            self._span.set_attribute(name, value)

    def add_event(self, name: str, at_ms: int) -> None:
        """Something that happened at a moment, in ms since 1970. Nothing once the span has ended."""
        if self._span.is_recording():
            self._span.add_event(name, timestamp=at_ms * _NS_PER_MS)

    def fail(self, code: str) -> None:
        """It went wrong; only the code of the error is told, for its message may repeat the caller's words."""
        if self._span.is_recording():
            self._span.set_attribute("error.type", code)
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self._span.end()

    def headers(self) -> dict[str, str]:
        """What makes another's work a part of this piece: `traceparent`, and `tracestate` where the caller sent one."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self._context)
        return carrier


class Traces:
    """What one process tells. Begins spans; `close` sends what is queued."""

    def __init__(
        self, *, url: str, headers: Mapping[str, str], ratio: float, version: str, instance: str, queue: int = QUEUE
    ) -> None:
        logging.getLogger(_EXPORTER).addFilter(_Seldom())
        self._provider = TracerProvider(
            sampler=_sampler(ratio),
            resource=_resource(version, instance),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=256),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=url, headers=dict(headers), timeout=PATIENCE_S),
                max_queue_size=queue,
                schedule_delay_millis=_DELAY_MS,
                max_export_batch_size=min(_BATCH, queue),
            )
        )
        self._tracer = self._provider.get_tracer("minitoolai", version)

    def request(self, name: str, headers: Mapping[str, str], attributes: Attributes) -> Span | None:
        """A request that came in, under the trace that its headers name. None where it is not to be told of."""
        return self._begin(name, _W3C.extract(headers, Context()), SpanKind.SERVER, attributes)

    def job(self, name: str, headers: Mapping[str, str], attributes: Attributes) -> Span | None:
        """Work taken from a queue, under the trace of whoever put it there."""
        return self._begin(name, _W3C.extract(headers, Context()), SpanKind.CONSUMER, attributes)

    def _begin(self, name: str, parent: Context, kind: SpanKind, attributes: Attributes) -> Span | None:
        span = self._tracer.start_span(name, parent, kind, attributes)
        return Span(self._tracer, span) if span.is_recording() else None

    def close(self) -> None:
        """Send what is queued, for as long as that may take; blocks, so not for the event loop."""
        # The library would wait for each batch's tries in turn; a process that stops cannot.
        ending = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        ending.start()
        ending.join(FLUSH_S)
        if ending.is_alive():
            log.warning("the collector of traces does not answer: the last traces are lost")


def try_collector(url: str, headers: Mapping[str, str]) -> bool:
    """Whether the collector takes a message without spans."""
    exporter = OTLPSpanExporter(endpoint=url, headers=dict(headers), timeout=1.0)
    logging.getLogger(_EXPORTER).disabled = True
    try:
        return exporter.export(()) is SpanExportResult.SUCCESS
    finally:
        logging.getLogger(_EXPORTER).disabled = False
        exporter.shutdown()  # type: ignore[no-untyped-call]


def _sampler(ratio: float) -> ParentBased:
    """A stranger's `traceparent` may ask for less, never for more than the ratio."""
    share = TraceIdRatioBased(ratio)
    return ParentBased(share, remote_parent_sampled=share, remote_parent_not_sampled=ALWAYS_OFF)


def _resource(version: str, instance: str) -> Resource:
    made = Resource.create({"service.version": version, "service.instance.id": instance})
    if not str(made.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return made
    return made.merge(Resource({SERVICE_NAME: "minitoolai"}))


class _Seldom(logging.Filter):
    """A collector that is away is a line a minute, not one a try."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created < self._next_s:
            return False
        self._next_s = record.created + 60.0
        return True
