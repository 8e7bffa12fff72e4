"""The HTTP/1.1 client of the engines: pooled connections, bytes as they come, a cancel that closes.

Made for few origins and many streams; docs/decisions/0002 says why it is our own. It follows no redirect,
keeps no cookie, unpacks nothing, reads no proxy from the environment, and never sends a request twice.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

CONNECT_S = 5.0
IDLE_S = 4.0
#: Unread bytes at which the socket is no longer read: a slow caller slows the engine.
_HIGH_WATER = 256 * 1024
_LARGEST_HEAD = 64 * 1024
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class HttpError(Exception):
    """The exchange failed; how is in the class, where in the message."""


class Unreachable(HttpError):
    """No connection: name, refusal, TLS or time-out. Nothing was sent."""


class Silent(HttpError):
    """Connected, but not a byte for `silence_s`."""


class Broken(HttpError):
    """Closed, reset or not HTTP before the answer was whole."""


class Target(NamedTuple):
    """A URL taken apart. `tls` also says which connections of the pool may serve it."""

    tls: bool
    host: str
    port: int
    authority: str
    path: str


@lru_cache(maxsize=256)
def parse_target(url: str) -> Target:
    """ValueError for anything but an http or https URL with a host."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http or https URL: {url!r}")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authority = parts.netloc.rpartition("@")[2]
    if any(char <= " " for char in path + authority):
        raise ValueError(f"blanks or control characters in the URL: {url!r}")
    return Target(tls, parts.hostname, parts.port or (443 if tls else 80), authority, path)


