"""The addresses of an upstream on several machines: least requests first, with a circuit breaker for each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from minitoolai.core.backoff import Backoff

log = logging.getLogger(__name__)

#: Bounds of the time for which an address that failed gets no request.
FIRST_REST_S, LONGEST_REST_S = 1.0, 30.0


class UpstreamAddress:
    """One machine of an upstream."""

    __slots__ = ("backoff", "headers", "in_flight", "key", "url")

    def __init__(self, url: str, clock: Callable[[], float], key: str = "") -> None:
        self.url, self.key = url, key
        #: Additional ones, if it has a key of its own.
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self.in_flight = 0
        self.backoff = Backoff(FIRST_REST_S, LONGEST_REST_S, jitter=0.2, clock=clock)

    def failed(self) -> None:
        """Send no requests here for a while."""
        delay_s = self.backoff.record_failure()
        log.warning("upstream address %s fails; it gets no requests for %.1f s", self.url, delay_s)

    def succeeded(self) -> None:
        """Close the circuit."""
        self.backoff.record_success()

    def release(self) -> None:
        """End one request."""
        self.in_flight -= 1


class AddressPool:
    """Choose among the addresses. Every process keeps its own counts, from its own requests."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses = [UpstreamAddress(url.rstrip("/"), clock) for url in urls]
        self._clock = clock
        self._turn = 0

    def __len__(self) -> int:
        return len(self._addresses)

    def replace(self, keys: Mapping[str, str]) -> None:
        """Use the addresses of this mapping, each with its key. Those that were here before keep their counts."""
        known = {(one.url, one.key): one for one in self._addresses}
        self._addresses = [known.get(each) or UpstreamAddress(each[0], self._clock, each[1]) for each in keys.items()]

    def order(self) -> list[UpstreamAddress]:
        """Return the addresses to try, best first: those that work by requests in flight, then the others by time."""
        self._turn += 1
        first = self._turn % len(self._addresses)
        turned = self._addresses[first:] + self._addresses[:first]
        working = [one for one in turned if one.backoff.is_due()]
        resting = [one for one in turned if not one.backoff.is_due()]
        working.sort(key=lambda one: one.in_flight)
        resting.sort(key=lambda one: one.backoff.retry_at_s)
        return working + resting
