"""Opening a TCP or TLS connection to the first address that answers (RFC 8305).

uvloop itself would try them one after the other, each to its timeout.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import Sequence
from typing import Any

HEAD_START_S = 0.25

Address = tuple[int, int, int, str, Any]


async def open_connection(protocol: asyncio.Protocol, host: str, port: int, context: ssl.SSLContext | None) -> None:
    """Connect `protocol`. OSError; nothing stays open after it or after a cancel."""
    found = await resolve(host, port)
    await connect_to(found, protocol, host, context)


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Every address of a host, the resolver's favourite first. OSError."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def connect_to(
    found: Sequence[Address], protocol: asyncio.Protocol, host: str, context: ssl.SSLContext | None
) -> None:
    """Connect `protocol` to the first of these addresses that answers; `host` is what its certificate must say."""
    loop = asyncio.get_running_loop()
    sock = await _first_of(_interleave(found))
    try:
        name = host if context is not None else None
        await loop.create_connection(lambda: protocol, sock=sock, ssl=context, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def _interleave(found: Sequence[Address]) -> list[Address]:
    """Families in turn, the resolver's favourite first."""
    families: dict[int, list[Address]] = {}
    for address in found:
        families.setdefault(address[0], []).append(address)
    rounds = itertools.zip_longest(*families.values())
    return [address for turn in rounds for address in turn if address is not None]


async def _first_of(addresses: list[Address]) -> socket.socket:
    """Try each when the one before failed or has had its head start; keep the first, close the others."""
    if len(addresses) == 1:
        return await _dial(addresses[0])
    tasks: set[asyncio.Task[socket.socket]] = set()
    waiting = list(reversed(addresses))
    errors: list[BaseException] = []
    won: socket.socket | None = None
    try:
        while won is None and (tasks or waiting):
            if waiting:
                tasks.add(asyncio.ensure_future(_dial(waiting.pop())))
            done, tasks = await asyncio.wait(
                tasks, timeout=HEAD_START_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is not None:
                    errors.append(error)
                elif won is None:
                    won = task.result()
                else:
                    task.result().close()
    finally:
        for task in tasks:
            task.add_done_callback(_close_loser)
            task.cancel()
    if won is None:
        raise errors[0] if errors else OSError("no address")
    return won


def _close_loser(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _dial(address: Address) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock
