"""One HTTP/1.1 connection to an engine: bytes in, an answer out, one exchange at a time.

Everything per chunk happens in C where it can: the parser appends bodies to a list, and no timer is armed; the pool's
ticker counts silence instead.
"""

from __future__ import annotations

import asyncio
import itertools
import select
import time
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

# (merged from chunks) The common case of chunked coding: a read that is one whole chunk. Everything else is for the parser.
# (merged from chunks)
# (merged from chunks) Of a read's length only one head of a chunk can be right, so that a look at a table replaces parsing.

#: Longer reads are left to the parser.
LARGEST_READ = 8192


def _head(length: int) -> tuple[tuple[bytes, ...], int]:
    """The heads that a read of this length may begin with if it is one chunk (hex in either case), and their size."""
    for digits in range(1, 5):
        head = b"%x\r\n" % max(0, length - digits - 4)
        if len(head) == digits + 2 and length > digits + 4:
            return tuple({head, head.upper()}), len(head)
    return (), 0


#: By a read's length: see `_head`. Chunks with extensions begin with none of these.
HEADS = [_head(length) for length in range(LARGEST_READ)]


# (merged from http_errors) How an exchange with an engine can fail, and whether it may have been done all the same.


class HttpError(Exception):
    """The root. `sent`: whether the request may have reached the server, and so may have been done and billed."""

    sent = True


class ConnectError(HttpError):  # a fact, not a category
    """Refused, no such name, TLS, or no connection in time: nothing was sent."""

    sent = False


class ReadTimeout(HttpError):  # a fact, not a category
    """No head in time, or too long a gap in the body."""


class ConnectionBroken(HttpError):  # a fact, not a category
    """Closed early, not HTTP, or less than was promised."""


TICK_S = 0.25
#: Bytes received and not yet taken; beyond this the socket is not read.
UNREAD_LIMIT = 256 * 1024
#: Bytes of head, of trailers, or of anything else that is not body, in a row.
HEAD_LIMIT = 64 * 1024
ONE_PACKET = 64 * 1024
#: Names and values as they came.
Head = list[tuple[bytes, bytes]]


