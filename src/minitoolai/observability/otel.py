"""Record spans with OpenTelemetry and export them over OTLP. No other module imports the library.

It is imported only if a collector is configured. A background thread sends the spans. A collector that is slow or
unreachable delays no request: the queue is bounded, and the oldest spans are dropped.
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

from minitoolai.core.telemetry.tracing import Attributes

log = logging.getLogger(__name__)

#: Maximum number of queued spans; beyond it the oldest are dropped.
MAX_QUEUE: Final = 4096
#: Time-out for one request to the collector, including the library's retries.
EXPORT_TIMEOUT_S: Final = 5.0
#: How long a stopping process waits for the queued spans to be sent.
FLUSH_S: Final = 3.0
_DELAY_MS: Final = 1000
_BATCH: Final = 512
_NS_PER_MS: Final = 1_000_000
_W3C: Final = TraceContextTextMapPropagator()
_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class OtelSpan:
    """One timed piece of work, from now until `end`."""

    __slots__ = ("_context", "_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Recorded) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)

    def child(self, name: str, attributes: Attributes, *, is_client: bool = False) -> OtelSpan:
        """Start a span below this one. `is_client`: the work is a call over the network."""
        kind = SpanKind.CLIENT if is_client else SpanKind.INTERNAL
        return OtelSpan(self._tracer, self._tracer.start_span(name, self._context, kind, attributes))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set_attribute(self, name: str, value: str | int | bool) -> None:
        """Add an attribute; ignored once the span has ended."""
        if self._span.is_recording():
            self._span.set_attribute(name, value)

    def add_event(self, name: str, at_ms: int) -> None:
        """Add an event at a time in ms since 1970; ignored once the span has ended."""
        if self._span.is_recording():
            self._span.add_event(name, timestamp=at_ms * _NS_PER_MS)

    def fail(self, code: str) -> None:
        """Mark as failed. Only the error code is recorded, because a message may quote the caller."""
        if self._span.is_recording():
            self._span.set_attribute("error.type", code)
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self._span.end()

    def headers(self) -> dict[str, str]:
        """Return `traceparent`, and `tracestate` if the caller sent one."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self._context)
        return carrier


class Traces:
    """Start the root spans of one process, and send all spans to the collector."""

    def __init__(
        self,
        *,
        url: str,
        headers: Mapping[str, str],
        ratio: float,
        version: str,
        instance: str,
        max_queue: int = MAX_QUEUE,
    ) -> None:
        logging.getLogger(_EXPORTER).addFilter(_OncePerMinute())
        self._provider = TracerProvider(
            sampler=_sampler(ratio),
            resource=_resource(version, instance),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=256),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=url, headers=dict(headers), timeout=EXPORT_TIMEOUT_S),
                max_queue_size=max_queue,
                schedule_delay_millis=_DELAY_MS,
                max_export_batch_size=min(_BATCH, max_queue),
            )
        )
        self._tracer = self._provider.get_tracer("minitoolai", version)

    def request(self, name: str, headers: Mapping[str, str], attributes: Attributes) -> OtelSpan | None:
        """Start the span of a request, in the trace that its headers name; None if it is not sampled."""
        return self._start(name, _W3C.extract(headers, Context()), SpanKind.SERVER, attributes)

    def job(self, name: str, headers: Mapping[str, str], attributes: Attributes) -> OtelSpan | None:
        """Start the span of a queued job, in the trace of the request that submitted it; None if it is not sampled."""
        return self._start(name, _W3C.extract(headers, Context()), SpanKind.CONSUMER, attributes)

    def _start(self, name: str, parent: Context, kind: SpanKind, attributes: Attributes) -> OtelSpan | None:
        span = self._tracer.start_span(name, parent, kind, attributes)
        return OtelSpan(self._tracer, span) if span.is_recording() else None

    def close(self) -> None:
        """Send the queued spans, for up to FLUSH_S. Blocks, so call it in a thread."""
        # The library would wait for the retries of every batch, which takes too long for a process that stops.
        flushing = threading.Thread(target=self._provider.shutdown, name="flush traces", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)
        if flushing.is_alive():
            log.warning("the trace collector did not respond within %g s: dropped the queued spans", FLUSH_S)


def try_collector(url: str, headers: Mapping[str, str]) -> bool:
    """Return True if the collector accepts a message without spans."""
    exporter = OTLPSpanExporter(endpoint=url, headers=dict(headers), timeout=1.0)
    logging.getLogger(_EXPORTER).disabled = True
    try:
        return exporter.export(()) is SpanExportResult.SUCCESS
    finally:
        logging.getLogger(_EXPORTER).disabled = False
        exporter.shutdown()  # type: ignore[no-untyped-call]


def _sampler(ratio: float) -> ParentBased:
    """Sample by the ratio. A caller's `traceparent` can reduce sampling, but never exceed the ratio."""
    share = TraceIdRatioBased(ratio)
    return ParentBased(share, remote_parent_sampled=share, remote_parent_not_sampled=ALWAYS_OFF)


def _resource(version: str, instance: str) -> Resource:
    resource = Resource.create({"service.version": version, "service.instance.id": instance})
    if not str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource
    return resource.merge(Resource({SERVICE_NAME: "minitoolai"}))


class _OncePerMinute(logging.Filter):
    """Limit the log lines about an unreachable collector to one per minute."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created < self._next_s:
            return False
        self._next_s = record.created + 60.0
        return True
