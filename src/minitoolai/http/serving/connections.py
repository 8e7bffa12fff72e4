"""All open connections of this process: how many an address may have, and how long each may wait.

Time is counted in ticks of one second of a running event loop, not by a clock: while the process is stopped or the loop
is blocked, no client is to blame. One task checks all connections, so none needs a timer of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Protocol

from minitoolai.accounts.rate_limits import network_of
from minitoolai.core.threads import CONTROL

log = logging.getLogger(__name__)

#: Return freed memory to the system after this many connections were closed, at most once in this many ticks. Otherwise
#: the memory of a flood of connections stays with the process.
TRIM_AFTER = 50
TRIM_EVERY = 10
#: Check this many connections before other work gets its turn: less than a millisecond.
BATCH = 1_000
MAX_CACHED_ADDRESSES = 4_096
SHARED_ADDRESSES = 64


class TimedConnection(Protocol):
    """The part of a connection that this module uses."""

    def check(self, now: int) -> None:
        """End the connection if the client has kept it waiting for too long. `now`: ticks since the start."""


def _trim_heap() -> None:
    """Return freed memory to the system, where the C library can do that."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _itself(address: tuple[str, int | None] | None) -> tuple[str, int | None] | None:
    return address


class Connections:
    """Registry of open connections."""

    def __init__(self, most_per_address: int = 0, trusted_proxies: Sequence[str] = ()) -> None:
        """`most_per_address`: 0 for no limit. Connections from `trusted_proxies` are not limited."""
        #: Ticks since the start. Connections read it to remember when something happened.
        self.now = 0
        self._most = most_per_address
        self._trusted = [ip_network(network) for network in trusted_proxies]
        self._open: set[TimedConnection] = set()
        self._counts: Counter[str] = Counter()
        self._closed = 0
        self._trimmed = 0
        self._owner = lru_cache(MAX_CACHED_ADDRESSES)(self._find_owner)
        #: Returns the first of equal addresses of this server, so that its connections share one object.
        self.shared = lru_cache(SHARED_ADDRESSES)(_itself)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: TimedConnection, address: str) -> bool:
        """Add a connection. Return False, and do not add it, if this address has as many as it may."""
        if self._most and (owner := self._owner(address)) is not None:
            if self._counts[owner] >= self._most:
                return False
            self._counts[owner] += 1
        self._open.add(connection)
        return True

    def discard(self, connection: TimedConnection, address: str) -> None:
        """Remove a connection that was added and is closed now."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._closed += 1
        if self._most and (owner := self._owner(address)) is not None:
            self._counts[owner] -= 1
            if self._counts[owner] <= 0:
                del self._counts[owner]

    async def run(self) -> None:
        """Tick once a second until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            await self.tick()

    async def tick(self) -> None:
        """Check all connections."""
        self.now += 1
        connections = list(self._open)
        for start in range(0, len(connections), BATCH):
            for connection in connections[start : start + BATCH]:
                self._check(connection)
            await asyncio.sleep(0)
        if self._closed >= TRIM_AFTER and self.now - self._trimmed >= TRIM_EVERY:
            self._closed, self._trimmed = 0, self.now
            await CONTROL.run(_trim_heap)

    def _check(self, connection: TimedConnection) -> None:
        """Check one connection, unless it was closed since. A bug there must not end the checks of all others."""
        if connection not in self._open:
            return
        try:
            connection.check(self.now)
        except Exception:
            log.exception("a connection could not be checked")

    def _find_owner(self, address: str) -> str | None:
        """Return the network that the limit counts by: the IPv4 address or the IPv6 /64. None if it is not limited.

        A proxy carries the connections of many clients. A proxy that is missing in the settings mostly has a private
        address. No client on the internet has one, so private addresses are not limited.
        """
        try:
            found = ip_address(address)
        except ValueError:
            # A Unix socket, which only a proxy uses.
            return None
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if not found.is_global or any(found in network for network in self._trusted):
            return None
        return network_of(address)
