"""Servers that run apart from `serve`, on a machine that a cluster chose, and the connection of `serve` to one.

A worker starts a child there that listens on a port and tells its address (`PlacedServer`). The address and a secret
reach `serve` through the database (placing.py). So `serve` talks to the machine itself, and needs nothing of the
cluster: it may lose the cluster at any time.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import sys
from asyncio import StreamReader
from typing import Any, NamedTuple, Protocol

import msgspec

from minitoolai.core.clock import random_text
from minitoolai.core.errors import EngineError
from minitoolai.engines.command_process import CommandProcess
from minitoolai.engines.connected_host import ConnectedHost, connect
from minitoolai.engines.host import ChildHost, HostClient, MakeHost

LOOPBACK = "127.0.0.1"
#: CPU time for loading, or time without any, after which a server counts as hanging: large weights take minutes.
LOAD_S = 600.0
CHECK_EVERY_S = 1.0
#: A connection with a silently lost other side ends after this time.
SILENCE_S = 8
#: Wait this long for the secret of a new connection.
SECRET_S = 2.0


class ServerOffer(NamedTuple):
    """A server of an engine: an address (HOST:PORT, or a URL), and the secret that it asks for."""

    engine: str
    address: str
    secret: str


class UsesServers(Protocol):
    """An engine of `serve` that uses placed servers."""

    def set_servers(self, offers: list[ServerOffer]) -> None:
        """Use these servers from now on, and no others."""


# ── for the worker ────────────────────────────────────────────────────────────────────────────────────────────


class LoadServer(msgspec.Struct, frozen=True, tag="load"):
    """The only command: load what the settings say, listen, and accept those who know the secret."""

    settings: dict[str, Any]
    secret: str


class ServedAt(msgspec.Struct, frozen=True):
    """The reply: where the child listens, or why it does not."""

    address: str = ""
    error: str = ""


class PlacedServer(CommandProcess[ServedAt]):
    """A child that listens on its machine. It ends when its worker does."""

    def __init__(
        self, engine: str, module: str, settings: dict[str, Any] | None = None, make_host: MakeHost = ChildHost
    ) -> None:
        self.module = module
        self._engine, self._secret, self._address = engine, random_text(43), ""
        load = LoadServer(settings or {}, self._secret)
        super().__init__(engine, ServedAt, load, hang_after_s=LOAD_S, check_every_s=CHECK_EVERY_S, make_host=make_host)

    @property
    def offer(self) -> ServerOffer | None:
        """Return where it serves, or None while it does not."""
        return ServerOffer(self._engine, self._address, self._secret) if self.is_up else None

    def check_loaded(self, reply: ServedAt) -> None:
        if reply.error:
            raise EngineError(f"{self.name}: its server did not start: {reply.error}")
        self._address = reply.address


# ── in the child ──────────────────────────────────────────────────────────────────────────────────────────────


def own_address() -> str:
    """Return the address of this machine that its cluster uses: that of the connection to the worker."""
    try:
        with socket.socket(fileno=os.dup(0)) as connection:
            name = connection.getsockname()
    except OSError:
        # A child process beside the worker has a pipe.
        return LOOPBACK
    # Beside the worker it may also be a pair of sockets without addresses.
    return str(name[0]) if isinstance(name, tuple) else LOOPBACK


async def accept(listener: socket.socket, secret: bytes) -> socket.socket:
    """Return the first connection that begins with the secret."""
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(listener)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(SECRET_S):
                if hmac.compare_digest(await _read_exactly(connection, len(secret)), secret):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return connection
        except (OSError, TimeoutError, EOFError):
            connection.close()
            continue
        connection.close()


async def _read_exactly(connection: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size:
        more = await loop.sock_recv(connection, size - len(data))
        if not more:
            raise EOFError("closed before its secret")
        data += more
    return data


# ── for serve ─────────────────────────────────────────────────────────────────────────────────────────────────


def notice_silence(connection: Any) -> None:
    """End a connection SILENCE_S after its other side was silently lost."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        for option, value in (
            (socket.TCP_KEEPIDLE, 2),
            (socket.TCP_KEEPINTVL, 2),
            (socket.TCP_KEEPCNT, SILENCE_S // 2 - 1),
            (socket.TCP_USER_TIMEOUT, SILENCE_S * 1000),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


class DialedHost(ConnectedHost):
    """A child behind a placed server: each connection has one of its own, which ends with the connection.

    It connects again whenever the connection ends, until it is stopped.
    """

    def __init__(self, name: str, module: str, client: HostClient, rows: int = 1, *, offer: ServerOffer) -> None:
        """`module` is what the server runs, so it is not sent."""
        super().__init__(name, client, rows)
        self._module, self._offer = module, offer

    def cpu_s(self) -> float:
        """Return 0: the time is unknown, so that a command counts as hanging by the clock alone."""
        return 0.0

    @property
    def _target(self) -> str:
        return f"the connection to {self._offer.address}"

    def kill(self) -> None:
        """Close the connection, which ends the child."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def _start_once(self) -> None:
        await self._release()
        host, _, port = self._offer.address.rpartition(":")
        try:
            stream, self._writer = await connect(host, int(port))
        except (OSError, TimeoutError) as error:
            raise EngineError(f"{self.name}: no connection to its server at {self._offer.address}: {error}") from error
        notice_silence(self._writer.get_extra_info("socket"))
        self._writer.write(self._offer.secret.encode())
        self._reader = asyncio.create_task(self._read_events(stream))
        await self._client.load()
        self.is_up = True

    async def _read_events(self, stream: StreamReader) -> str:
        await self._read(stream)
        self.is_up = False
        self._client.on_end(is_lost=True)
        return f"lost its connection to {self._offer.address}"
