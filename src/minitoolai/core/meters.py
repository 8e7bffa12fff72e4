"""What one process has done, for /metrics: counted on the hot path in a microsecond, rendered when somebody asks."""

from __future__ import annotations

from bisect import bisect_left

from minitoolai.core.clock import created_ms
from minitoolai.core.models import Outcome

# (merged from measures) Counting without a cost worth mentioning: plain integers, and buckets that are fixed beforehand.


class Histogram:
    """How often a value fell into each bucket. Whole numbers in, of one unit; turned into seconds only when read."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, *bounds: int) -> None:
        """`bounds` ascend; each bucket takes values up to and including its own, one more takes the rest."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value: int) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self, unit: float) -> list[tuple[str, float]]:
        """Upper bound, as text and in multiples of `unit`, with the number of values up to it; the last is +Inf."""
        rows, so_far = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            so_far += count
            rows.append((f"{bound * unit:g}", float(so_far)))
        return [*rows, ("+Inf", float(so_far + self.counts[-1]))]


#: Answers are added up so many at a time, and whenever somebody asks: one by one, each would pay for a cold start.
FOLD_EVERY = 256
#: Milliseconds.
FIRST_TOKEN_MS = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
DURATION_MS = (10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)


class OutcomeTotals:
    """Of answers that ended alike: how many, what they used (tokens, characters, pictures), nano-dollars."""

    __slots__ = ("answers", "cached", "cost", "input", "output")

    def __init__(self) -> None:
        self.answers = self.input = self.output = self.cached = self.cost = 0


class Meters:
    """One a process; used on the event loop's thread only, so that nothing locks."""

    def __init__(self) -> None:
        #: Requests by path; what is no hot path is `other`, pages of the portal are `portal`.
        self.requests: dict[str, int] = {}
        self._fresh: list[tuple[str, str, int, Outcome, int, int]] = []
        self._answers: dict[tuple[str, str, str, str], OutcomeTotals] = {}
        self._first_token: dict[str, Histogram] = {}
        self._duration: dict[str, Histogram] = {}
        #: Attempts that failed, by engine and error code.
        self.failures: dict[tuple[str, str], int] = {}

    def request(self, path: str) -> None:
        """A request came in."""
        self.requests[path] = self.requests.get(path, 0) + 1

    def ended(self, kind: str, model: str, hold_id: int, outcome: Outcome, cost: int, now_ms: int) -> None:
        """Paid work came to its end; it began when its hold was named."""
        self._fresh.append((kind, model, hold_id, outcome, cost, now_ms))
        if len(self._fresh) >= FOLD_EVERY:
            self._add_up()

    @property
    def answers(self) -> dict[tuple[str, str, str, str], OutcomeTotals]:
        """Answers by kind, model, state and error code."""
        self._add_up()
        return self._answers

    @property
    def first_token(self) -> dict[str, Histogram]:
        """How long the first token took, by kind."""
        self._add_up()
        return self._first_token

    @property
    def duration(self) -> dict[str, Histogram]:
        """How long whole answers took, by kind."""
        self._add_up()
        return self._duration

    def _add_up(self) -> None:
        fresh, self._fresh = self._fresh, []
        for kind, model, hold_id, outcome, cost, now_ms in fresh:
            key = (kind, model, outcome.state, outcome.error_code or "")
            tally = self._answers.get(key)
            if tally is None:
                tally = self._answers[key] = OutcomeTotals()
                self._first_token.setdefault(kind, Histogram(*FIRST_TOKEN_MS))
                self._duration.setdefault(kind, Histogram(*DURATION_MS))
            tally.answers += 1
            tally.input += outcome.input_units
            tally.output += outcome.output_units
            tally.cached += outcome.cached_units
            tally.cost += cost
            if outcome.first_token_ms is not None:
                self._first_token[kind].add(outcome.first_token_ms)
            self._duration[kind].add(max(0, now_ms - created_ms(hold_id)))

    def engine_failed(self, engine: str, code: str) -> None:
        """An attempt at an engine ended with an error."""
        self.failures[engine, code] = self.failures.get((engine, code), 0) + 1
