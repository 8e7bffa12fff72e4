"""Lingering close: end a connection without losing the response while the client is still sending its body.

When a socket with unread data is closed, the kernel resets the connection, and a client that reads only after it has
sent everything may never see why it was refused. So the server closes its own side and discards what still arrives.
"""

from __future__ import annotations

import asyncio
import weakref

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.http.asgi import Send

#: Close after this many seconds even if the client is still sending.
LONGEST_LINGER_S = 30.0


def linger_at_close(send: Send) -> None:
    """Make the connection linger if it is closed before the request body has arrived. Only behind uvicorn."""
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle) and not cycle.keep_alive and cycle.more_body:
        cycle.transport = _LingeringTransport(cycle)  # type: ignore[assignment]  # has all that uvicorn uses


class _LingeringTransport:
    """The transport of one request. Holds the cycle weakly, so that the two are freed without the garbage collector."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = weakref.ref(cycle)
        self._transport = cycle.transport

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        cycle = self._cycle()
        if cycle is None or not cycle.more_body or cycle.disconnected or self._transport.is_closing():
            self._transport.close()
            return
        # The client closes its side once it has read the answer to its end.
        self._transport.set_protocol(_Discarding(self._transport.get_protocol()))
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(LONGEST_LINGER_S, self._transport.close)


class _Discarding(asyncio.Protocol):
    """Ignore everything but the end of the connection, which `protocol` must know of."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
