"""What one process has done, for /metrics: counted on the hot path in a microsecond, rendered when somebody asks."""

from __future__ import annotations

from minitoolai.core.clock import created_ms
from minitoolai.core.measures import Histogram
from minitoolai.core.records import Outcome

#: Milliseconds.
FIRST_TOKEN_MS = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
DURATION_MS = (10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)


class Tally:
    """Of answers that ended alike: how many, what they used (tokens, characters, pictures), nano-dollars."""

    __slots__ = ("answers", "cached", "cost", "input", "output")

    def __init__(self) -> None:
        self.answers = self.input = self.output = self.cached = self.cost = 0


class Meters:
    """One a process; used on the event loop's thread only, so that nothing locks."""

    def __init__(self) -> None:
        #: Requests by path; what is no hot path is `other`, pages of the portal are `portal`.
        self.requests: dict[str, int] = {}
        #: Answers by kind, model, state and error code.
        self.answers: dict[tuple[str, str, str, str], Tally] = {}
        self.first_token: dict[str, Histogram] = {}
        self.duration: dict[str, Histogram] = {}
        #: Attempts that failed, by engine and error code.
        self.failures: dict[tuple[str, str], int] = {}

    def request(self, path: str) -> None:
        """A request came in."""
        self.requests[path] = self.requests.get(path, 0) + 1

    def ended(self, kind: str, model: str, hold_id: int, outcome: Outcome, cost: int, now_ms: int) -> None:
        """Paid work came to its end; it began when its hold was named."""
        key = (kind, model, outcome.state, outcome.error_code or "")
        tally = self.answers.get(key)
        if tally is None:
            tally = self.answers[key] = Tally()
            self.first_token.setdefault(kind, Histogram(*FIRST_TOKEN_MS))
            self.duration.setdefault(kind, Histogram(*DURATION_MS))
        tally.answers += 1
        tally.input += outcome.input_units
        tally.output += outcome.output_units
        tally.cached += outcome.cached_units
        tally.cost += cost
        if outcome.first_token_ms is not None:
            self.first_token[kind].add(outcome.first_token_ms)
        self.duration[kind].add(max(0, now_ms - created_ms(hold_id)))

    def engine_failed(self, engine: str, code: str) -> None:
        """An attempt at an engine ended with an error."""
        self.failures[engine, code] = self.failures.get((engine, code), 0) + 1
