"""An event loop whose time passes only when nobody has anything to do: an hour of waiting takes no time at all."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from tests.support.books import NOON_MS


class _NeverWaits(selectors.SelectSelector):
    """Passes the time that it was asked to wait for."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self.now_s += timeout
        assert timeout is not None, "everybody waits for somebody else: the simulation would never end"
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and jumps to the next timer. What runs in which order is always the same."""

    def __init__(self) -> None:
        self._virtual = _NeverWaits()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s

    def pass_time(self, seconds: float) -> None:
        """Somebody holds everything up for so long."""
        self._virtual.now_s += seconds


class VirtualClock:
    """The time of a loop as records and leases know it; identifiers one after the other.

    The wall clock may be set to another time (`wall_offset_s`); the others go on.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._last_id = 0
        self.wall_offset_s = 0.0

    def now_ms(self) -> int:
        return NOON_MS + round((self._loop.time() + self.wall_offset_s) * 1000)

    def lease_ms(self) -> int:
        return NOON_MS + round(self._loop.time() * 1000)

    def steady_s(self) -> float:
        return self._loop.time()

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id
