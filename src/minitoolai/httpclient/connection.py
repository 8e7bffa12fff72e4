"""One HTTP/1.1 connection: send a request, receive a response, one exchange at a time.

Per-chunk work runs in C where possible: the parser appends bodies to a list, and no timer is armed per read. The ticker
of the connection pool counts silence instead (docs/decisions/0002).
"""

from __future__ import annotations

import asyncio
import itertools
import select
import time
from collections.abc import AsyncIterable, Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser


class HttpError(Exception):
    """Base class of failed exchanges. `sent`: the request may have reached the server and may have been billed."""

    sent = True


class ConnectError(HttpError):
    """The connection failed (refused, unknown host, TLS, timeout), so nothing was sent."""

    sent = False


class ReadTimeout(HttpError):
    """No response head arrived in time, or the gap within the body was too long."""


class ConnectionBroken(HttpError):
    """The server closed early, sent something other than HTTP, or sent less than it announced."""


TICK_S = 0.25
#: Pause reading from the socket while more than this many received bytes have not been read by the caller.
UNREAD_LIMIT = 256 * 1024
#: Accept at most this many consecutive bytes that are not body: headers, trailers, chunk extensions.
HEAD_LIMIT = 64 * 1024
#: Send head and body in a single write up to this body size.
SINGLE_WRITE_LIMIT = 64 * 1024
#: Names and values as received.
RawHeaders = list[tuple[bytes, bytes]]

# ── the fast path of a streamed body: a read that is exactly one chunk ────────────────────────────────────────

#: Leave longer reads to the parser.
MAX_FAST_READ = 8192


def _chunk_header(length: int) -> tuple[tuple[bytes, ...], int]:
    """Return the chunk headers (hex in either case) that a read of this length starts with if it is one chunk."""
    for digits in range(1, 5):
        header = b"%x\r\n" % max(0, length - digits - 4)
        if len(header) == digits + 2 and length > digits + 4:
            return tuple({header, header.upper()}), len(header)
    return (), 0


#: The only possible chunk header for each length of a read, so that a table lookup replaces parsing (decision 0006).
#: Chunks with extensions match none of them and go through the parser.
CHUNK_HEADERS = [_chunk_header(length) for length in range(MAX_FAST_READ)]


