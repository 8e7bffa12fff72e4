"""Calling addresses that strangers chose: webhooks, pictures by URL. The internet is hostile, and so are its names.

https on port 443 only; every address of the host must be public, and the one that was checked is the one dialled;
each redirect is checked like the first URL; no cookies, no keys, no decompression; a cap on bytes and on time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import MappingProxyType
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec

import minitoolai
from minitoolai.core.errors import FetchFailed, UrlForbidden
from minitoolai.httpclient.client import Heads
from minitoolai.httpclient.connection import HttpConnection, HttpError
from minitoolai.httpclient.dial import Address, connect_to

# (merged from addresses) Which addresses lead to the open internet. Everything that is not known to is forbidden.
# (merged from addresses)
# (merged from addresses) IANA's special-purpose registries (RFC 6890), and what hides an IPv4 address inside an IPv6 one.

LONGEST_URL = 2000

_CLOSED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ),
    )
)
#: The only part of IPv6 that is handed out, and the closed places in it: IETF's own, examples, 6to4.
_OPEN_V6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
#: The last 32 bits are the IPv4 address that is really reached: mapped ones, and translation by NAT64.
_CARRIES_V4 = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))


def is_public(text: str) -> bool:
    """Whether a numeric address leads to the open internet, and nowhere else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _CARRIES_V4):
            return _is_public_v4(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        return address.scope_id is None and address in _OPEN_V6 and not any(address in n for n in _CLOSED_V6)
    return _is_public_v4(address)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    return not any(address in network for network in _CLOSED_V4)


def check_url(url: str, *, field: str, insecure: bool = False) -> SplitResult:
    """The parts of a URL that may be called, as far as its text can tell. UrlForbidden names `field`.

    `insecure` permits http, any port and addresses that are not public: for development.
    """
    if len(url) > LONGEST_URL or re.search(r"[^\x21-\x7e]", url):
        raise UrlForbidden(
            f"{field} must be at most {LONGEST_URL} characters of plain ASCII, percent-encoded", param=field
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlForbidden(f"{field} is not a URL; write it like https://example.com/path", param=field) from None
    schemes = ("https", "http") if insecure else ("https",)
    if parts.scheme not in schemes or not parts.hostname:
        raise UrlForbidden(f"{field} must begin with https:// and a host name", param=field)
    if "@" in parts.netloc or "\\" in url:
        raise UrlForbidden(f"{field} must have no user name, password or backslash in it", param=field)
    if not insecure:
        if port not in (None, 443):
            raise UrlForbidden(f"{field} must use port 443", param=field)
        _check_host(parts.hostname, field)
    return parts


def _check_host(host: str, field: str) -> None:
    """A number in disguise (octal, hexadecimal, decimal) is nobody's name: resolvers read them, each in its own way."""
    bare = host.rstrip(".")
    is_v6 = ":" in bare
    ends_in_number = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", bare.rpartition(".")[2]) is not None
    if (is_v6 or ends_in_number) and not is_public(bare):
        raise UrlForbidden(f"{field} must lead to a public address", param=field)
    if not is_v6 and not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+", bare):
        raise UrlForbidden(f"{field} must name a public host, like example.com", param=field)


MOST_BYTES = 10 * 1024 * 1024
LONGEST_S = 5.0
MOST_REDIRECTS = 3
DRAINED_BYTES = 64 * 1024
#: Names are looked up in threads of their own: a name server that never answers holds up nobody else.
NAME_THREADS = 8
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


class Names:
    """The system's resolver, apart from everybody else's."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(NAME_THREADS, thread_name_prefix="names")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Every address of a host. OSError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


class GuardedClient:
    """One connection for each request, closed after it. `field` names the URL in messages to whoever wrote it."""

    def __init__(
        self,
        *,
        insecure: bool = False,
        resolve: Resolve | None = None,
        dial: Dial = connect_to,
        ssl_context: ssl.SSLContext | None = None,
        user_agent: str = f"minitoolai/{minitoolai.__version__} (+guarded)",
    ) -> None:
        """`insecure` permits http, any port and any address: for development and tests."""
        self._insecure = insecure
        self._resolve = resolve or Names()
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
                    answer = await self._fetch(url, field, most_bytes, within_s)
                    target = answer.headers.get("location")
                    if answer.status not in _REDIRECTS or not target:
                        return answer
                    url = urljoin(url, target)
        except TimeoutError:
            raise FetchFailed(f"{field}: no whole answer within {within_s:g} s", param=field) from None
        raise FetchFailed(f"{field}: more than {MOST_REDIRECTS} redirects", param=field)

    async def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str], field: str = "url", within_s: float = LONGEST_S
    ) -> int:
        """Send once; the status of the answer, a redirect's like any other. UrlForbidden, FetchFailed.

        What else the answer says is read, for the sender's sake, and forgotten.
        """
        async with self._asked("POST", url, headers, body, field, within_s) as connection:
            await _drain(connection, within_s)
            return connection.status

    async def _fetch(self, url: str, field: str, most_bytes: int, within_s: float) -> Fetched:
        async with self._asked("GET", url, _NO_HEADERS, b"", field, within_s) as connection:
            return Fetched(connection.status, connection.headers, await _read(connection, field, most_bytes), url)

    @asynccontextmanager
    async def _asked(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, field: str, within_s: float
    ) -> AsyncIterator[HttpConnection]:
        """A connection on which the head of the answer is here; closed afterwards, whatever happens."""
        parts = check_url(url, field=field, insecure=self._insecure)
        try:
            origin, head = self._heads.build(method, parts._replace(fragment="").geturl(), headers, len(body))
        except ValueError as error:
            raise UrlForbidden(f"{field}: {error}", param=field) from None
        connection = HttpConnection(_close, _ignore)
        try:
            async with asyncio.timeout(within_s):
                found = await self._resolve(origin.host, origin.port)
                self._check_addresses(found, origin.host, field)
                await self._dial(found, connection, origin.host, self._context() if origin.is_tls else None)
                await connection.exchange(head, body, silence_s=within_s)
            yield connection
        except TimeoutError:
            raise FetchFailed(f"{field}: no whole answer within {within_s:g} s", param=field) from None
        except (HttpError, OSError, UnicodeError) as error:
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


async def _drain(connection: HttpConnection, within_s: float) -> None:
    """Read what is left, to a bound: a receiver that is cut off while it writes may take that for a failure."""
    left = DRAINED_BYTES
    try:
        async with asyncio.timeout(within_s):
            while left > 0 and (data := await connection.next_bytes()):
                left -= len(data)
    except (HttpError, TimeoutError):
        return


async def _read(connection: HttpConnection, field: str, most_bytes: int) -> bytes:
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


def _close(connection: HttpConnection) -> None:
    connection.abort()


def _ignore(_: HttpConnection) -> None:
    return None
