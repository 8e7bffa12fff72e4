"""HTTP/1.1 client with a connection pool: keep-alive, streaming, back-pressure, precise failures.

No redirects, cookies, proxies or decompression. A POST is never sent twice unless the caller allows it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterable, Callable, Mapping
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
    decode_headers,
)
from minitoolai.httpclient.dial import open_connection

__all__ = ["ConnectError", "ConnectionBroken", "HttpClient", "HttpError", "HttpResponse", "ReadTimeout", "StreamedBody"]

#: The server may close a pooled connection while a request is on the wire. These methods may then be sent again
#: (RFC 9110, 9.2.2). A POST may not: an end of file without a response also occurs if the server crashed during the
#: work, which may have been billed. An `idle_s` below the usual 5 s of servers and the poll before reuse keep it rare.
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Origin(NamedTuple):
    """Scheme, host and port: the key of the connection pool."""

    is_tls: bool
    host: str
    port: int


class StreamedBody(NamedTuple):
    """A body that is sent block by block, and its length in bytes."""

    length: int
    blocks: AsyncIterable[bytes]


class HttpClient:
    """A connection pool for all upstreams of a process. Belongs to one event loop."""

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
        self._request_heads = RequestHeadBuilder(user_agent)
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
        read_timeout_s: float = 60.0,
        may_repeat: bool = False,
        stream: StreamedBody | None = None,
    ) -> HttpResponse:
        """Send a request and return once the head of the response has arrived.

        `read_timeout_s` bounds the wait for the head and each gap within the body, with a precision of half a second.
        `may_repeat` allows sending a POST once more if the server has just closed the pooled connection; use it only
        if a repeated request has no cost. A `stream` replaces `body` and gets a new connection. Raises ConnectError,
        ReadTimeout or ConnectionBroken, and ValueError for a bad URL or header.
        """
        if self._is_closed:
            raise RuntimeError("the HTTP client is closed")
        length = len(body) if stream is None else stream.length
        origin, head = self._request_heads.build(method, url, headers, length)
        connection = self._reuse_idle(origin) if stream is None else None
        if connection is not None:
            try:
                await connection.exchange(head, body, is_head=method == "HEAD", read_timeout_s=read_timeout_s)
                return HttpResponse(connection)
            except ConnectionBroken:
                if not (may_repeat or method in _REPEATABLE) or connection.has_received or self._is_closed:
                    raise
        connection = await self._connect(origin)
        blocks = None if stream is None else stream.blocks
        await connection.exchange(head, body, is_head=method == "HEAD", read_timeout_s=read_timeout_s, blocks=blocks)
        return HttpResponse(connection)

    async def close(self) -> None:
        """Close all connections, including those with a response in flight."""
        self._is_closed = True
        for connection in list(self._open):
            connection.abort(ConnectionBroken("the HTTP client was closed"))
        for _ in range(20):
            if not self._open:
                break
            await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ── the connection pool ───────────────────────────────────────────────────────────────────────────────

    def _reuse_idle(self, origin: Origin) -> HttpConnection | None:
        """Return the most recently used idle connection, so that surplus ones age and are closed."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.is_reusable(self._idle_s):
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin) -> HttpConnection:
        connection = HttpConnection(self._return_to_pool, self._remove)
        context = self._tls_context() if origin.is_tls else None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await open_connection(connection, origin.host, origin.port, context)
        except TimeoutError as error:
            connection.abort()
            raise ConnectError(f"connecting to {origin.host}:{origin.port} timed out") from error
        except (OSError, UnicodeError) as error:
            connection.abort()
            raise ConnectError(f"cannot connect to {origin.host}:{origin.port}: {error}") from error
        except BaseException:
            connection.abort()
            raise
        if self._is_closed or connection.is_lost:
            connection.abort()
            raise ConnectError(f"the connection to {origin.host}:{origin.port} was closed before its first request")
        self._open[connection] = origin
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        """Return the TLS context, built on first use because loading the certificate authorities takes 20 ms."""
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context

    def _return_to_pool(self, connection: HttpConnection) -> None:
        origin = self._open.get(connection)
        if origin is None or self._is_closed or self._idle_count >= self._connections_idle:
            connection.abort()
            return
        self._idle.setdefault(origin, []).append(connection)
        self._idle_count += 1

    def _remove(self, connection: HttpConnection) -> None:
        origin = self._open.pop(connection, None)
        idle = self._idle.get(origin) if origin is not None else None
        if idle is not None and connection in idle:
            idle.remove(connection)
            self._idle_count -= 1

    def _tick(self) -> None:
        """Time out silent exchanges and close old idle connections. One timer serves the whole pool."""
        now_s = time.monotonic()
        for connection in list(self._open):
            if connection.is_busy:
                connection.tick()
            elif now_s - connection.idle_since_s >= self._idle_s - TICK_S:
                connection.abort()
        again = bool(self._open) and not self._is_closed
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick) if again else None


