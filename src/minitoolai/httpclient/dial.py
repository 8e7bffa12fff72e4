"""Open TCP and TLS connections with happy eyeballs (RFC 8305): race the addresses of a host, keep the first to accept.

uvloop would try the addresses one after the other and wait for each to time out.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from minitoolai.core.threads import NAMES

#: The connection attempt delay of RFC 8305, section 5: start the next attempt after this long without a result.
ATTEMPT_DELAY_S = 0.25

#: One result of getaddrinfo: family, type, protocol, canonical name, socket address.
Address = tuple[int, int, int, str, Any]


async def open_connection(protocol: asyncio.Protocol, host: str, port: int, context: ssl.SSLContext | None) -> None:
    """Resolve a host and connect `protocol` to it. Raises OSError; a failure or cancellation leaves no socket open."""
    await connect_to(await resolve(host, port), protocol, host, context)


def _look_up(host: str, port: int) -> Sequence[Address]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Lookups:
    """Look names up in threads, one for each host however many connections wait for it.

    So a name server that hangs for one host occupies one thread, and look-ups of other hosts do not wait for it.
    """

    def __init__(self, look_up: Callable[[str, int], Sequence[Address]] = _look_up) -> None:
        self._look_up = look_up
        self._running: dict[tuple[str, int], asyncio.Task[Sequence[Address]]] = {}

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """Return all addresses of a host in the resolver's order of preference. Raises OSError."""
        key = host, port
        lookup = self._running.get(key)
        if lookup is None or lookup.get_loop() is not asyncio.get_running_loop():
            lookup = self._running[key] = asyncio.ensure_future(NAMES.run(self._look_up, host, port))
            lookup.add_done_callback(lambda done: self._forget(key, done))
        # Several callers may wait for it, and each may be cancelled.
        return await asyncio.shield(lookup)

    def _forget(self, key: tuple[str, int], lookup: asyncio.Task[Sequence[Address]]) -> None:
        if self._running.get(key) is lookup:
            del self._running[key]
        if not lookup.cancelled():
            # Mark the error as retrieved: every caller may have left.
            lookup.exception()


_lookups = Lookups()
resolve = _lookups.resolve


async def connect_to(
    addresses: Sequence[Address], protocol: asyncio.Protocol, host: str, context: ssl.SSLContext | None
) -> None:
    """Connect `protocol` to the first address that accepts. With TLS, verify the certificate for `host`."""
    loop = asyncio.get_running_loop()
    sock = await connect_first(_interleave(addresses))
    try:
        name = host if context is not None else None
        await loop.create_connection(lambda: protocol, sock=sock, ssl=context, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def _interleave(addresses: Sequence[Address]) -> list[Address]:
    """Alternate IPv6 and IPv4 (RFC 8305, section 4), starting with the resolver's preferred family."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    rounds = itertools.zip_longest(*families.values())
    return [address for turn in rounds for address in turn if address is not None]


async def connect_first(addresses: list[Address]) -> socket.socket:
    """Return a socket connected to the first address that accepts, and close all others.

    Starts the next attempt when one fails or ATTEMPT_DELAY_S has passed. Raises the first error if all attempts fail.
    """
    if len(addresses) == 1:
        return await _connect_socket(addresses[0])
    tasks: set[asyncio.Task[socket.socket]] = set()
    remaining = list(reversed(addresses))
    errors: list[BaseException] = []
    winner: socket.socket | None = None
    try:
        while winner is None and (tasks or remaining):
            if remaining:
                tasks.add(asyncio.ensure_future(_connect_socket(remaining.pop())))
            done, tasks = await asyncio.wait(
                tasks, timeout=ATTEMPT_DELAY_S if remaining else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is not None:
                    errors.append(error)
                elif winner is None:
                    winner = task.result()
                else:
                    task.result().close()
    finally:
        for task in tasks:
            task.add_done_callback(_close_loser)
            task.cancel()
    if winner is None:
        raise errors[0] if errors else OSError("the host has no address")
    return winner


def _close_loser(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect_socket(address: Address) -> socket.socket:
    family, kind, protocol, _, sockaddr = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock
