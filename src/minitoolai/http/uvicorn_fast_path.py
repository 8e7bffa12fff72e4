"""Straight to the server's socket: what uvicorn does with a piece of a stream, without a message and a coroutine each.

It is used only where `send` is uvicorn's own; behind anything else a stream goes by ASGI, as ever.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from minitoolai.http.types import Headers, Send

_SIZES: Final = [b"%x\r\n" % size for size in range(8192)]


class DirectWriter:
    """Writes chunks of an answer whose head has been sent, in order with what goes by `send`."""

    __slots__ = ("_cycle", "_flow", "_write")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._write = cycle.transport.write

    def write(self, data: bytes) -> bool:
        """Send a piece that is not empty. False, and nothing sent, where the caller reads too slowly: use `send`."""
        if self._flow.write_paused:
            return False
        # A caller who has left is found by the watch for it; until then what is written goes nowhere, as in uvicorn.
        if not self._cycle.disconnected:
            size = len(data)
            self._write((_SIZES[size] if size < 8192 else b"%x\r\n" % size) + data + b"\r\n")
        return True


def try_fast_response(send: Send, status: int, body: bytes, headers: Headers) -> bool:
    """Send a whole answer in one piece, if `send` is that of a connection in its usual state; else False, and nothing.

    What uvicorn does with two messages, a coroutine for each, and two searches of every header. Anything
    unusual is left to it: a HEAD, a caller who reads slowly or has left, a connection to be closed, its own log.
    """
    # Whoever stands around it wants to see the answer go by.
    cycle = send.__self__ if isinstance(send, MethodType) else None
    if not isinstance(cycle, RequestResponseCycle) or cycle.response_started or cycle.disconnected:
        return False
    if not cycle.keep_alive or cycle.flow.write_paused or cycle.access_log or cycle.scope["method"] == "HEAD":
        return False
    head = b"\r\n".join(map(b": ".join, (*cycle.default_headers, *headers)))
    # A line break smuggled into a value would begin another header.
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
    """A direct way beside `send`, whose answer has begun; None where there is none."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not cycle.chunked_encoding or cycle.response_complete:
        return None
    return DirectWriter(cycle)


def http10_body(send: Send) -> Send:
    """For callers of HTTP/1.0, who know no chunks: an answer without a length ends where the connection does."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        return send

    async def send_plainly(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            has_length = any(name == b"content-length" for name, _ in message.get("headers", ()))
            cycle.chunked_encoding = None if has_length else False
        elif cycle.chunked_encoding is False:
            # However much comes, it is what was announced.
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return send_plainly
