"""How often something may be tried: sign-ins, sign-ups, vouchers. In memory; each process counts for itself."""

from __future__ import annotations

import math

import msgspec

from minitoolai.core.clock import Clock

LARGEST_MEMORY = 50_000


class Limit(msgspec.Struct, frozen=True):
    """At most `most` at once, and then again one every `per_s / most` seconds."""

    most: int
    per_s: float


class Attempts:
    """Counts tries by key (the generic cell rate algorithm: one number a key)."""

    def __init__(self, clock: Clock, factor: int = 1) -> None:
        self._clock = clock
        self._factor = max(factor, 1)
        self._full_at_s: dict[str, float] = {}

    def wait_s(self, key: str, limit: Limit) -> int:
        """0 where another try is allowed now (it is counted), else in how many whole seconds."""
        now_s = self._clock.steady_s()
        step_s = limit.per_s / (limit.most * self._factor)
        at_s = max(self._full_at_s.get(key, now_s), now_s) + step_s
        if at_s - now_s > limit.per_s + step_s / 2:
            return math.ceil(at_s - now_s - limit.per_s)
        if len(self._full_at_s) >= LARGEST_MEMORY:
            self._full_at_s = {k: v for k, v in self._full_at_s.items() if v > now_s}
            if len(self._full_at_s) >= LARGEST_MEMORY:
                self._full_at_s.clear()
        self._full_at_s[key] = at_s
        return 0

    def forgive(self, key: str) -> None:
        """Forget the tries of this key: it came right."""
        self._full_at_s.pop(key, None)
