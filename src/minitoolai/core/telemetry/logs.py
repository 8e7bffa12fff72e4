"""What log lines share: the request that the running code belongs to, and lines that sum up a minute."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Final, Protocol


class LoggedRequest(Protocol):
    """The part of a request's context that log lines show."""

    generation: str | None

    def request_id(self) -> str:
        """Return the request ID."""


#: Set by the ASGI app. Tasks that a request starts inherit it.
current_request: Final[ContextVar[LoggedRequest | None]] = ContextVar("minitoolai.request", default=None)

PERIOD_S = 60.0


class SummedLog:
    """Sums of one kind of event that may happen thousands of times a minute.

    A line is written a minute after the first event, and so on while there are more.

    `message` has a placeholder for each value that tells events apart, and ends with one for their number.
    """

    def __init__(self, logger: logging.Logger, level: int, message: str, *, period_s: float = PERIOD_S) -> None:
        self._logger = logger
        self._level = level
        self._message = message
        self._period_s = period_s
        self._counts: dict[tuple[object, ...], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, *values: object) -> None:
        """Count one event. Called on the event loop."""
        self._counts[values] = self._counts.get(values, 0) + 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._period_s, self.flush)

    def flush(self) -> None:
        """Write the sums now, also when the process stops."""
        if self._timer is not None:
            self._timer.cancel()
        counts, self._counts, self._timer = self._counts, {}, None
        for values, count in counts.items():
            self._logger.log(self._level, self._message, *values, count)
