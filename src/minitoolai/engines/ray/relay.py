"""The actor that starts a child on a machine of the cluster, and knows how it is.

The child is the same program as beside the server. It is a process of its own here, too, so that its crash differs
from the loss of the machine. Its messages do not pass through the actor, because a call to an actor costs a millisecond
of CPU on either side: standard input and output of the child are a connection to the host.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import ray

from minitoolai import __version__
from minitoolai.core.clock import random_bytes
from minitoolai.engines.child_process import child_environment, cpu_clock, resident_bytes
from minitoolai.engines.servers import accept

SECRET_BYTES = 32
#: Wait this long for the connection of the host, and for the exit status of a child that has ended.
CONNECT_S, EXIT_S = 15.0, 5.0


class RelayOffer(NamedTuple):
    """Where an actor listens for its host, what the host sends first, its machine, and the version of the program."""

    host: str
    port: int
    secret: bytes
    node_id: str
    version: str


class Health(NamedTuple):
    """How a child is."""

    cpu_s: float
    memory: int
    #: The exit status; None while it runs.
    status: int | None


class Relay:
    """One child with its connection."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._secret = random_bytes(SECRET_BYTES)
        self._listener: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._read_cpu_s: Callable[[], float] = float

    async def offer(self) -> RelayOffer:
        """Listen on the address by which the cluster knows this machine."""
        self._listener = listener = socket.create_server((ray.util.get_node_ip_address(), 0))
        listener.setblocking(False)
        host, port = listener.getsockname()[:2]
        return RelayOffer(host, port, self._secret, ray.get_runtime_context().get_node_id(), __version__)

    async def start(self) -> int:
        """Wait for the host, start the child on its connection, and return the process ID."""
        assert self._listener is not None
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await accept(self._listener, self._secret)
        finally:
            self._listener.close()
        with connection:
            connection.setblocking(True)
            child = subprocess.Popen(  # noqa: ASYNC220, S603 - this very Python; it takes a millisecond
                [sys.executable, "-m", self._module],
                stdin=connection.fileno(),
                stdout=connection.fileno(),
                stderr=subprocess.DEVNULL,
                env=child_environment(),
            )
        self._child, self._read_cpu_s = child, cpu_clock(child.pid)
        return child.pid

    async def look(self) -> Health:
        """Return how the child is. The host asks every second, and so knows that the machine is there."""
        assert self._child is not None
        return Health(self._read_cpu_s(), resident_bytes(self._child.pid), self._child.poll())

    async def ended(self) -> Health:
        """Return how a child has ended, after its connection was closed."""
        assert self._child is not None
        for _ in range(int(EXIT_S / 0.05)):
            if self._child.poll() is not None:
                break
            await asyncio.sleep(0.05)
        return await self.look()

    async def kill(self) -> None:
        """Kill a child that hangs."""
        if self._child is not None:
            self._child.kill()