def encode_head(method: str, target: Target, headers: Mapping[str, str], length: int) -> bytes:
    """The request's head. ValueError if a header could smuggle another."""
    lines = [f"{method} {target.path} HTTP/1.1\r\nhost: {target.authority}\r\naccept-encoding: identity"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    text = "\r\n".join(lines)
    if text.count("\n") != len(headers) + 2 or text.count("\r") != len(headers) + 2 or "\0" in text:
        raise ValueError("a line break or NUL in a request header")
    return f"{text}\r\ncontent-length: {length}\r\n\r\n".encode("latin-1")


class HttpAnswer:
    """An answer under way. Whoever got it calls `close`, on every path; after the end that costs nothing."""

    def __init__(self, connection: _Connection, silence_s: float) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._connection = connection
        self._loop = connection.loop
        self._chunks: deque[bytes] = deque()
        self._waiting = 0
        self._ended = False
        self._error: HttpError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._silence_s = silence_s
        self._heard_at = self._loop.time()
        self._watch = self._loop.call_later(silence_s, self._check_silence)

    async def next_bytes(self) -> bytes:
        """What has come since the last call, or else comes next; empty at the end. HttpError."""
        while not self._chunks:
            if self._ended:
                return b""
            await self._wait()
        if len(self._chunks) == 1:
            data = self._chunks.popleft()
        else:
            data = b"".join(self._chunks)
            self._chunks.clear()
        if self._waiting > _HIGH_WATER and not self._ended:
            self._heard_at = self._loop.time()
            self._connection.resume()
        self._waiting = 0
        return data

    async def read(self, limit: int | None = None) -> bytes:
        """All that is left, or its first `limit` bytes and perhaps a few more."""
        parts: list[bytes] = []
        size = 0
        while (limit is None or size < limit) and (data := await self.next_bytes()):
            parts.append(data)
            size += len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Let go. If the answer has not ended, the connection is cut and the other side knows at once."""
        if not self._ended:
            self.fail(Broken("closed by us"))
            self._connection.abort()

    async def wait_head(self) -> None:
        while not self.status:
            await self._wait()

    # What follows is called by the connection.

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers

    def add(self, data: bytes) -> None:
        self._chunks.append(data)
        self._waiting += len(data)
        if self._waiting > _HIGH_WATER:
            self._connection.pause()

    def heard(self) -> None:
        """Bytes came and are digested: wake the reader once, however many pieces they made."""
        self._heard_at = self._loop.time()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        self._ended = True
        self._watch.cancel()

    def fail(self, error: HttpError) -> None:
        if self._ended or self._error:
            return
        self._error = error
        self._watch.cancel()
        self.heard()

    async def _wait(self) -> None:
        if self._error:
            raise self._error
        self._waiter = self._loop.create_future()
        await self._waiter

    def _check_silence(self) -> None:
        """One timer a stream, not one a chunk: it looks when the last byte came and sleeps for the rest."""
        left = self._heard_at + self._silence_s - self._loop.time()
        if self._chunks:
            left = self._silence_s  # It is our reader who is slow.
        if left <= 0:
            self.fail(Silent(f"nothing came for {self._silence_s:g} s"))
            self._connection.abort()
            return
        self._watch = self._loop.call_later(left, self._check_silence)


class _Connection(asyncio.Protocol):
    """One connection and the answer it carries; idle between two of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, release: Callable[[_Connection], None]) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self.is_lost = False
        self._release = release
        self._answer: HttpAnswer | None = None
        self._transport: asyncio.Transport

    def send(self, request: bytes, silence_s: float) -> HttpAnswer:
        self._answer = HttpAnswer(self, silence_s)
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._keep = self._is_whole = self._until_close = False
        self._transport.write(request)
        return self._answer

    def is_usable(self) -> bool:
        return not self.is_lost and not self._transport.is_closing()

    def abort(self) -> None:
        self.is_lost = True
        self._answer = None
        self._transport.abort()

    def pause(self) -> None:
        if self.is_usable():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_usable():
            self._transport.resume_reading()

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.abort()  # Bytes that nobody asked for: this connection cannot be trusted again.
            return
        try:
            self._parser.feed_data(data)
            self._check_head(answer, len(data))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
            answer.fail(Broken(f"not HTTP, or more than was asked for: {error}"))
            self.abort()
            return
        if self._is_whole:
            self._finish(answer)
        answer.heard()

    def _check_head(self, answer: HttpAnswer, size: int) -> None:
        self._head_size += 0 if answer.status else size
        if self._head_size > _LARGEST_HEAD:
            raise ValueError("the head of the answer has no end")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        answer, self._answer = self._answer, None
        self._release(self)
        if answer is None:
            return
        if exc is None and self._until_close and answer.status:
            answer.end()
            answer.heard()
        else:
            answer.fail(Broken(f"the connection was lost before the answer was whole: {exc or 'closed'}"))

    def _finish(self, answer: HttpAnswer) -> None:
        answer.end()
        self._answer = None
        if self._keep and self.is_usable() and not self._transport.get_write_buffer_size():
            self.resume()  # The end may have come in one piece with more than the high water.
            self._release(self)
        else:
            self.abort()

    # The parser calls these.

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._answer is None:
            return
        if self._headers.get("content-encoding", "identity") != "identity":
            raise ValueError("the answer is packed, which was not asked for")
        self._until_close = not self._headers.keys() & {"content-length", "transfer-encoding"}
        self._answer.begin(status, self._headers)

    def on_body(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer.add(data)

    def on_message_begin(self) -> None:
        if self._is_whole:
            raise ValueError("a second answer")

    def on_message_complete(self) -> None:
        if self._answer is None or not self._answer.status:
            self._headers = {}  # 100 Continue, 103 Early Hints: the answer is still to come.
            return
        self._is_whole = True
        self._keep = self._parser.should_keep_alive()


class HttpClient:
    """Connections by origin. One for the process; every method belongs to the event loop."""

    def __init__(
        self, *, connect_s: float = CONNECT_S, idle_s: float = IDLE_S, tls: ssl.SSLContext | None = None
    ) -> None:
        self._connect_s = connect_s
        self._idle_s = idle_s
        self._idle: dict[tuple[bool, str, int], list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._tls = tls

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        body: bytes = b"",
        silence_s: float = 60.0,
    ) -> HttpAnswer:
        """Send, and return when the answer's head is here; a cancel cuts the connection. HttpError, ValueError."""
        target = parse_target(url)
        request = encode_head(method, target, headers, len(body)) + body
        connection = self._take(target[:3]) or await self._connect(target)
        answer = connection.send(request, silence_s)
        try:
            await answer.wait_head()
        except BaseException:
            answer.close()
            raise
        return answer

    async def close(self) -> None:
        """Cut every connection, answers under way included."""
        for connection in list(self._all):
            connection.abort()
        await asyncio.sleep(0)

    def _take(self, origin: tuple[bool, str, int]) -> _Connection | None:
        """The connection that was used last, if it is still good."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable() and connection.loop.time() - connection.idle_since < self._idle_s:
                return connection
            connection.abort()
        return None

    async def _connect(self, target: Target) -> _Connection:
        loop = asyncio.get_running_loop()
        origin = target[:3]

        def release(connection: _Connection) -> None:
            idle = self._idle.setdefault(origin, [])
            if not connection.is_lost:
                connection.idle_since = loop.time()
                idle.append(connection)
                # The last used is taken first, so the first in the list waits longest.
                while idle[0].idle_since < connection.idle_since - self._idle_s:
                    idle.pop(0).abort()
                return
            self._all.discard(connection)
            if connection in idle:
                idle.remove(connection)

        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, release), target.host, target.port, ssl=self._context(target)
                )
        except TimeoutError as error:
            raise Unreachable(f"no connection to {target.authority} in {self._connect_s:g} s") from error
        except OSError as error:
            raise Unreachable(f"no connection to {target.authority}: {error}") from error
        self._all.add(connection)
        return connection

    def _context(self, target: Target) -> ssl.SSLContext | None:
        if target.tls and self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls if target.tls else None
