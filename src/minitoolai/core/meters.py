"""Counters and histograms of one process for /metrics.

Counting on the hot path takes a microsecond; rendering happens when /metrics is read.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import Any, NamedTuple

from minitoolai.core.clock import created_ms
from minitoolai.core.models import Outcome


class Histogram:
    """Histogram of integers with fixed buckets. Values are converted to seconds only when it is read."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, *bounds: int) -> None:
        """Create empty buckets. `bounds` ascend and are inclusive; one more bucket takes larger values."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value: int) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self, unit: float) -> list[tuple[str, float]]:
        """Return (upper bound as text, number of values up to it) in multiples of `unit`; the last is +Inf."""
        rows, so_far = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            so_far += count
            rows.append((f"{bound * unit:g}", float(so_far)))
        return [*rows, ("+Inf", float(so_far + self.counts[-1]))]


#: Add up outcomes in batches of this size, and on every read: one by one, each would run with cold caches
#: (decision 0012).
FOLD_BATCH = 256
#: Bucket bounds in milliseconds.
FIRST_TOKEN_MS = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
DURATION_MS = (10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)


#: What the ledger has of a generation whose hold another process recovered.
_RECOVERED = Outcome("failed", error_code="interrupted", estimated=True)


class _Ended(NamedTuple):
    """A finished generation, with the charge that was asked for and its result, once that is known."""

    kind: str
    model: str
    hold_id: int
    outcome: Outcome
    cost: int
    now_ms: int
    charge: asyncio.Future[Any] | None

    def is_known(self) -> bool:
        """Return True if the ledger has answered."""
        return self.charge is None or self.charge.done()

    def booked(self) -> tuple[Outcome, int]:
        """Return the outcome and cost that the ledger has. They differ from those asked for if the hold was lost."""
        charge = self.charge
        if charge is None or charge.cancelled() or isinstance(charge.exception(), TimeoutError):
            return self.outcome, self.cost
        if charge.exception() is not None:
            return _RECOVERED, 0
        settled = charge.result()
        # A result without `differs` says that the ledger has no such hold.
        if getattr(settled, "differs", True):
            return _RECOVERED, getattr(settled, "cost", 0)
        return self.outcome, self.cost


class OutcomeTotals:
    """Totals of generations with the same outcome: count, units (tokens, characters, images), nano-dollars."""

    __slots__ = ("cached", "cost", "count", "input", "output")

    def __init__(self) -> None:
        self.count = self.input = self.output = self.cached = self.cost = 0


class Meters:
    """Meters of one process. Used only on the event loop's thread, so they need no lock."""

    def __init__(self) -> None:
        #: Requests by hot path; all other paths are `other`, pages of the portal are `portal`.
        self.requests: dict[str, int] = {}
        self._pending: list[_Ended] = []
        #: Fold when this many are pending.
        self._fold_at = FOLD_BATCH
        self._outcomes: dict[tuple[str, str, str, str], OutcomeTotals] = {}
        self._first_token: dict[str, Histogram] = {}
        self._duration: dict[str, Histogram] = {}
        #: Failed attempts by engine and error code.
        self.failures: dict[tuple[str, str], int] = {}
        #: Reported usages that were not believed, by engine and reason.
        self.doubts: dict[tuple[str, str], int] = {}
        #: Nano-dollars of cost beyond the holds, by engine.
        self.shortfalls: dict[str, int] = {}

    def request(self, path: str) -> None:
        """Count a request."""
        self.requests[path] = self.requests.get(path, 0) + 1

    def ended(
        self,
        kind: str,
        model: str,
        hold_id: int,
        outcome: Outcome,
        cost: int,
        now_ms: int,
        charge: asyncio.Future[Any] | None = None,
    ) -> None:
        """Count a finished generation, once its charge is known. Its hold ID says when it began."""
        self._pending.append(_Ended(kind, model, hold_id, outcome, cost, now_ms, charge))
        if len(self._pending) >= self._fold_at:
            self._fold()

    @property
    def outcomes(self) -> dict[tuple[str, str, str, str], OutcomeTotals]:
        """Return totals by kind, model, state and error code."""
        self._fold()
        return self._outcomes

    @property
    def first_token(self) -> dict[str, Histogram]:
        """Return time to first token, by kind."""
        self._fold()
        return self._first_token

    @property
    def duration(self) -> dict[str, Histogram]:
        """Return duration of whole generations, by kind."""
        self._fold()
        return self._duration

    def _fold(self) -> None:
        pending, self._pending = self._pending, []
        for ended in pending:
            if not ended.is_known():
                self._pending.append(ended)
                continue
            kind, model, hold_id, _, _, now_ms, _ = ended
            outcome, cost = ended.booked()
            key = (kind, model, outcome.state, outcome.error_code or "")
            totals = self._outcomes.get(key)
            if totals is None:
                totals = self._outcomes[key] = OutcomeTotals()
                self._first_token.setdefault(kind, Histogram(*FIRST_TOKEN_MS))
                self._duration.setdefault(kind, Histogram(*DURATION_MS))
            totals.count += 1
            totals.input += outcome.input_units
            totals.output += outcome.output_units
            totals.cached += outcome.cached_units
            totals.cost += cost
            if outcome.first_token_ms is not None:
                self._first_token[kind].add(outcome.first_token_ms)
            self._duration[kind].add(max(0, now_ms - created_ms(hold_id)))
        self._fold_at = len(self._pending) + FOLD_BATCH

    def engine_failed(self, engine: str, code: str) -> None:
        """Count a failed attempt at an engine."""
        self.failures[engine, code] = self.failures.get((engine, code), 0) + 1

    def disbelieved(self, engine: str, why: str) -> int:
        """Count a reported usage that was not believed. Return how often that happened."""
        count = self.doubts[engine, why] = self.doubts.get((engine, why), 0) + 1
        return count

    def fell_short(self, engine: str, nano: int) -> None:
        """Add up cost beyond a hold."""
        self.shortfalls[engine] = self.shortfalls.get(engine, 0) + nano
