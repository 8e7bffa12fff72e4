"""A trace collector: accepts OTLP over HTTP like one in production, decodes it, and records every byte."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.waiting import eventually


@dataclass(frozen=True)
class RecordedSpan:
    """One span."""

    name: str
    trace: str
    id: str
    parent: str
    facts: dict[str, Any]
    events: list[str]
    is_error: bool
    began_ns: int
    ended_ns: int
    event_ns: list[int]


class Collector:
    """Listen on a free port; `spans` are those received so far."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.spans: list[RecordedSpan] = []
        self.service: dict[str, Any] = {}
        #: If not set, it reads requests and does not respond.
        self.answers = threading.Event()
        self.answers.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if not collector.answers.wait(timeout=20):
                    return
                collector.take(self.path, dict(self.headers), body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Handle one message."""
        assert path == "/v1/traces", path
        self.raw.append(body)
        self.headers.append({name.lower(): value for name, value in headers.items()})
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.service = _facts(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_recorded(span) for span in scope.spans]

    def where(self, facts: dict[str, Any], name: str = "") -> list[RecordedSpan]:
        """Return the spans with these attributes."""
        return [
            span
            for span in list(self.spans)
            if name in ("", span.name) and all(span.facts.get(key) == value for key, value in facts.items())
        ]

    def one(self, facts: dict[str, Any], name: str = "", *, within_s: float = 10.0) -> RecordedSpan:
        """Return the only span with these attributes, once it has arrived."""
        found: list[RecordedSpan] = eventually(lambda: self.where(facts, name), within_s=within_s)
        assert len(found) == 1, found
        return found[0]

    def under(self, parent: RecordedSpan, name: str, count: int = 1) -> list[RecordedSpan]:
        """Return its children of this name, in order, once there are as many as expected."""

        def children() -> list[RecordedSpan]:
            found = [span for span in list(self.spans) if span.parent == parent.id and span.name == name]
            return found if len(found) >= count else []

        found: list[RecordedSpan] = eventually(children, within_s=10)
        assert len(found) == count, found
        assert all(span.trace == parent.trace for span in found)
        return sorted(found, key=lambda span: span.began_ns)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _recorded(span: Any) -> RecordedSpan:
    return RecordedSpan(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        facts=_facts(span.attributes),
        events=[event.name for event in span.events],
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        event_ns=[event.time_unix_nano for event in span.events],
    )


def _facts(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
