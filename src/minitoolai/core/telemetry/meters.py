"""Counters and histograms of one process for /metrics.

Counting on the hot path takes a microsecond; rendering happens when /metrics is read.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import Any, Final, Literal, NamedTuple

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


#: Outcome of an interrupted generation in the ledger, for those that settle holds of others.
INTERRUPTED: Final = Outcome("failed", error_code="interrupted", estimated=True)
#: How a request for an engine ended, for its share of failures: `invalid` if the engine rejected the request itself,
#: `refused` if no generation began because the engine was not available.
EngineResult = Literal["succeeded", "cancelled", "failed", "invalid", "refused"]


class _Ended(NamedTuple):
    """A finished generation, with the requested charge and its result, once that is known."""

    kind: str
    model: str
    engine: str
    hold_id: int
    began_ms: int | None
    outcome: Outcome
    now_ms: int
    charge: asyncio.Future[Any] | None
    cost: int
    is_fault: bool


def _engine_result(state: str, *, is_fault: bool) -> EngineResult:
    """Return how an ended generation counts for its engine."""
    if state in ("succeeded", "cancelled"):
        return "succeeded" if state == "succeeded" else "cancelled"
    return "failed" if is_fault else "invalid"


#: A mean time to the first token weighs the newest response by one part in this many.
LATENCY_MEMORY = 20


class Latency:
    """Moving average of the time to the first token, of one model at one engine."""

    __slots__ = ("count", "mean_ms")

    def __init__(self) -> None:
        self.count, self.mean_ms = 0, 0.0

    def add(self, ms: int) -> None:
        self.count += 1
        self.mean_ms += (ms - self.mean_ms) / min(self.count, LATENCY_MEMORY)


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
        #: By hold: charges that were not written in time, which the writer keeps and writes later.
        self._late: dict[int, _Ended] = {}
        self._outcomes: dict[tuple[str, str, str, str], OutcomeTotals] = {}
        #: Requests that ended, by engine, model, state and whether a failure was a fault; and those that were refused.
        self._ends: dict[tuple[str, str, str, bool], int] = {}
        self._refused: dict[tuple[str, str], int] = {}
        self._first_token: dict[str, Histogram] = {}
        self._duration: dict[str, Histogram] = {}
        #: By engine and model.
        self._latencies: dict[tuple[str, str], Latency] = {}
        #: Failed attempts by engine and error code.
        self.failures: dict[tuple[str, str], int] = {}
        #: Engine → the code of its last failed attempt, and when that was, in milliseconds since 1970.
        self.last_failures: dict[str, tuple[str, int]] = {}
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
        *,
        engine: str = "",
        began_ms: int | None = None,
        is_fault: bool = True,
    ) -> None:
        """Count a generation that this process settled, once its charge is known, at the cost in the ledger.

        A charge that changed nothing is not counted: the process that settled the hold before has counted it.
        `began_ms` is needed for jobs; the hold ID of other kinds contains the start time. `is_fault`: see ServiceError.
        """
        self._pending.append(_Ended(kind, model, engine, hold_id, began_ms, outcome, now_ms, charge, cost, is_fault))
        if len(self._pending) >= self._fold_at:
            self._fold()

    def settled_late(self, hold_id: int, settled: Any) -> None:
        """Count a generation after a late charge: the response had stopped waiting for it."""
        self._fold()
        ended = self._late.pop(hold_id, None)
        if ended is not None:
            self._add(ended, settled)

    def refused(self, engine: str, model: str) -> None:
        """Count a request that was refused before it began, because the engine or this server could not take it."""
        self._refused[engine, model] = self._refused.get((engine, model), 0) + 1

    @property
    def outcomes(self) -> dict[tuple[str, str, str, str], OutcomeTotals]:
        """Return totals by kind, model, state and error code."""
        self._fold()
        return self._outcomes

    @property
    def engine_results(self) -> dict[tuple[str, str, EngineResult], int]:
        """Return the number of requests by engine, model and result."""
        self._fold()
        results: dict[tuple[str, str, EngineResult], int] = {
            (engine, model, "refused"): count for (engine, model), count in self._refused.items()
        }
        for (engine, model, state, is_fault), count in self._ends.items():
            key = (engine, model, _engine_result(state, is_fault=is_fault))
            results[key] = results.get(key, 0) + count
        return results

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

    def latency(self, engine: str, model: str) -> float | None:
        """Return the mean time to the first token of recent streams in milliseconds, if there were any."""
        self._fold()
        found = self._latencies.get((engine, model))
        return None if found is None else found.mean_ms

    def _fold(self) -> None:
        pending, self._pending = self._pending, []
        for ended in pending:
            charge = ended.charge
            if charge is None:
                self._add(ended, None)
            elif not charge.done():
                self._pending.append(ended)
            elif charge.cancelled() or isinstance(charge.exception(), TimeoutError):
                self._late[ended.hold_id] = ended
            elif charge.exception() is None:
                self._add(ended, charge.result())
        self._fold_at = len(self._pending) + FOLD_BATCH

    def _add(self, ended: _Ended, settled: Any) -> None:
        kind, model, outcome = ended.kind, ended.model, ended.outcome
        cost = ended.cost
        if settled is not None:
            if getattr(settled, "repeated", True):
                # The hold was settled before or is unknown.
                return
            # The hold covers at most its own amount; the shortfall is not charged.
            cost = settled.cost
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
            # After a failure elsewhere, the time would not be that of this engine.
            if outcome.is_streamed and outcome.engine is None:
                self._add_latency(ended.engine, model, outcome.first_token_ms)
        began_ms = created_ms(ended.hold_id) if ended.began_ms is None else ended.began_ms
        self._duration[kind].add(max(0, ended.now_ms - began_ms))
        end = (outcome.engine or ended.engine, model, outcome.state, ended.is_fault)
        self._ends[end] = self._ends.get(end, 0) + 1

    def _add_latency(self, engine: str, model: str, ms: int) -> None:
        latency = self._latencies.get((engine, model))
        if latency is None:
            latency = self._latencies[engine, model] = Latency()
        latency.add(ms)

    def engine_failed(self, engine: str, code: str, now_ms: int) -> None:
        """Count a failed attempt at an engine."""
        self.failures[engine, code] = self.failures.get((engine, code), 0) + 1
        self.last_failures[engine] = (code, now_ms)

    def disbelieved(self, engine: str, why: str) -> int:
        """Count a reported usage that was not believed. Return how often that happened."""
        count = self.doubts[engine, why] = self.doubts.get((engine, why), 0) + 1
        return count

    def fell_short(self, engine: str, nano: int) -> None:
        """Add up cost beyond a hold."""
        self.shortfalls[engine] = self.shortfalls.get(engine, 0) + nano
