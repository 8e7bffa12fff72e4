"""Lingering close: end a connection without losing the response while the client is still sending its body.

When a socket with unread data is closed, the kernel resets the connection, and a client that reads only after it has
sent everything may never see why it was refused. So the server closes its own side and discards what still arrives,
for a limited time and up to a limited size.
"""

from __future__ import annotations

import asyncio
import weakref

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.http.types import Send

#: Close after this many seconds even if the client is still sending.
LONGEST_LINGER_S = 30.0
#: Close after discarding this many bytes: three times the largest body that any route of the API accepts.
MOST_DISCARDED = 60 * 1024 * 1024


def linger_at_close(send: Send) -> None:
    """Make the connection linger if it is closed before the request body has arrived. Only behind uvicorn."""
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle) and not cycle.keep_alive and cycle.more_body:
        cycle.transport = _LingeringTransport(cycle)  # type: ignore[assignment]  # has all that uvicorn uses


def linger(transport: asyncio.Transport) -> None:
    """Close our side of the connection, and the other side once the client has closed it or the limits are reached."""
    # The client closes its side once it has read the answer to its end.
    transport.set_protocol(_Discarding(transport))
    transport.write_eof()
    transport.resume_reading()
    asyncio.get_running_loop().call_later(LONGEST_LINGER_S, transport.abort)


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
        linger(self._transport)


class _Discarding(asyncio.Protocol):
    """Discard what arrives. The former protocol still learns of the end of the connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._discarded = 0

    def data_received(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > MOST_DISCARDED:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
