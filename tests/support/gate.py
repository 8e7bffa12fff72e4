"""An upstream that answers in two parts: the test decides when the second one comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from tests.support.upstream import Behaviour, Exchange


class Gate:
    """Closed until `open` is called, once for all answers."""

    def __init__(self) -> None:
        self._is_open = threading.Event()

    def open(self) -> None:
        self._is_open.set()

    def between(self, begin: Callable[[Exchange], object], end: Callable[[Exchange], object]) -> Behaviour:
        """Do `begin` at once and `end` when the gate is open, or the other side has left."""

        async def behave(exchange: Exchange) -> None:
            begin(exchange)
            # Not an asyncio.Event: it is opened from the thread of the test.
            while not self._is_open.is_set() and not exchange.gone.is_set():
                await asyncio.sleep(0.005)
            end(exchange)

        return behave
