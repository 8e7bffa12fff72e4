"""The gateway's own HTTP/1.1 client for engines: keep-alive, streams, back-pressure, exact failures.

No redirects, cookies, proxies or decompression. A POST is never sent twice.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

import minitoolai
from minitoolai.httpclient.connection import (
    TICK_S,
    ConnectError,
    ConnectionBroken,
    HttpConnection,
    HttpError,
    ReadTimeout,
    as_text,
)
from minitoolai.httpclient.dial import open_connection

# (merged from heads) Request heads: what is written before a body. Refuses whatever could smuggle a second header or request.

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"[A-Z]+")
_UNCLEAN_URL = re.compile(r"[^\x21-\x7e]")
_UNCLEAN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: These decide where a message ends: they are ours alone to write.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer"})
_REMEMBERED = 256


class Origin(NamedTuple):
    """What a connection leads to."""

    is_tls: bool
    host: str
    port: int


class Heads:
    """Builds request heads and remembers the recent ones: one engine's headers are the same in every request."""

    def __init__(self, user_agent: str) -> None:
        self._defaults = {"user-agent": user_agent, "accept": "*/*", "accept-encoding": "identity"}
        self._known: dict[tuple[str, str, tuple[tuple[str, str], ...]], tuple[Origin, bytes]] = {}

    def build(self, method: str, url: str, headers: Mapping[str, str], body_bytes: int) -> tuple[Origin, bytes]:
        """Where to connect, and the head to write. ValueError where a part is not fit for a header."""
        key = (method, url, tuple(headers.items()))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[key] = self._build(method, url, headers)
        origin, head = found
        if body_bytes or method not in ("GET", "HEAD"):
            return origin, b"%bcontent-length: %d\r\n\r\n" % (head, body_bytes)
        return origin, head + b"\r\n"

    def _build(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[Origin, bytes]:
        if not _METHOD.fullmatch(method) or method == "CONNECT":
            raise ValueError(f"{method!r} is not a method to send")
        origin, authority, target = _retry_individually(url)
        fields = {"host": authority, **self._defaults}
        for name, value in headers.items():
            if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
                raise ValueError(f"{name!r} is not a header to set")
            if _UNCLEAN_VALUE.search(value):
                raise ValueError(f"the value of {name} has a control character")
            fields[name.lower()] = value
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), ""]
        return origin, "\r\n".join(lines).encode("latin-1")


def _retry_individually(url: str) -> tuple[Origin, str, str]:
    """Origin, the value of `host`, and the request's target. The check comes first: urlsplit drops CR and LF."""
    if _UNCLEAN_URL.search(url):
        raise ValueError("the URL has a space, a control character or a letter that is not ASCII")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL has a password in it; send an authorization header instead")
    is_tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or (443 if is_tls else 80)
    return Origin(is_tls, parts.hostname, port), parts.netloc, target


__all__ = ["ConnectError", "ConnectionBroken", "HttpClient", "HttpError", "HttpResponse", "ReadTimeout"]