class HttpConnection(asyncio.Protocol):
    """Reused from exchange to exchange. `begin` to `release` or `abort` belongs to one caller."""

    def __init__(self, on_release: Callable[[HttpConnection], None], on_lost: Callable[[HttpConnection], None]) -> None:
        self._on_release = on_release
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: Called when something came, in place of a waiting task.
        self.listener: Callable[[], None] | None = None
        #: Given a body that came as one whole chunk, in place of listener and `take`, while nothing else waits.
        self.sink: Callable[[bytes], None] | None = None
        self._chunks: list[bytes] = []
        #: The parser finds its callbacks here; appending a body costs no Python frame.
        self.on_body = self._chunks.append
        self._parser = HttpResponseParser(self)
        self.is_lost = False
        self.is_busy = False
        self.idle_since_s = 0.0
        self._poll: select.poll | None = None
        self._forget_exchange(is_head=False, silence_s=0.0)

    def _forget_exchange(self, *, is_head: bool, silence_s: float) -> None:
        self._is_head = is_head
        self._silence_s = silence_s
        self._quiet_ticks = self._barren = self._unread = self._unsent = 0
        self.listener = self.sink = None
        self._is_between_chunks = self._chunk_is_whole = False
        self.head: Head = []
        self._may_reuse = self._is_paused = False
        self.error: HttpError | None = None
        self.has_heard = self.has_head = self.ended = False
        self.status = 0

    @property
    def headers(self) -> dict[str, str]:
        """Those of the answer."""
        return as_text(self.head)

    # ── one exchange ──────────────────────────────────────────────────────────────────────────────────────

    async def exchange(self, head: bytes, body: bytes, *, is_head: bool = False, silence_s: float) -> None:
        """Send, and return when status and headers of the answer are here. Silent, Broken; then it is closed."""
        try:
            self.send(head, body, is_head=is_head, silence_s=silence_s)
            while not self.has_head:
                await self._something()
        except BaseException:
            self.abort()
            raise

    def send(self, head: bytes, body: bytes, *, is_head: bool, silence_s: float) -> None:
        """Begin an exchange: one write, and so one packet, where the body is small."""
        assert self._transport is not None
        assert not self.is_busy
        self._forget_exchange(is_head=is_head, silence_s=silence_s)
        self.is_busy = True
        if len(body) <= ONE_PACKET:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def next_bytes(self) -> bytes:
        """All that has come since the last call; b"" at the end. Silent, Broken, once what came before is taken."""
        while (data := self.take()) is None:
            await self._something()
        return data

    def take(self) -> bytes | None:
        """The same without waiting: None where nothing has come. Silent, Broken."""
        if self._chunks:
            data = b"".join(self._chunks)  # one chunk is returned as it is
            self._chunks.clear()
            self._unread = 0
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
        """Whether the answer ended and all of it was taken."""
        return self.ended and not self._chunks

    def release(self) -> None:
        """End the exchange: keep the connection if nothing of the answer is outstanding, else close it at once."""
        transport = self._transport
        if not (self.ended and self._may_reuse) or self.is_lost or transport is None or self._is_awaited():
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
        """Close at once; the other side sees it now. Whoever waits gets `error`."""
        if not self.ended and self.error is None:
            self.error = error or ConnectionBroken("the answer was closed here before its end")
        self._may_reuse = self._is_between_chunks = False
        self._wake()
        if self._transport is not None:
            self._transport.abort()

    def tick(self) -> None:
        """Called every TICK_S during an exchange. A stall of our own counts as one tick, however long it was."""
        if self.ended or self._is_paused or self._transport is None:
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._quiet_ticks = unsent, 0
        self._quiet_ticks += 1
        if (self._quiet_ticks - 1) * TICK_S >= self._silence_s:
            what = "between two chunks" if self.has_head else "before the head of the answer"
            self.abort(ReadTimeout(f"{self._silence_s:g} s of silence {what}"))

    def is_fresh(self, idle_s: float) -> bool:
        """Whether an idle connection may be used again: not closed, not old, and nothing waits to be read on it.

        The look at the socket finds a close that the kernel knows of and our event loop does not yet.
        """
        if self.is_lost or self._transport is None or self._transport.is_closing():
            return False
        if time.monotonic() - self.idle_since_s >= idle_s:
            return False
        return self._poll is None or not self._poll.poll(0)

    def _something(self) -> asyncio.Future[None]:
        """To be awaited: done when something has come, be it the end. Silent, Broken where that was before."""
        if self.error is not None:
            raise self.error
        if self._is_awaited():
            raise RuntimeError("somebody already waits for this answer")
        assert self._loop is not None
        self._waiter = self._loop.create_future()
        return self._waiter

    def _is_awaited(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.listener is not None:
            self.listener()

    def _resume(self) -> None:
        self._is_paused, self._quiet_ticks = False, 0
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # ── asyncio.Protocol ──────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio's
        self._loop = asyncio.get_running_loop()
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        size = len(data)
        if self._is_between_chunks and self.sink is not None and size < LARGEST_READ and not self._chunks:
            # One whole chunk, as nearly every read of a stream is: there is nothing to parse.
            heads, start = HEADS[size]
            if data.startswith(heads) and data.endswith(b"\r\n"):
                self._quiet_ticks = self._barren = 0
                self.sink(data[start:-2])
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if not self.is_busy or self.ended:
            # Bytes nobody asked for: whose answer the next ones were, nobody could tell.
            self.abort()
            return
        self.has_heard = True
        self._quiet_ticks = 0
        self._unread += len(data)
        before = len(self._chunks)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._may_reuse = False
            if not self.ended:
                self.abort(ConnectionBroken(f"the server does not speak HTTP: {error.__context__ or error}"))
                return
        # A line's end right after a chunk's: the parser would see the next head as we see it.
        self._is_between_chunks = self._chunk_is_whole and not self.ended and data.endswith(b"\r\n")
        self._barren = 0 if len(self._chunks) > before else self._barren + len(data)
        if self._barren > HEAD_LIMIT:
            self.abort(ConnectionBroken(f"more than {HEAD_LIMIT} bytes of headers"))
        elif self._unread > UNREAD_LIMIT and not self._is_paused and not self.ended and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        if self._waiter is not None or self.listener is not None:
            self._wake()

    def eof_received(self) -> bool:
        if self.has_head and self._lasts_until_close():
            self.ended = True
        return False

    def _lasts_until_close(self) -> bool:
        headers = self.headers
        is_chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
        return not is_chunked and "content-length" not in headers and self.status not in (204, 304)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self.ended and self.error is None:
            self.error = ConnectionBroken(
                f"the server closed the connection before the answer's end: {exc or 'end of file'}"
            )
        self._wake()
        self._on_lost(self)

    # ── the parser's callbacks ────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        if self.ended:
            raise HttpParserError("a second answer to one request")
        self.head.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:
            self.head.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise HttpParserError("a change of protocol that nobody asked for")
        if status < 200:
            return
        # What has come so far is head, and perhaps the beginning of the body.
        if self._unread > HEAD_LIMIT and sum(map(len, itertools.chain(*self.head))) > HEAD_LIMIT:
            raise HttpParserError(f"more than {HEAD_LIMIT} bytes of headers")
        self.status = status
        self.has_head = True
        if self._is_head:
            # The parser would wait for the body that content-length announces; it ends here, with its connection.
            self.ended = True
            raise HttpParserError("an answer to HEAD has no body")

    def on_chunk_header(self) -> None:
        self._chunk_is_whole = False

    def on_chunk_complete(self) -> None:
        self._chunk_is_whole = True

    def on_message_complete(self) -> None:
        if self.has_head and not self.ended:
            self._may_reuse = self._parser.should_keep_alive()
            self.ended = True


def as_text(head: Head) -> dict[str, str]:
    """Headers by their names in lower case, those of one name joined. Few ask for them."""
    headers: dict[str, str] = {}
    for name, value in head:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
