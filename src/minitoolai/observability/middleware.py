"""The app as it is told of: each request a span, with its route, status and names."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from minitoolai.core.tracing import REQUEST
from minitoolai.http.asgi import App, Receive, Scope, Send, header
from minitoolai.observability.logging import current_request

if TYPE_CHECKING:
    from minitoolai.observability.otel import Span, Traces

#: Asked by machines all day long.
UNTOLD: Final = frozenset(("/healthz", "/readyz"))


class TracedApp:
    """An app around which every request is a span."""

    def __init__(self, app: App, traces: Traces, route_of: Callable[[Scope], str | None]) -> None:
        self._app = app
        self._traces = traces
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTOLD:
            await self._app(scope, receive, send)
            return
        span = self._begin(scope)
        # None, too: a pipelined request starts in the context of the one before it.
        REQUEST.set(span)
        current_request.set(None)
        if span is None:
            await self._app(scope, receive, send)
            return
        seen = _Seen(send)
        try:
            await self._app(scope, receive, seen)
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            self._end(span, scope, seen)

    def _begin(self, scope: Scope) -> Span | None:
        names = ("traceparent", "tracestate")
        headers = {name: header(scope, name.encode()).decode("latin-1") for name in names}
        return self._traces.request(
            scope["method"],
            {name: value for name, value in headers.items() if value},
            {"http.request.method": scope["method"]},
        )

    def _end(self, span: Span, scope: Scope, seen: _Seen) -> None:
        # Never the path itself: some carry signatures.
        route = self._route_of(scope)
        if route is not None:
            span.rename(f"{scope['method']} {route}")
            span.set_attribute("http.route", route)
        facts = current_request.get()
        if facts is not None:
            span.set_attribute("minitoolai.request", facts.request_id())
        if seen.status:
            span.set_attribute("http.response.status_code", seen.status)
            span.set_attribute("minitoolai.streamed", seen.is_stream)
        if seen.code is not None:
            span.set_attribute("error.type", seen.code)
        if seen.status >= 500:
            span.fail(seen.code or str(seen.status))
        span.end()


class _Fault(msgspec.Struct):
    code: str | None = None


class _Told(msgspec.Struct):
    """An answer that is an error, in either of our shapes."""

    code: str | None = None
    error: _Fault | None = None


_told = msgspec.json.Decoder(_Told).decode


class _Seen:
    """Sends on, and remembers how the answer began."""

    def __init__(self, send: Send) -> None:
        self._send = send
        #: Whose method `send` is: some look behind it for the server's own.
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
            self.code = _code_of(bytes(message.get("body", b"")))
        await self._send(message)


def _code_of(body: bytes) -> str | None:
    try:
        told = _told(body)
    except msgspec.DecodeError:
        return None
    return told.code if told.error is None else told.error.code