#: A connection kept from before may die as the request crosses the server's close on the wire. These methods may then
#: be sent again (RFC 9110, 9.2.2). A POST may not: an end of file without a byte is also what a server that crashed
#: in the middle of the work looks like, and that work may be billed. `idle_s` below the usual 5 s of servers, and the
#: look at the socket before reuse, make it rare.
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class HttpResponse:
    """An answer whose head is here. Whoever got it closes it, on every path."""

    __slots__ = ("_connection", "_error", "_head", "status")

    def __init__(self, connection: HttpConnection) -> None:
        self._connection: HttpConnection | None = connection
        self._error: HttpError | None = None
        self._head = connection.head
        self.status = connection.status

    @property
    def headers(self) -> dict[str, str]:
        """By their names in lower case, those of one name joined."""
        return as_text(self._head)

    async def next_bytes(self) -> bytes:
        """Everything that has come since the last call, joined; b"" at the end. Silent, Broken.

        A cancel in here loses nothing: the answer may be read on, or closed, by whoever got it.
        """
        connection = self._connection
        if connection is None:
            return self._after_the_end()
        try:
            data = await connection.next_bytes()
        except HttpError as error:
            self._give_up(connection, error)
            raise
        self._let_go_if_drained(connection)
        return data

    def take(self) -> bytes | None:
        """What `next_bytes` would return at once, or None where it would wait. Silent, Broken."""
        connection = self._connection
        if connection is None:
            return self._after_the_end()
        try:
            data = connection.take()
        except HttpError as error:
            self._give_up(connection, error)
            raise
        self._let_go_if_drained(connection)
        return data

    def listen(self, listener: Callable[[], None] | None, sink: Callable[[bytes], None] | None = None) -> None:
        """Have `listener` called whenever `take` has something, be it an error: a stream then wakes no task.

        `sink`, where given, gets the bytes themselves in the cases that are simple and frequent.
        """
        if self._connection is not None:
            self._connection.listener = listener
            self._connection.sink = sink

    def _after_the_end(self) -> bytes:
        if self._error is not None:
            raise self._error
        return b""

    def _give_up(self, connection: HttpConnection, error: HttpError) -> None:
        self._connection = None
        self._error = error
        # Whoever listens is in the middle of `take` and learns it there; letting go would tell him again.
        connection.listener = connection.sink = None
        connection.release()

    def _let_go_if_drained(self, connection: HttpConnection) -> None:
        if connection.is_drained and self._connection is connection:
            self._connection = None
            connection.listener = connection.sink = None
            connection.release()

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        """The rest. Broken, and closed, if it is more than `limit` bytes."""
        chunks: list[bytes] = []
        size = 0
        while True:
            # Most are here whole when they are asked for.
            data = self.take()
            if data is None:
                data = await self.next_bytes()
            if not data:
                return b"".join(chunks)
            size += len(data)
            if size > limit:
                self.close()
                raise ConnectionBroken(f"the answer is longer than {limit} bytes")
            chunks.append(data)

    def close(self) -> None:
        """Let go, at once and any number of times. The server sees an answer that was not read to its end closed."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            if not connection.ended:
                self._error = ConnectionBroken("the answer was closed here before its end")
            connection.release()


class HttpClient:
    """Connections to all engines of a process. Belongs to one event loop."""

    def __init__(
        self,
        *,
        connect_timeout_s: float = 5.0,
        idle_s: float = 4.0,
        connections_idle: int = 256,
        user_agent: str = f"minitoolai/{minitoolai.__version__}",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._connections_idle = connections_idle
        self._ssl_context = ssl_context
        self._heads = Heads(user_agent)
        self._idle: dict[Origin, list[HttpConnection]] = {}
        self._open: dict[HttpConnection, Origin] = {}
        self._idle_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        body: bytes = b"",
        silence_s: float = 60.0,
        may_repeat: bool = False,
    ) -> HttpResponse:
        """Send; returns when the head of the answer is here. Unreachable, Silent, Broken; ValueError for bad input.

        `silence_s` bounds the wait for the head and every gap between chunks, to half a second.
        `may_repeat`: a POST that meets a kept connection just closed by the server is sent again, once. Only where a
        repeat costs nobody anything.
        """
        if self._is_closed:
            raise RuntimeError("the client is closed")
        origin, head = self._heads.build(method, url, headers, len(body))
        connection = self._take(origin)
        if connection is not None:
            try:
                await connection.exchange(head, body, is_head=method == "HEAD", silence_s=silence_s)
                return HttpResponse(connection)
            except ConnectionBroken:
                if not (may_repeat or method in _REPEATABLE) or connection.has_heard or self._is_closed:
                    raise
        connection = await self._connect(origin)
        await connection.exchange(head, body, is_head=method == "HEAD", silence_s=silence_s)
        return HttpResponse(connection)

    async def close(self) -> None:
        """Close everything, answers under way too."""
        self._is_closed = True
        for connection in list(self._open):
            connection.abort(ConnectionBroken("the client was closed"))
        for _ in range(20):
            if not self._open:
                break
            await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ── the pool ──────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, origin: Origin) -> HttpConnection | None:
        """The connection used last, so that those not needed grow old and go."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.is_fresh(self._idle_s):
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin) -> HttpConnection:
        connection = HttpConnection(self._keep, self._forget)
        context = self._context() if origin.is_tls else None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await open_connection(connection, origin.host, origin.port, context)
        except TimeoutError as error:
            connection.abort()
            raise ConnectError(f"no connection to {origin.host}:{origin.port} in time") from error
        except (OSError, UnicodeError) as error:
            connection.abort()
            raise ConnectError(f"no connection to {origin.host}:{origin.port}: {error}") from error
        except BaseException:
            connection.abort()
            raise
        if self._is_closed or connection.is_lost:
            connection.abort()
            raise ConnectError(f"the connection to {origin.host}:{origin.port} was closed before its use")
        self._open[connection] = origin
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        return connection

    def _context(self) -> ssl.SSLContext:
        """Made at the first need: reading the authorities takes 20 ms."""
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context

    def _keep(self, connection: HttpConnection) -> None:
        origin = self._open.get(connection)
        if origin is None or self._is_closed or self._idle_count >= self._connections_idle:
            connection.abort()
            return
        self._idle.setdefault(origin, []).append(connection)
        self._idle_count += 1

    def _forget(self, connection: HttpConnection) -> None:
        origin = self._open.pop(connection, None)
        idle = self._idle.get(origin) if origin is not None else None
        if idle is not None and connection in idle:
            idle.remove(connection)
            self._idle_count -= 1

    def _tick(self) -> None:
        """The one timer: fails the silent, closes the old. It stops with the last connection."""
        now_s = time.monotonic()
        for connection in list(self._open):
            if connection.is_busy:
                connection.tick()
            elif now_s - connection.idle_since_s >= self._idle_s - TICK_S:
                connection.abort()
        again = bool(self._open) and not self._is_closed
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick) if again else None