class HttpResponse:
    """A response with its head received and its body still streaming. The caller must close it on every path."""

    __slots__ = ("_connection", "_error", "_raw_headers", "status")

    def __init__(self, connection: HttpConnection) -> None:
        self._connection: HttpConnection | None = connection
        self._error: HttpError | None = None
        self._raw_headers = connection.raw_headers
        self.status = connection.status

    @property
    def headers(self) -> dict[str, str]:
        """Return headers by lower-case name; repeated ones are joined."""
        return decode_headers(self._raw_headers)

    async def next_bytes(self) -> bytes:
        """Wait for body bytes and return all that have arrived since the last call, or b"" at the end.

        Cancelling the call loses no bytes: the response can still be read or closed. Raises ReadTimeout or
        ConnectionBroken.
        """
        connection = self._connection
        if connection is None:
            return self._read_past_end()
        try:
            data = await connection.next_bytes()
        except HttpError as error:
            self._fail(connection, error)
            raise
        self._release_if_drained(connection)
        return data

    def read_nowait(self) -> bytes | None:
        """Return the bytes that `next_bytes` would return without waiting, or None if it would wait."""
        connection = self._connection
        if connection is None:
            return self._read_past_end()
        try:
            data = connection.read_nowait()
        except HttpError as error:
            self._fail(connection, error)
            raise
        self._release_if_drained(connection)
        return data

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> None:
        """Call `on_readable` whenever `read_nowait` has data, an error or the end, so that a stream wakes no task.

        `on_chunk`, if given, receives the bytes directly in the frequent case of a read that is exactly one chunk.
        """
        if self._connection is not None:
            self._connection.on_readable = on_readable
            self._connection.on_chunk = on_chunk

    async def read(self, limit: int = 64 * 1024 * 1024) -> bytes:
        """Return the remaining body. Close the response and raise ConnectionBroken if it exceeds `limit` bytes."""
        chunks: list[bytes] = []
        size = 0
        while True:
            # A short body is usually complete by now: do not wait for it.
            data = self.read_nowait()
            if data is None:
                data = await self.next_bytes()
            if not data:
                return b"".join(chunks)
            size += len(data)
            if size > limit:
                self.close()
                raise ConnectionBroken(f"the response is longer than {limit} bytes")
            chunks.append(data)

    def close(self) -> None:
        """Release the connection, any number of times. Close it if the response was not read to its end."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            if not connection.ended:
                self._error = ConnectionBroken("the response was closed by this client before its end")
            connection.release()

    def _read_past_end(self) -> bytes:
        if self._error is not None:
            raise self._error
        return b""

    def _fail(self, connection: HttpConnection, error: HttpError) -> None:
        self._connection = None
        self._error = error
        # The reader gets the error from its own call; without callbacks, `release` does not report it again.
        connection.on_readable = connection.on_chunk = None
        connection.release()

    def _release_if_drained(self, connection: HttpConnection) -> None:
        if connection.is_drained and self._connection is connection:
            self._connection = None
            connection.on_readable = connection.on_chunk = None
            connection.release()


# ── request heads ─────────────────────────────────────────────────────────────────────────────────────────────

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"[A-Z]+")
_UNCLEAN_URL = re.compile(r"[^\x21-\x7e]")
_UNCLEAN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: Headers that delimit messages. Only this client sets them, or a caller could smuggle in a second request.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer"})
_CACHE_SIZE = 256


class RequestHeadBuilder:
    """Builds request heads and rejects anything that could smuggle in a second header or request.

    Caches recent heads, because an engine sends the same headers with each request.
    """

    def __init__(self, user_agent: str) -> None:
        self._defaults = {"user-agent": user_agent, "accept": "*/*", "accept-encoding": "identity"}
        self._cache: dict[tuple[str, str, tuple[tuple[str, str], ...]], tuple[Origin, bytes]] = {}

    def build(self, method: str, url: str, headers: Mapping[str, str], body_bytes: int) -> tuple[Origin, bytes]:
        """Return the origin to connect to and the head to write. Raises ValueError for a bad method, URL or header."""
        key = (method, url, tuple(headers.items()))
        cached = self._cache.get(key)
        if cached is None:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            cached = self._cache[key] = self._build(method, url, headers)
        origin, head = cached
        if body_bytes or method not in ("GET", "HEAD"):
            return origin, b"%bcontent-length: %d\r\n\r\n" % (head, body_bytes)
        return origin, head + b"\r\n"

    def _build(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[Origin, bytes]:
        if not _METHOD.fullmatch(method) or method == "CONNECT":
            raise ValueError(f"{method!r} is not a supported method")
        origin, authority, target = _split_url(url)
        fields = {"host": authority, **self._defaults}
        for name, value in headers.items():
            if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
                raise ValueError(f"the header {name!r} cannot be set")
            if _UNCLEAN_VALUE.search(value):
                raise ValueError(f"the value of the header {name} contains a control character")
            fields[name.lower()] = value
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), ""]
        return origin, "\r\n".join(lines).encode("latin-1")


def _split_url(url: str) -> tuple[Origin, str, str]:
    """Return the origin, the value of `host` and the request target. Check first: urlsplit drops CR and LF."""
    if _UNCLEAN_URL.search(url):
        raise ValueError("the URL contains a space, a control character or a non-ASCII character")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL contains a user name or password; send an authorization header instead")
    is_tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = parts.port or (443 if is_tls else 80)
    return Origin(is_tls, parts.hostname, port), parts.netloc, target
