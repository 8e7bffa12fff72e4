"""Exponential backoff with jitter."""

from __future__ import annotations

import time
from collections.abc import Callable

from minitoolai.core.clock import jitter_s


class Backoff:
    """Exponential backoff: the delay doubles with each consecutive failure, up to a limit.

    `jitter` is the share of each delay that is chosen at random, so that clients that failed together do not retry
    together. Clock and randomness are parameters, so that it also runs in simulated time.
    """

    __slots__ = ("_clock", "_delay_s", "_first_s", "_jitter", "_longest_s", "_random", "retry_at_s")

    def __init__(
        self,
        first_s: float,
        longest_s: float,
        *,
        jitter: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = lambda: jitter_s(0.0, 1.0),
    ) -> None:
        self._first_s, self._longest_s, self._jitter = first_s, longest_s, jitter
        self._clock, self._random = clock, uniform
        self._delay_s = 0.0
        #: When the next attempt is due, on `clock`.
        self.retry_at_s = 0.0

    def record_failure(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        self._delay_s = min(self._longest_s, self._delay_s * 2 or self._first_s)
        delay_s = self._delay_s * (1 - self._jitter * self._random()) if self._jitter else self._delay_s
        self.retry_at_s = self._clock() + delay_s
        return delay_s

    def record_success(self) -> None:
        """Start again with the shortest delay after the next failure."""
        self._delay_s = self.retry_at_s = 0.0

    def is_due(self) -> bool:
        """Return True if the delay after the last failure has passed."""
        return self._clock() >= self.retry_at_s
