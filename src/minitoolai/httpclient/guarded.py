"""HTTP client that is safe against SSRF, for URLs chosen by customers: webhooks and images by URL.

Only https on port 443. Every address of the host must be public, and the client connects to the addresses it checked,
so that DNS rebinding cannot swap them. Each redirect is checked like the first URL. No cookies, no keys, no
decompression; bytes and time are limited.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import MappingProxyType
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec

import minitoolai
from minitoolai.core.errors import FetchFailed, UrlForbidden
from minitoolai.httpclient.client import RequestHeadBuilder
from minitoolai.httpclient.connection import HttpConnection, HttpError
from minitoolai.httpclient.dial import Address, connect_to

MAX_BODY_BYTES = 10 * 1024 * 1024
TIMEOUT_S = 5.0
MAX_REDIRECTS = 3
#: Read at most this much of the body of a response to a POST.
MAX_DRAIN_BYTES = 64 * 1024
MAX_URL_LENGTH = 2000
#: Resolve names in a separate thread pool, so that a name server that does not answer delays no other work.
RESOLVER_THREADS = 8
_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Dial = Callable[[Sequence[Address], asyncio.Protocol, str, ssl.SSLContext | None], Awaitable[None]]


class GuardedResponse(msgspec.Struct, frozen=True):
    """A response with its complete body. `url` is the last one requested, after redirects."""

    status: int
    headers: dict[str, str]
    body: bytes
    url: str


class ThreadedResolver:
    """The system's resolver in its own thread pool."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="names")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Return all addresses of a host. Raises OSError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


