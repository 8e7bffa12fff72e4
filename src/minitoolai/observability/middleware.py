"""ASGI middleware that records a span for each request, with its route, status and error code."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from minitoolai.core.telemetry.logs import current_request
from minitoolai.core.telemetry.tracing import REQUEST
from minitoolai.http.asgi import App, Receive, Scope, Send, header

if TYPE_CHECKING:
    from minitoolai.observability.otel import OtelSpan, Traces

#: Not traced, because load balancers request them all day.
UNTRACED_PATHS: Final = frozenset(("/healthz", "/readyz"))


class TracingMiddleware:
    """ASGI middleware: run the app inside a span. `route_template` names the route of a request that was served."""

    def __init__(self, app: App, traces: Traces, route_template: Callable[[Scope], str | None]) -> None:
        self._app = app
        self._traces = traces
        self._route_template = route_template

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED_PATHS:
            await self._app(scope, receive, send)
            return
        span = self._begin(scope)
        # Set it even if None: a pipelined request starts with the context variables of the one before it.
        REQUEST.set(span)
        current_request.set(None)
        if span is None:
            await self._app(scope, receive, send)
            return
        response = _ResponseObserver(send)
        try:
            await self._app(scope, receive, response)
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            self._end(span, scope, response)

    def _begin(self, scope: Scope) -> OtelSpan | None:
        names = ("traceparent", "tracestate")
        headers = {name: header(scope, name.encode()).decode("latin-1") for name in names}
        return self._traces.request(
            scope["method"],
            {name: value for name, value in headers.items() if value},
            {"http.request.method": scope["method"]},
        )

    def _end(self, span: OtelSpan, scope: Scope, response: _ResponseObserver) -> None:
        # Never record the path itself, because some paths contain signatures.
        route = self._route_template(scope)
        if route is not None:
            span.rename(f"{scope['method']} {route}")
            span.set_attribute("http.route", route)
        facts = current_request.get()
        if facts is not None:
            span.set_attribute("minitoolai.request", facts.request_id())
        if response.status:
            span.set_attribute("http.response.status_code", response.status)
            span.set_attribute("minitoolai.streamed", response.is_stream)
        if response.code is not None:
            span.set_attribute("error.type", response.code)
        if response.status >= 500:
            span.fail(response.code or str(response.status))
        span.end()


class _ErrorFields(msgspec.Struct):
    code: str | None = None


class _ErrorBody(msgspec.Struct):
    """Body of an error response, in OpenAI's shape or that of the image API."""

    code: str | None = None
    error: _ErrorFields | None = None


_decode_error = msgspec.json.Decoder(_ErrorBody).decode


class _ResponseObserver:
    """Pass messages on to `send`, and note the response's status, error code and whether it is a stream."""

    def __init__(self, send: Send) -> None:
        self._send = send
        #: Makes this look like a bound method of uvicorn's own object, which the fast path and the context look for.
        self.__self__ = getattr(send, "__self__", None)
        self.status = 0
        self.is_stream = False
        self.code: str | None = None

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            self.is_stream = any(kind.startswith(b"text/event-stream") for kind in kinds)
        elif self.status >= 400 and self.code is None:
            self.code = _error_code(bytes(message.get("body", b"")))
        await self._send(message)


def _error_code(body: bytes) -> str | None:
    try:
        decoded = _decode_error(body)
    except msgspec.DecodeError:
        return None
    return decoded.code if decoded.error is None else decoded.error.code
