"""How one upstream fares in this process: it rests after failures, one request probes it, Retry-After is kept.

Several processes each learn this for themselves, from their own requests.
"""

from __future__ import annotations

from minitoolai.core.errors import ContextExceeded, EngineError, EngineRateLimited, EngineRefused, NoRoom, Overloaded

#: Every rest that a probe ends without success is followed by one twice as long, up to so many times the first.
LONGEST_REST = 16
#: While a probe is under way, others come back after this long.
PROBE_WAIT_S = 1.0
#: A Retry-After is believed for so long at most.
LONGEST_LIMIT_S = 300


class Health:
    """Told of every failure and every answer; asked before each request. Seconds are steady ones."""

    __slots__ = ("_after", "_failures", "_is_probing", "_limited", "_rest_s", "_rests", "_until_s", "is_well")

    def __init__(self, *, after: int, rest_s: float) -> None:
        self._after = after
        self._rest_s = rest_s
        self._failures = 0
        self._rests = 0
        self._until_s: float | None = None
        self._is_probing = False
        self._limited: dict[str, float] = {}
        #: Nothing speaks against asking it, for any model.
        self.is_well = True

    def wait_s(self, model: str, now_s: float) -> float:
        """0 where it may be asked for this model now, else seconds until it may."""
        if self.is_well:
            return 0.0
        limited_s = self._limited.get(model, now_s) - now_s
        if limited_s < 0:
            del self._limited[model]
            self._look()
        limited_s = max(0.0, limited_s)
        if self._until_s is None:
            return limited_s
        if now_s < self._until_s:
            return max(limited_s, self._until_s - now_s)
        return max(limited_s, PROBE_WAIT_S if self._is_probing else 0.0)

    def is_limited(self, model: str, now_s: float) -> bool:
        """Whether it waits because it asked us to slow down, not because it failed."""
        return self._limited.get(model, 0.0) > now_s

    def asked(self) -> None:
        """A request is on its way; after a rest it is the probe."""
        if self._until_s is not None:
            self._is_probing = True

    def answered(self) -> None:
        """An answer came to its end."""
        self._failures = 0
        if not self.is_well:
            self._rests = 0
            self._until_s, self._is_probing = None, False
            self._look()

    def left(self) -> None:
        """The request ended without a word on the upstream: its caller hung up."""
        self._is_probing = False

    def failed(self, error: Exception, model: str, now_s: float) -> None:
        """What stopped an attempt; an error that is the request's own counts as an answer."""
        if isinstance(error, EngineRefused | ContextExceeded):
            self.answered()
        elif self._after == 0 or isinstance(error, NoRoom) or not isinstance(error, EngineError | Overloaded):
            self.left()
        elif isinstance(error, EngineRateLimited):
            self._is_probing = self.is_well = False
            self._limited[model] = now_s + min(error.retry_after_s or PROBE_WAIT_S, LONGEST_LIMIT_S)
        else:
            self._failures += 1
            if self._failures >= self._after or self._is_probing:
                self._rest(now_s)

    def _look(self) -> None:
        self.is_well = self._until_s is None and not self._limited

    def _rest(self, now_s: float) -> None:
        self._until_s = now_s + self._rest_s * min(2**self._rests, LONGEST_REST)
        self._rests += 1
        self._is_probing = self.is_well = False
