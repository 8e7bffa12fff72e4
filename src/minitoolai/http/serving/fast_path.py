"""Write responses directly to uvicorn's connection, without an ASGI message and a coroutine per chunk (decision 0006).

Used only if `send` is uvicorn's own. Behind any other server or middleware, responses go through ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from minitoolai.http.types import Headers, Receive, Send

_SIZES: Final = [b"%x\r\n" % size for size in range(8192)]


class DirectWriter:
    """Write chunks of a response after its head has been sent, in order with those sent through `send`."""

    __slots__ = ("_cycle", "_flow", "_write")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._write = cycle.transport.write

    def write(self, data: bytes) -> bool:
        """Send a non-empty chunk. Return False and send nothing if the client reads too slowly: then use `send`."""
        if self._flow.write_paused:
            return False
        # A disconnect is detected by `watch_disconnect`. Until then, as in uvicorn, data is dropped.
        if not self._cycle.disconnected:
            size = len(data)
            self._write((_SIZES[size] if size < 8192 else b"%x\r\n" % size) + data + b"\r\n")
        return True


def try_fast_response(send: Send, status: int, body: bytes, headers: Headers) -> bool:
    """Send a complete response with one write, if `send` is an ordinary uvicorn connection. Otherwise return False.

    Saves two ASGI messages, a coroutine for each and two scans of all headers. Unusual cases are left to uvicorn: HEAD,
    a slow or disconnected client, a connection to be closed, uvicorn's access log.
    """
    # A middleware that wraps `send` must see the response, so only uvicorn's own method qualifies.
    cycle = send.__self__ if isinstance(send, MethodType) else None
    if not isinstance(cycle, RequestResponseCycle) or cycle.response_started or cycle.disconnected:
        return False
    if not cycle.keep_alive or cycle.flow.write_paused or cycle.access_log or cycle.scope["method"] == "HEAD":
        return False
    head = b"\r\n".join(map(b": ".join, (*cycle.default_headers, *headers)))
    # A line break in a value would start another header (response splitting).
    breaks = len(cycle.default_headers) + len(headers) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = cycle.chunked_encoding = False
    cycle.transport.write(b"%b%b\r\n\r\n%b" % (STATUS_LINE[status], head, body))
    cycle.message_event.set()
    cycle.on_response()
    return True


def direct_writer(send: Send) -> DirectWriter | None:
    """Return a writer to the connection of a response that has begun, None if the server is not uvicorn."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not cycle.chunked_encoding or cycle.response_complete:
        return None
    return DirectWriter(cycle)


class DisconnectWatcher:
    """Calls back when a client disconnects, without a task that waits for it (decision 0043).

    Takes the place of the event that uvicorn sets for each message of a request whose body has arrived.
    """

    __slots__ = ("_cycle", "_event", "_on_disconnect")

    def __init__(self, cycle: RequestResponseCycle, on_disconnect: Callable[[], None]) -> None:
        self._cycle = cycle
        self._event = cycle.message_event
        self._on_disconnect = on_disconnect
        cycle.message_event = self  # type: ignore[assignment]
        cycle.flow.resume_reading()
        if cycle.disconnected:
            asyncio.get_running_loop().call_soon(self.set)

    def set(self) -> None:
        """Called by the connection in place of the event's own method."""
        if self._cycle.disconnected and self._cycle.message_event is self:  # type: ignore[comparison-overlap]
            self.cancel()
            self._on_disconnect()

    def cancel(self) -> None:
        """Watch no longer."""
        self._cycle.message_event = self._event
        if self._cycle.disconnected:
            self._event.set()


def disconnect_watcher(receive: Receive, on_disconnect: Callable[[], None]) -> DisconnectWatcher | None:
    """Return a watcher of a client whose request has arrived, None if `receive` is not uvicorn's own."""
    cycle = receive.__self__ if isinstance(receive, MethodType) else None
    if not isinstance(cycle, RequestResponseCycle) or cycle.more_body or cycle.waiting_for_100_continue:
        return None
    return DisconnectWatcher(cycle, on_disconnect)


def http10_body(send: Send) -> Send:
    """Return a `send` for HTTP/1.0 clients, which do not know chunked encoding.

    A response without a length ends when the connection closes.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        return send

    async def send_plainly(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            has_length = any(name == b"content-length" for name, _ in message.get("headers", ()))
            cycle.chunked_encoding = None if has_length else False
        elif cycle.chunked_encoding is False:
            # Accept any size: there is no announced length.
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return send_plainly
