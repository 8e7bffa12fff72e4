"""uvicorn's HTTP/1.1 protocol with limits: what one client sends, or does not send or read, must not harm others.

Limits the size of a head, how many requests wait on one connection, and how long each step may take. Nothing is read
from a connection on which requests wait, so the memory of a connection is bounded by one read from its socket.
Also ignores `Upgrade`. Java's HTTP client and `curl --http2` add `Upgrade: h2c` to ordinary requests. A server may
ignore that (RFC 9110 7.8), but the parser stops after the head of such a request, and would read its body as the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from minitoolai.core.errors import HeadTooLarge, InvalidRequest, RequestTimeout, ServiceError, TooManyConnections
from minitoolai.http.errors import error_body, error_headers, status_and_type
from minitoolai.http.serving.connections import Connections
from minitoolai.http.serving.lingering import LONGEST_LINGER_S, MOST_DISCARDED, linger

log = logging.getLogger(__name__)

#: Request line and headers together. Also the largest piece that is parsed, so that no longer head goes unnoticed.
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 200
#: Pipelined requests that are parsed while another one is served.
MAX_PENDING: Final = 16
#: Seconds for a whole head, from its first byte or the opening of the connection.
HEAD_TIMEOUT_S: Final = 10
#: Seconds between two pieces of a body.
BODY_TIMEOUT_S: Final = 30
#: Seconds that a client may read nothing while a response waits for it.
WRITE_TIMEOUT_S: Final = 60
#: Seconds between two requests.
KEEP_ALIVE_S: Final = 75

_HEAD_END: Final = b"\r\n\r\n"
# What the connection waits for.
_IDLE, _HEAD, _BODY, _CLOSING = range(4)
#: Discards headers: the trailers of chunked bodies.
_DISCARD: Final[Any] = deque(maxlen=0)


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Parses a request with `Upgrade` a second time as if `Connection` did not mention it."""

    # With more than 30 attributes in its dict, each of thousands of connections would take a kilobyte more.
    __slots__ = (
        "_connections",
        "_head_bytes",
        "_head_tail",
        "_held",
        "_held_at",
        "_is_refused",
        "_overhead",
        "_refusal",
        "_served",
        "_since",
        "_unsent",
        "_waits_for",
    )

    def __init__(self, connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        # Thousands of connections may be open that send nothing, so that what takes most memory is made later.
        self.parser: Any = None
        self.pipeline: Any = _Pipeline()
        self._connections = connections
        self._waits_for = _HEAD
        #: When it began to wait, in ticks.
        self._since = connections.now
        #: The request being served. `cycle` is the last one that was parsed.
        self._served: Any = None
        #: Data that is not parsed yet, and the position of the next byte to parse.
        self._held = b""
        self._held_at = 0
        #: Size so far of a head that arrives in several pieces, and its last bytes.
        self._head_bytes = 0
        self._head_tail = b""
        #: Bytes received since the last byte of the body: framing, trailers, or data after a refusal.
        self._overhead = 0
        #: Why the connection will end, once earlier requests are answered.
        self._refusal: ServiceError | None = None
        self._is_refused = False
        #: Size of the write buffer, and when it was seen first.
        self._unsent = (0, 0)

    @property
    def _is_serving(self) -> bool:
        return self._served is not None and not self._served.response_complete

    # ── the connection ────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self.server = self._connections.shared(self.server)
        self._since = self._connections.now
        if not self._connections.add(self, self._address()):
            self._waits_for = _CLOSING
            self._write_error(TooManyConnections(
                "Your address has too many open connections. Close some, or use each for several requests.",
                retry_after_s=10,
            ))  # fmt: skip
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self, self._address())
        super().connection_lost(exc)
        # uvicorn notifies only the last request.
        for cycle in (self._served, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._held = b""

    def shutdown(self) -> None:
        """Let the request being served end. Do not wait for a client that was refused."""
        if self._waits_for == _CLOSING:
            self.transport.close()
        else:
            super().shutdown()

    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def check(self, now: int) -> None:
        """End the connection if the client has kept it waiting for too long. `now`: ticks."""
        if self.flow.write_paused or self.transport.is_closing():
            self._check_unsent(now)
            return
        self._unsent = 0, now
        if self._waits_for == _IDLE:
            if not self._is_serving and now - self._since > KEEP_ALIVE_S:
                self.transport.close()
        elif self._waits_for == _HEAD:
            if now - self._since > HEAD_TIMEOUT_S and not self._is_serving:
                self._end_late_head()
        elif self._waits_for == _BODY:
            self._check_body(now)

    def _end_late_head(self) -> None:
        if self._head_bytes:
            self._refuse(RequestTimeout(f"The head of the request did not arrive within {HEAD_TIMEOUT_S} s."))
        else:
            # Nothing was ever sent.
            self.transport.close()

    def _check_unsent(self, now: int) -> None:
        size = self.transport.get_write_buffer_size()
        if size != self._unsent[0]:
            self._unsent = size, now
        elif size and now - self._unsent[1] > WRITE_TIMEOUT_S:
            self.transport.abort()

    def _check_body(self, now: int) -> None:
        cycle = self.cycle
        if cycle.response_complete:
            if now - self._since > LONGEST_LINGER_S:
                self.transport.abort()
        elif cycle.response_started or cycle.waiting_for_100_continue or self.flow.read_paused:
            # The client is not to blame.
            self._since = now
        elif now - self._since > BODY_TIMEOUT_S:
            self._refuse(RequestTimeout(f"Nothing of the body arrived for {BODY_TIMEOUT_S} s."))

    # ── receiving ─────────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self._waits_for == _BODY:
            self._count_body(len(data))
        if self._held or len(data) > MAX_HEAD_BYTES or data.count(_HEAD_END) > MAX_PENDING:
            self._held = self._held[self._held_at :] + data
            self._held_at = 0
            self._feed_held()
        else:
            self._feed(data)

    def _count_body(self, size: int) -> None:
        """Count bytes after the last one of the body: an endless trailer, or data that no handler reads."""
        self._overhead += size
        if self.cycle.response_complete:
            if self._overhead > MOST_DISCARDED:
                self.transport.abort()
        else:
            self._since = self._connections.now

    def _feed_held(self) -> None:
        """Parse the received data, in pieces, until requests wait."""
        while self._held_at < len(self._held):
            if self.pipeline:
                self.flow.pause_reading()
                return
            end = min(self._held_at + MAX_HEAD_BYTES, len(self._held))
            piece_end = self._held_at
            for _ in range(MAX_PENDING):
                found = self._held.find(_HEAD_END, piece_end, end)
                if found < 0:
                    piece_end = end
                    break
                piece_end = found + len(_HEAD_END)
            piece = self._held[self._held_at : piece_end]
            self._held_at = piece_end
            self._feed(piece)
        self._held, self._held_at = b"", 0

    def _feed(self, data: bytes) -> None:
        """Parse the data: at most MAX_HEAD_BYTES, with the ends of at most MAX_PENDING heads."""
        before = self._waits_for
        if self.parser is None:
            self.parser = _new_parser(self)
        try:
            if self._head_bytes:
                self._check_head(data)
            while data:
                try:
                    self.parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    data = self._without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            reason = self._refusal
            if reason is None:
                log.warning("invalid HTTP request from %s: %s", self._address() or "a local socket", error)
                reason = InvalidRequest("The request is not valid HTTP/1.1.")
            self._refuse(reason)
        except HeadTooLarge as error:
            self._refuse(error)
        if self._waits_for == _HEAD:
            self._count_head(data, is_after_body=before == _BODY)
        elif self._overhead > MAX_HEAD_BYTES and not self.cycle.response_complete:
            self._refuse(HeadTooLarge("The trailers of the body are larger than 64 kB. Send none."))

    def _check_head(self, data: bytes) -> None:
        """Raise HeadTooLarge if a head that came in pieces ends with this one and is too large."""
        end = (self._head_tail + data).find(_HEAD_END)
        if end >= 0 and self._head_bytes - len(self._head_tail) + end + len(_HEAD_END) > MAX_HEAD_BYTES:
            raise _head_too_large()

    def _count_head(self, data: bytes, *, is_after_body: bool) -> None:
        """Count a piece of a head that is not complete. It may have begun anywhere in this piece."""
        if is_after_body:
            # Where the body ended is not known, so begin to count with the next piece.
            self._head_bytes, self._head_tail, data = 0, b"", data[-3:]
        elif (end := data.rfind(_HEAD_END)) >= 0:
            self._head_bytes, self._head_tail, data = 0, b"", data[end + len(_HEAD_END) :]
        self._head_bytes += len(data)
        self._head_tail = (self._head_tail + data[-3:])[-3:]
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Return the head that requested an upgrade, without that, and the data after it, to be parsed again."""
        if self.parser.get_method() == b"CONNECT":
            raise httptools.HttpParserError("CONNECT is not supported") from None
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [
            b"%b: %b" % (name, _other_options(value) if name == b"connection" else value)
            for name, value in self.headers
        ]
        # The old parser has stopped for good.
        self.parser = _new_parser(self)
        return b"\r\n".join([*lines, b"", b""]) + rest

    def _should_upgrade(self) -> bool:
        """Return True, so that uvicorn does not start a request that is about to be parsed again."""
        return True

    # ── callbacks of the parser ───────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._waits_for = _HEAD
        self._since = self._connections.now

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS:
            self._refusal = HeadTooLarge(f"The request has more than {MAX_HEADERS} headers. Send fewer.")
            raise self._refusal
        super().on_headers_complete()
        if self.parser.should_upgrade():
            return
        self._waits_for = _BODY
        self._head_bytes = self._overhead = 0
        self.headers = _DISCARD
        if not self.pipeline:
            self._served = self.cycle

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle.response_complete:
            return
        self._overhead = 0
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._waits_for = _IDLE
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    # ── responding ────────────────────────────────────────────────────────────────────────────────────────────

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._since = self._connections.now
        if self.transport.is_closing() or not self._served.keep_alive:
            return
        if self.pipeline:
            self._served, app = self.pipeline.pop()
            self._start_asgi_task(self._served, app)
        elif self._refusal is not None:
            self._refuse(self._refusal)
        if self._held and not self.pipeline:
            self._feed_held()
        self.flow.resume_reading()

    def _refuse(self, error: ServiceError) -> None:
        """Answer with an error, once earlier requests are answered, and end the connection."""
        self._refusal = error
        self._held, self._held_at = b"", 0
        if self._waits_for == _BODY:
            self._drop_request()
        elif self._waits_for == _HEAD and self.headers is not None:
            # No handler has them.
            self.headers.clear()
        self._head_bytes = self._overhead = 0
        self.parser, self.headers = _DEAF, _DISCARD
        if self._is_refused or self.transport.is_closing():
            return
        if self._is_serving:
            self._waits_for = _IDLE
            self.flow.pause_reading()
            return
        self._is_refused = True
        self._waits_for = _CLOSING
        self._write_error(error)
        linger(self.transport)

    def _drop_request(self) -> None:
        """End the request with an incomplete body: its handler may be waiting for more of it."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle is not self._served:
            self.pipeline.popleft()
        elif cycle.response_started:
            self.transport.close()
        else:
            self._served = None

    def _write_error(self, error: ServiceError) -> None:
        body = error_body(error)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *error_headers(error),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status_and_type(error)[0]], lines, body))