class HttpConnection(asyncio.Protocol):
    """A connection that is reused for many exchanges. From `send` to `release` or `abort` it belongs to one caller."""

    def __init__(self, on_release: Callable[[HttpConnection], None], on_lost: Callable[[HttpConnection], None]) -> None:
        self._on_release = on_release
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: Called when `read_nowait` has data, an error or the end, so that no task needs to wait.
        self.on_readable: Callable[[], None] | None = None
        #: Receives a body that arrived as exactly one chunk, if nothing is buffered, instead of `on_readable`.
        self.on_chunk: Callable[[bytes], None] | None = None
        self._chunks: list[bytes] = []
        #: The parser looks up its callbacks by name; binding `append` saves one Python call per body.
        self.on_body = self._chunks.append
        self._parser = HttpResponseParser(self)
        self.is_lost = False
        #: Completed when the transport has room again; None while it has.
        self._writable: asyncio.Future[None] | None = None
        self.is_busy = False
        self.idle_since_s = 0.0
        self._poll: select.poll | None = None
        self._reset_exchange(is_head=False, read_timeout_s=0.0)

    def _reset_exchange(self, *, is_head: bool, read_timeout_s: float) -> None:
        self._is_head = is_head
        self._read_timeout_s = read_timeout_s
        self._silent_ticks = self._non_body_bytes = self._unread_bytes = self._unsent_bytes = 0
        self.on_readable = self.on_chunk = None
        self._is_between_chunks = self._chunk_is_whole = False
        self.raw_headers: RawHeaders = []
        self._may_reuse = self._is_paused = self._must_close = False
        self.error: HttpError | None = None
        self.has_received = self.has_head = self.ended = False
        self.status = 0

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of the response."""
        return decode_headers(self.raw_headers)

    # ── one exchange ──────────────────────────────────────────────────────────────────────────────────────

    async def exchange(
        self,
        head: bytes,
        body: bytes,
        *,
        is_head: bool = False,
        read_timeout_s: float,
        blocks: AsyncIterable[bytes] | None = None,
    ) -> None:
        """Send a request and wait for the head of the response. Close the connection on any failure.

        `blocks` are sent after `body`, each once the transport has room. Raises ReadTimeout or ConnectionBroken.
        """
        try:
            self.send(head, body, is_head=is_head, read_timeout_s=read_timeout_s)
            if blocks is not None:
                await self._send_blocks(blocks)
            while not self.has_head:
                await self._wait_readable()
        except BaseException:
            self.abort()
            raise

    def send(self, head: bytes, body: bytes, *, is_head: bool, read_timeout_s: float) -> None:
        """Start an exchange. Write a small request in one call, so that it leaves in one packet."""
        assert self._transport is not None
        assert not self.is_busy
        self._reset_exchange(is_head=is_head, read_timeout_s=read_timeout_s)
        self.is_busy = True
        if len(body) <= SINGLE_WRITE_LIMIT:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def _send_blocks(self, blocks: AsyncIterable[bytes]) -> None:
        """Send a long body in constant memory. Stop if the server responds, or fails, before it has read all of it."""
        assert self._transport is not None
        async for block in blocks:
            if self.error is not None:
                raise self.error
            if self.has_head:
                # The rest of the body would be taken for the next request.
                self._must_close, self._may_reuse = True, False
                return
            self._transport.write(block)
            while self._writable is not None and not self.has_head and self.error is None:
                await asyncio.wait([self._writable], timeout=TICK_S)

    async def next_bytes(self) -> bytes:
        """Wait for body bytes and return all that are buffered, or b"" at the end.

        Raises ReadTimeout or ConnectionBroken, after the bytes received before the failure have been returned.
        """
        while (data := self.read_nowait()) is None:
            await self._wait_readable()
        return data

    def read_nowait(self) -> bytes | None:
        """Return all buffered body bytes, b"" at the end, or None if nothing has arrived.

        Raises ReadTimeout or ConnectionBroken.
        """
        if self._chunks:
            data = b"".join(self._chunks)  # a single chunk is returned without a copy
            self._chunks.clear()
            self._unread_bytes = 0
            if self._is_paused:
                self._resume()
            return data
        if self.ended:
            return b""
        if self.error is not None:
            raise self.error
        return None

    @property
    def is_drained(self) -> bool:
        """Return True if the response has ended and all of it was read."""
        return self.ended and not self._chunks

    def release(self) -> None:
        """End the exchange. Return the connection to the pool if the response is complete, else close it."""
        transport = self._transport
        if not (self.ended and self._may_reuse) or self.is_lost or transport is None or self._has_waiter():
            self.abort()
            return
        if transport.is_closing() or transport.get_write_buffer_size():
            self.abort()
            return
        self._chunks.clear()
        if self._is_paused:
            self._resume()
        self.is_busy = False
        self.idle_since_s = time.monotonic()
        self._on_release(self)

    def abort(self, error: HttpError | None = None) -> None:
        """Close the connection without delay; the server sees the close. A waiting reader gets `error`."""
        if not self.ended and self.error is None:
            self.error = error or ConnectionBroken("the response was closed by this client before its end")
        self._may_reuse = self._is_between_chunks = False
        self._notify()
        if self._transport is not None:
            self._transport.abort()

    def tick(self) -> None:
        """Count one interval of silence; the pool calls this every TICK_S during an exchange.

        Counting calls instead of reading a clock means that a stall of this process counts as one interval.
        """
        if self.ended or self._is_paused or self._transport is None:
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent_bytes:
            self._unsent_bytes, self._silent_ticks = unsent, 0
        self._silent_ticks += 1
        if (self._silent_ticks - 1) * TICK_S >= self._read_timeout_s:
            place = "between two chunks" if self.has_head else "before the head of the response"
            self.abort(ReadTimeout(f"{self._read_timeout_s:g} s of silence {place}"))

    def is_reusable(self, idle_s: float) -> bool:
        """Return True if an idle connection is open, younger than `idle_s` and has no unexpected input.

        Polls the socket to detect a close that the kernel knows about before the event loop does.
        """
        if self.is_lost or self._transport is None or self._transport.is_closing():
            return False
        if time.monotonic() - self.idle_since_s >= idle_s:
            return False
        return self._poll is None or not self._poll.poll(0)

    def _wait_readable(self) -> asyncio.Future[None]:
        """Return a future that completes on new data or the end. Raises the error of an exchange that has failed."""
        if self.error is not None:
            raise self.error
        if self._has_waiter():
            raise RuntimeError("another task is already reading this response")
        assert self._loop is not None
        self._waiter = self._loop.create_future()
        return self._waiter

    def _has_waiter(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _notify(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.on_readable is not None:
            self.on_readable()

    def _resume(self) -> None:
        self._is_paused, self._silent_ticks = False, 0
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # ── asyncio.Protocol ──────────────────────────────────────────────────────────────────────────────────

    def pause_writing(self) -> None:
        assert self._loop is not None
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio's
        self._loop = asyncio.get_running_loop()
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        size = len(data)
        if self._is_between_chunks and self.on_chunk is not None and size < MAX_FAST_READ and not self._chunks:
            # Nearly every read of a stream is exactly one chunk: hand its body over without parsing.
            headers, start = CHUNK_HEADERS[size]
            if data.startswith(headers) and data.endswith(b"\r\n"):
                self._silent_ticks = self._non_body_bytes = 0
                self.on_chunk(data[start:-2])
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if not self.is_busy or self.ended:
            # Unsolicited bytes: close, or they would be taken for the response to the next request.
            self.abort()
            return
        self.has_received = True
        self._silent_ticks = 0
        self._unread_bytes += len(data)
        before = len(self._chunks)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._may_reuse = False
            if not self.ended:
                self.abort(ConnectionBroken(f"the server sent invalid HTTP: {error.__context__ or error}"))
                return
        # The read ended with the end of a chunk, so the next one must start with a chunk header.
        self._is_between_chunks = self._chunk_is_whole and not self.ended and data.endswith(b"\r\n")
        self._non_body_bytes = 0 if len(self._chunks) > before else self._non_body_bytes + len(data)
        if self._non_body_bytes > HEAD_LIMIT:
            self.abort(ConnectionBroken(f"more than {HEAD_LIMIT} bytes of headers"))
        elif (
            self._unread_bytes > UNREAD_LIMIT and not self._is_paused and not self.ended and self._transport is not None
        ):
            self._is_paused = True
            self._transport.pause_reading()
        if self._waiter is not None or self.on_readable is not None:
            self._notify()

    def eof_received(self) -> bool:
        if self.has_head and self._ends_at_close():
            self.ended = True
        return False

    def _ends_at_close(self) -> bool:
        headers = self.headers
        is_chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        return not is_chunked and "content-length" not in headers and self.status not in (204, 304)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.resume_writing()
        if not self.ended and self.error is None:
            self.error = ConnectionBroken(
                f"the server closed the connection before the end of the response: {exc or 'end of file'}"
            )
        self._notify()
        self._on_lost(self)

    # ── the parser's callbacks ────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        if self.ended:
            raise HttpParserError("a second response to one request")
        self.raw_headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:
            self.raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise HttpParserError("an unsolicited change of protocol (status 101)")
        if status < 200:
            return
        # The unread bytes may include the beginning of the body, so measure the headers themselves.
        if self._unread_bytes > HEAD_LIMIT and sum(map(len, itertools.chain(*self.raw_headers))) > HEAD_LIMIT:
            raise HttpParserError(f"more than {HEAD_LIMIT} bytes of headers")
        self.status = status
        self.has_head = True
        if self._is_head:
            # The parser would wait for the body that content-length announces. End here, and close the connection.
            self.ended = True
            raise HttpParserError("a response to HEAD has no body")

    def on_chunk_header(self) -> None:
        self._chunk_is_whole = False

    def on_chunk_complete(self) -> None:
        self._chunk_is_whole = True

    def on_message_complete(self) -> None:
        if self.has_head and not self.ended:
            self._may_reuse = self._parser.should_keep_alive() and not self._must_close
            self.ended = True


def decode_headers(raw_headers: RawHeaders) -> dict[str, str]:
    """Return headers by lower-case name, joining repeated ones. Decoded on demand, because few callers need them."""
    headers: dict[str, str] = {}
    for name, value in raw_headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