class GuardedClient:
    """Sends each request on a new connection, then closes it. `field` is the URL's name in error messages."""

    def __init__(
        self,
        *,
        insecure: bool = False,
        resolve: Resolve | None = None,
        dial: Dial = connect_to,
        ssl_context: ssl.SSLContext | None = None,
        user_agent: Callable[[], str] = lambda: f"minitoolai/{minitoolai.__version__}",
    ) -> None:
        """Create a client. `insecure` permits http, any port and any address, for development and tests."""
        self._insecure = insecure
        self._resolve = resolve or ThreadedResolver()
        self._dial = dial
        self._ssl_context = ssl_context
        self._user_agent = user_agent
        self._request_heads = RequestHeadBuilder("")

    async def get(
        self, url: str, *, field: str = "url", max_bytes: int = MAX_BODY_BYTES, timeout_s: float = TIMEOUT_S
    ) -> GuardedResponse:
        """Return the response after up to MAX_REDIRECTS redirects. Raises UrlForbidden or FetchFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(MAX_REDIRECTS + 1):
                    response = await self._fetch(url, field, max_bytes, timeout_s)
                    target = response.headers.get("location")
                    if response.status not in _REDIRECT_STATUSES or not target:
                        return response
                    url = urljoin(url, target)
        except TimeoutError:
            raise FetchFailed(f"{field}: no complete response within {timeout_s:g} s", param=field) from None
        raise FetchFailed(f"{field}: more than {MAX_REDIRECTS} redirects", param=field)

    async def check(self, url: str, *, field: str = "url", timeout_s: float = TIMEOUT_S) -> None:
        """Check a URL that another server will fetch by the same rules, without fetching it.

        Raises UrlForbidden or FetchFailed. Redirects that the other server follows cannot be checked.
        """
        parts = check_url(url, field=field, insecure=self._insecure)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(timeout_s):
                self._check_addresses(await self._resolve(host, port), host, field)
        except TimeoutError:
            raise FetchFailed(f"{field}: {host} was not resolved within {timeout_s:g} s", param=field) from None
        except (OSError, UnicodeError) as error:
            raise FetchFailed(f"{field}: {host} cannot be resolved: {error}", param=field) from error

    async def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str], field: str = "url", timeout_s: float = TIMEOUT_S
    ) -> int:
        """Send once, without following redirects, and return the status. Raises UrlForbidden or FetchFailed.

        Reads and discards the body, so that the receiver can finish writing it.
        """
        async with self._exchange("POST", url, headers, body, field, timeout_s) as connection:
            await _drain(connection, timeout_s)
            return connection.status

    async def upload(
        self,
        method: str,
        url: str,
        blocks: AsyncIterable[bytes],
        size: int,
        *,
        headers: Mapping[str, str],
        field: str = "url",
        timeout_s: float = TIMEOUT_S,
    ) -> int:
        """Send a large body in blocks, without following redirects, and return the status.

        Raises UrlForbidden or FetchFailed. `size` is the sum of the blocks.
        """
        async with self._exchange(method, url, headers, b"", field, timeout_s, blocks, size) as connection:
            await _drain(connection, timeout_s)
            return connection.status

    async def _fetch(self, url: str, field: str, max_bytes: int, timeout_s: float) -> GuardedResponse:
        async with self._exchange("GET", url, _NO_HEADERS, b"", field, timeout_s) as connection:
            return GuardedResponse(
                connection.status, connection.headers, await _read(connection, field, max_bytes), url
            )

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        field: str,
        timeout_s: float,
        blocks: AsyncIterable[bytes] | None = None,
        blocks_size: int = 0,
    ) -> AsyncIterator[HttpConnection]:
        """Send a request, yield the connection once the head of the response has arrived, then close the connection."""
        parts = check_url(url, field=field, insecure=self._insecure)
        headers = {"user-agent": self._user_agent(), **headers}
        try:
            length = len(body) + blocks_size
            origin, head = self._request_heads.build(method, parts._replace(fragment="").geturl(), headers, length)
        except ValueError as error:
            raise UrlForbidden(f"{field}: {error}", param=field) from None
        connection = HttpConnection(_close_connection, _ignore)
        try:
            async with asyncio.timeout(timeout_s):
                addresses = await self._resolve(origin.host, origin.port)
                self._check_addresses(addresses, origin.host, field)
                await self._dial(addresses, connection, origin.host, self._tls_context() if origin.is_tls else None)
                await connection.exchange(head, body, read_timeout_s=timeout_s, blocks=blocks)
            yield connection
        except TimeoutError:
            raise FetchFailed(f"{field}: no complete response within {timeout_s:g} s", param=field) from None
        except (HttpError, OSError, UnicodeError) as error:
            raise FetchFailed(f"{field}: {error}", param=field) from error
        finally:
            connection.abort()

    def _check_addresses(self, addresses: Sequence[Address], host: str, field: str) -> None:
        """Require that all addresses are public. A mix of public and private addresses is a sign of an attack."""
        if not addresses:
            raise FetchFailed(f"{field}: the host {host} has no address", param=field)
        if not self._insecure and not all(is_public(str(address[4][0])) for address in addresses):
            raise UrlForbidden(f"{field} must resolve to a public address, but {host} does not", param=field)

    def _tls_context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context


async def _drain(connection: HttpConnection, timeout_s: float) -> None:
    """Read the body up to a limit. A cut-off write may look like a failed request to the receiver."""
    left = MAX_DRAIN_BYTES
    try:
        async with asyncio.timeout(timeout_s):
            while left > 0 and (data := await connection.next_bytes()):
                left -= len(data)
    except (HttpError, TimeoutError):
        return


async def _read(connection: HttpConnection, field: str, max_bytes: int) -> bytes:
    length = connection.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise FetchFailed(f"{field}: the response is longer than {max_bytes:,} bytes", param=field)
    if connection.headers.get("content-encoding", "identity").lower() != "identity":
        raise FetchFailed(f"{field}: the response is compressed; send it with content-encoding identity", param=field)
    chunks, size = [], 0
    while data := await connection.next_bytes():
        size += len(data)
        if size > max_bytes:
            raise FetchFailed(f"{field}: the response is longer than {max_bytes:,} bytes", param=field)
        chunks.append(data)
    return b"".join(chunks)


def _close_connection(connection: HttpConnection) -> None:
    connection.abort()


def _ignore(_: HttpConnection) -> None:
    return None


# ── which URLs and addresses are allowed ──────────────────────────────────────────────────────────────────────

#: IANA's special-purpose address registries (RFC 6890).
_NON_PUBLIC_V4 = tuple(
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
#: The part of IPv6 that is allocated (global unicast), and the reserved ranges in it: IETF, documentation, 6to4.
_GLOBAL_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_NON_PUBLIC_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
#: IPv4-mapped addresses and NAT64: traffic goes to the IPv4 address in the last 32 bits.
_EMBEDS_V4 = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))


def is_public(text: str) -> bool:
    """Return True if a numeric address is known to be on the public internet."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _EMBEDS_V4):
            return _is_public_v4(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.scope_id is not None or address not in _GLOBAL_UNICAST_V6:
            return False
        return not any(address in network for network in _NON_PUBLIC_V6)
    return _is_public_v4(address)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    return not any(address in network for network in _NON_PUBLIC_V4)


def is_public_address(url: str) -> bool:
    """Return True if an operator's URL names a public host, with any scheme and port."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        _check_host(host, "base_url")
    except UrlForbidden:
        return False
    return not host.endswith(_PRIVATE_SUFFIXES)


#: Domains that are not resolved on the internet, or only to private addresses.
_PRIVATE_SUFFIXES = (
    ".local", ".localhost", ".internal", ".intranet", ".lan", ".home", ".corp", ".private", ".home.arpa", ".test",
    ".svc", ".cluster.local",
)  # fmt: skip


def check_url(url: str, *, field: str, insecure: bool = False) -> SplitResult:
    """Split a URL and check everything that its text shows, before DNS. Raises UrlForbidden, which names `field`.

    `insecure` permits http, any port and non-public addresses, for development.
    """
    if len(url) > MAX_URL_LENGTH or re.search(r"[^\x21-\x7e]", url):
        raise UrlForbidden(
            f"{field} must be at most {MAX_URL_LENGTH} ASCII characters; percent-encode others", param=field
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlForbidden(f"{field} is not a valid URL; use the form https://example.com/path", param=field) from None
    schemes = ("https", "http") if insecure else ("https",)
    if parts.scheme not in schemes or not parts.hostname:
        raise UrlForbidden(f"{field} must begin with https:// and a host name", param=field)
    if "@" in parts.netloc or "\\" in url:
        raise UrlForbidden(f"{field} must not contain a user name, password or backslash", param=field)
    if not insecure:
        if port not in (None, 443):
            raise UrlForbidden(f"{field} must use port 443", param=field)
        _check_host(parts.hostname, field)
    return parts


def _check_host(host: str, field: str) -> None:
    """Refuse hosts that are not public, including numbers in octal, hexadecimal or decimal.

    Resolvers accept such numbers as addresses, each in its own way, so a host that ends in a number must be an address.
    """
    bare = host.rstrip(".")
    is_v6 = ":" in bare
    ends_in_number = re.fullmatch(r"[0-9]+|0x[0-9a-f]*", bare.rpartition(".")[2]) is not None
    if (is_v6 or ends_in_number) and not is_public(bare):
        raise UrlForbidden(f"{field} must use a public address", param=field)
    if not is_v6 and not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+", bare):
        raise UrlForbidden(f"{field} must name a public host such as example.com", param=field)