_SET: Final = asyncio.Event()
_SET.set()


class _Flow(FlowControl):
    """Flow control that does not read on while requests wait."""

    __slots__ = ("_is_writable_event", "_pipeline", "_transport", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport, protocol: LimitedProtocol) -> None:
        # Not uvicorn's own, which makes an event for each connection: most of them never need one.
        self._transport = transport
        self._pipeline = protocol.pipeline
        self.read_paused = self.write_paused = False
        self._is_writable_event = _SET

    def pause_writing(self) -> None:
        if not self.write_paused:
            self.write_paused = True
            self._is_writable_event = asyncio.Event()

    def resume_reading(self) -> None:
        if self.read_paused and not self._pipeline:
            self.read_paused = False
            self._transport.resume_reading()


class _Pipeline(list[Any]):
    """The requests that wait, the newest first, as uvicorn wants them. At most 16, so a list is as fast as a deque.

    An empty deque has 620 bytes.
    """

    __slots__ = ()

    def appendleft(self, request: Any) -> None:
        """Add the newest request."""
        self.insert(0, request)

    def popleft(self) -> Any:
        """Remove the newest request, and return it."""
        return self.pop(0)


class _DeafParser:
    """Ignores what arrives after a refusal."""

    def feed_data(self, data: bytes) -> None:
        """Ignore the data."""


_DEAF: Final[Any] = _DeafParser()


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"The request line and the headers are larger than {MAX_HEAD_BYTES // 1024} kB. Send a shorter URL or less in "
        "headers."
    )


def _other_options(connection: bytes) -> bytes:
    options = (option.strip() for option in connection.split(b","))
    return b", ".join(option for option in options if option.lower() not in (b"upgrade", b"http2-settings", b""))


def _new_parser(protocol: Any) -> Any:
    parser = httptools.HttpRequestParser(protocol)
    # As uvicorn does for the first one.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
