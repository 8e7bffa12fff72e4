"""Test the tracing middleware alone, with spans that record their calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from minitoolai.core.telemetry.tracing import REQUEST
from minitoolai.observability.middleware import TracingMiddleware

Message = MutableMapping[str, Any]
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}


class FakeSpan:
    """Record what the middleware sets."""

    def __init__(self, name: str, headers: dict[str, str]) -> None:
        self.name, self.parent = name, headers
        self.attributes: dict[str, Any] = {}
        self.failure: str | None = None
        self.ends = 0

    def rename(self, name: str) -> None:
        self.name = name

    def set_attribute(self, name: str, value: Any) -> None:
        self.attributes[name] = value

    def fail(self, code: str) -> None:
        self.failure = code

    def end(self) -> None:
        self.ends += 1


class FakeTraces:
    """Start fake spans, or none if the request is not sampled."""

    def __init__(self, *, sampled: bool = True) -> None:
        self.spans: list[FakeSpan] = []
        self._sampled = sampled

    def request(self, name: str, headers: dict[str, str], _: dict[str, str]) -> FakeSpan | None:
        if not self._sampled:
            return None
        self.spans.append(FakeSpan(name, headers))
        return self.spans[-1]


def scope_of(path: str = "/v1/models/x", **headers: str) -> dict[str, Any]:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "GET", "path": path, "headers": encoded}


def serve(
    traces: FakeTraces, app: Any, scope: dict[str, Any], route: str | None = "/v1/models/{name}"
) -> list[Message]:
    """Serve one request through the middleware and return the messages that were sent."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(TracingMiddleware(app, traces, lambda _: route)(scope, receive, send))  # type: ignore[arg-type]
    return sent


def responding(*messages: Message) -> Any:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def test_a_span_has_the_route_and_the_status_but_never_the_path() -> None:
    traces = FakeTraces()
    body = {"type": "http.response.body", "body": b"{}"}
    sent = serve(traces, responding(START, body), scope_of("/v1/models/secret", traceparent="00-1-2-01"))
    (span,) = traces.spans
    assert sent == [START, body]
    assert (span.name, span.parent) == ("GET /v1/models/{name}", {"traceparent": "00-1-2-01"})
    assert span.attributes == {
        "http.route": "/v1/models/{name}",
        "http.response.status_code": 200,
        "minitoolai.streamed": False,
    }
    assert (span.failure, span.ends) == (None, 1)


def test_a_span_without_a_route_keeps_the_method_as_its_name() -> None:
    traces = FakeTraces()
    serve(traces, responding(START), scope_of("/secret"), route=None)
    assert traces.spans[0].name == "GET"
    assert "http.route" not in traces.spans[0].attributes


def test_an_event_stream_is_marked_as_streamed() -> None:
    traces = FakeTraces()
    headers = [(b"Content-Type", b"text/event-stream; charset=utf-8")]
    serve(traces, responding({**START, "headers": headers}), scope_of())
    assert traces.spans[0].attributes["minitoolai.streamed"] is True


@pytest.mark.parametrize(
    ("status", "body", "code", "failure"),
    [
        (404, {"error": {"code": "not_found"}}, "not_found", None),
        (400, {"status": "error", "code": "invalid_json"}, "invalid_json", None),
        (502, {"error": {"code": "upstream_error"}}, "upstream_error", "upstream_error"),
        (503, [], None, "503"),
    ],
)
def test_the_error_code_is_recorded_and_only_server_errors_fail_the_span(
    status: int, body: Any, code: str | None, failure: str | None
) -> None:
    traces = FakeTraces()
    body_message = {"type": "http.response.body", "body": json.dumps(body).encode()}
    serve(traces, responding({**START, "status": status}, body_message), scope_of())
    (span,) = traces.spans
    assert span.attributes.get("error.type") == code
    assert (span.failure, span.ends) == (failure, 1)


def test_an_exception_fails_and_ends_the_span_and_is_raised_again() -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    traces = FakeTraces()
    with pytest.raises(ZeroDivisionError):
        serve(traces, broken, scope_of())
    assert (traces.spans[0].failure, traces.spans[0].ends) == ("ZeroDivisionError", 1)


def test_health_checks_and_requests_that_are_not_sampled_have_no_span() -> None:
    current: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        current.append(REQUEST.get())
        await send(START)

    traces = FakeTraces()
    for path in ("/healthz", "/readyz"):
        assert serve(traces, app, scope_of(path)) == [START]
    assert traces.spans == []
    assert serve(FakeTraces(sampled=False), app, scope_of()) == [START]
    assert serve(traces, app, scope_of()) == [START]
    assert current == [None, None, None, traces.spans[0]]
