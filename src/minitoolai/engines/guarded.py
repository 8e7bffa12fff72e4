"""Calling addresses that strangers chose: webhooks, pictures by URL. The internet is hostile, and so are its names.

https on port 443 only; every address of the host must be public, and the one that was checked is the one dialled;
each redirect is checked like the first URL; no cookies, no keys, no decompression; a cap on bytes and on time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urljoin

import msgspec

import minitoolai
from minitoolai.core.errors import FetchFailed, UrlForbidden
from minitoolai.engines.addresses import check_url, is_public
from minitoolai.engines.connections import Connection
from minitoolai.engines.dialing import Address, connect_to, resolve
from minitoolai.engines.heads import Heads
from minitoolai.engines.http_errors import HttpError

MOST_BYTES = 10 * 1024 * 1024
LONGEST_S = 5.0
MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Dial = Callable[[Sequence[Address], asyncio.Protocol, str, ssl.SSLContext | None], Awaitable[None]]


class Fetched(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    url: str


class GuardedClient:
    """One connection for each request, closed after it. `field` names the URL in messages to whoever wrote it."""

    def __init__(
        self,
        *,
        insecure: bool = False,
        resolve: Resolve = resolve,
        dial: Dial = connect_to,
        ssl_context: ssl.SSLContext | None = None,
        user_agent: str = f"minitoolai/{minitoolai.__version__} (+guarded)",
    ) -> None:
        """`insecure` permits http, any port and any address: for development and tests."""
        self._insecure = insecure
        self._resolve = resolve
        self._dial = dial
        self._ssl_context = ssl_context
        self._heads = Heads(user_agent)

    async def get(
        self, url: str, *, field: str = "url", most_bytes: int = MOST_BYTES, within_s: float = LONGEST_S
    ) -> Fetched:
        """What lies there, after at most three redirects. UrlForbidden, FetchFailed."""
        try:
            async with asyncio.timeout(within_s):
                for _ in range(MOST_REDIRECTS + 1):
                    answer = await self._exchange("GET", url, _NO_HEADERS, b"", field, most_bytes, within_s)
                    target = answer.headers.get("location")
                    if answer.status not in _REDIRECTS or not target:
                        return answer
                    url = urljoin(url, target)
        except TimeoutError:
            raise FetchFailed(f"{field}: no whole answer within {within_s:g} s", param=field) from None
        raise FetchFailed(f"{field}: more than {MOST_REDIRECTS} redirects", param=field)

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str],
        field: str = "url",
        most_bytes: int = 64 * 1024,
        within_s: float = LONGEST_S,
    ) -> Fetched:
        """Send once and read the answer; a redirect is an answer like any other. UrlForbidden, FetchFailed."""
        try:
            async with asyncio.timeout(within_s):
                return await self._exchange("POST", url, headers, body, field, most_bytes, within_s)
        except TimeoutError:
            raise FetchFailed(f"{field}: no whole answer within {within_s:g} s", param=field) from None

    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        field: str,
        most_bytes: int,
        within_s: float,
    ) -> Fetched:
        parts = check_url(url, field=field, insecure=self._insecure)
        try:
            origin, head = self._heads.build(method, parts._replace(fragment="").geturl(), headers, len(body))
        except ValueError as error:
            raise UrlForbidden(f"{field}: {error}", param=field) from None
        connection = Connection(_close, _ignore)
        try:
            found = await self._resolve(origin.host, origin.port)
            self._check_addresses(found, origin.host, field)
            await self._dial(found, connection, origin.host, self._context() if origin.is_tls else None)
            connection.send(head, body, is_head=False, silence_s=within_s)
            await connection.wait_head()
            return Fetched(connection.status, connection.headers, await _read(connection, field, most_bytes), url)
        except (HttpError, OSError, UnicodeError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise FetchFailed(f"{field}: {error}", param=field) from error
        finally:
            connection.abort()

    def _check_addresses(self, found: Sequence[Address], host: str, field: str) -> None:
        """All of them: whoever mixes a private address among public ones means no good."""
        if not found:
            raise FetchFailed(f"{field}: {host} has no address", param=field)
        if not self._insecure and not all(is_public(str(address[4][0])) for address in found):
            raise UrlForbidden(f"{field} must lead to a public address; {host} does not", param=field)

    def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context


async def _read(connection: Connection, field: str, most_bytes: int) -> bytes:
    length = connection.headers.get("content-length", "")
    if length.isdigit() and int(length) > most_bytes:
        raise FetchFailed(f"{field}: the answer has more than {most_bytes:,} bytes", param=field)
    if connection.headers.get("content-encoding", "identity").lower() != "identity":
        raise FetchFailed(f"{field}: the answer is compressed, which was not asked for", param=field)
    chunks, size = [], 0
    while data := await connection.next_bytes():
        size += len(data)
        if size > most_bytes:
            raise FetchFailed(f"{field}: the answer has more than {most_bytes:,} bytes", param=field)
        chunks.append(data)
    return b"".join(chunks)


def _close(connection: Connection) -> None:
    connection.abort()


def _ignore(_: Connection) -> None:
    return None
