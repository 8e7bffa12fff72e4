"""Who answers a chat: the model's upstreams in order, each asked in turn until one answers; else the embedded engine.

An embedded engine answers only where no upstream is configured. It is never the fallback of one that failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping

import msgspec

from minitoolai.core.catalog import Catalog, ChatModel, EngineEntry
from minitoolai.core.clock import Clock, jitter_s
from minitoolai.core.errors import (
    ClientLeft,
    ContextExceeded,
    EngineBroken,
    EngineError,
    EngineFull,
    EngineRateLimited,
    EngineRefused,
    EngineTimeout,
    InvalidRequest,
    Overloaded,
    ServiceError,
)
from minitoolai.core.meters import Meters
from minitoolai.core.models import EngineAttempt
from minitoolai.core.tracing import Span, Spans
from minitoolai.engines.protocols import ChatEngine

# (merged from health) How one upstream fares in this process: it rests after failures, one request probes it, Retry-After is kept.
# (merged from health)
# (merged from health) Several processes each learn this for themselves, from their own requests.

#: Every rest that a probe ends without success is followed by one twice as long, up to so many times the first.
LONGEST_REST = 16
#: While a probe is under way, others come back after this long.
PROBE_WAIT_S = 1.0
#: A Retry-After is believed for so long at most.
LONGEST_LIMIT_S = 300


class CircuitBreaker:
    """Told of every failure and every answer; asked before each request. Seconds are steady ones."""

    __slots__ = ("_after", "_failures", "_is_probing", "_limited", "_rest_s", "_rests", "_until_s", "is_closed")

    def __init__(self, *, after: int, rest_s: float) -> None:
        self._after = after
        self._rest_s = rest_s
        self._failures = 0
        self._rests = 0
        self._until_s: float | None = None
        self._is_probing = False
        self._limited: dict[str, float] = {}
        #: Nothing speaks against asking it, for any model.
        self.is_closed = True

    def wait_s(self, model: str, now_s: float) -> float:
        """0 where it may be asked for this model now, else seconds until it may."""
        if self.is_closed:
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
        if not self.is_closed:
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
        elif self._after == 0 or isinstance(error, EngineFull) or not isinstance(error, EngineError | Overloaded):
            self.left()
        elif isinstance(error, EngineRateLimited):
            self._is_probing = self.is_closed = False
            self._limited[model] = now_s + min(error.retry_after_s or PROBE_WAIT_S, LONGEST_LIMIT_S)
        else:
            self._failures += 1
            if self._failures >= self._after or self._is_probing:
                self._rest(now_s)

    def _look(self) -> None:
        self.is_closed = self._until_s is None and not self._limited

    def _rest(self, now_s: float) -> None:
        self._until_s = now_s + self._rest_s * min(2**self._rests, LONGEST_REST)
        self._rests += 1
        self._is_probing = self.is_closed = False


log = logging.getLogger(__name__)

#: A wait longer than this is the caller's to decide about.
LONGEST_WAIT_S = 3.0
_FIRST_WAIT_S = 0.3
Check = Callable[[ChatEngine], None]


class Route:
    """The engines that may answer one request, in order, and how those fared that were asked."""

    __slots__ = (
        "_again",
        "_asked",
        "_at_s",
        "_count",
        "_engines",
        "_home",
        "_is_open",
        "_model",
        "_span",
        "_started_s",
        "attempts",
        "engine",
    )

    def __init__(self, home: Router, model: str, engines: list[ChatEngine], now_s: float) -> None:
        self._home = home
        self._model = model
        self._engines = engines
        self._started_s = self._at_s = now_s
        #: Times asked, and those that may be asked again, by name.
        self._asked: dict[str, int] = {}
        self._again: dict[str, float] = {}
        self._is_open = False
        #: Attempts so far and the span of the current one; used only while tracing is on.
        self._count = 0
        self._span: Span | None = None
        self.engine = engines[0]
        #: Every attempt that ended, in order; empty while the first goes well.
        self.attempts: list[EngineAttempt] = []

    def ask(self) -> None:
        """The request goes to `engine` now. Overloaded, EngineRateLimited where that is not possible any more."""
        health = self._home.health(self.engine.name)
        if not health.is_closed:
            # Since it was chosen, somebody else may have become the probe, or may have been told to slow down.
            self.engine = self._home.awake([self.engine, *self._untried()], self._model, self._home.clock.steady_s())[0]
            health = self._home.health(self.engine.name)
        self._is_open = True
        self._asked[self.engine.name] = self._asked.get(self.engine.name, 0) + 1
        health.asked()
        spans = self._home.spans
        if spans is not None:
            self._count += 1
            self._span = spans.start_attempt(self.engine.name, self._count)

    @property
    def served_by_another(self) -> str | None:
        """Who is asked now, where that is not who was asked first or not the first time."""
        return self.engine.name if self.attempts or self.engine is not self._engines[0] else None

    @property
    def fetches_images(self) -> bool:
        """Whether all of them fetch the pictures that a URL names."""
        return all(engine.fetches_images for engine in self._engines)

    @property
    def plain_images(self) -> bool:
        """Whether one of them is to be given nothing but PNG."""
        return any(engine.plain_images for engine in self._engines)

    def has_more(self) -> bool:
        """Whether somebody else could be asked, should this one fail."""
        return next(self._untried(), None) is not None

    async def next(self, error: ServiceError, *, had_begun: bool) -> None:
        """After a failure before the first byte: `engine` becomes who is asked next. Raises it where nobody is left.

        `had_begun`: it had accepted the request, so it may bill, and is not sent the same again.
        """
        self.end(error, had_begun=had_begun)
        if not error.retryable:
            raise error
        self._at_s = self._home.clock.steady_s()
        engine = next(self._untried(), None)
        if engine is None:
            engine = await self._wait_for_another_try(error)
        # Its own words might repeat the prompt: they are for the caller.
        log.warning("%s failed for %s (%s); %s is asked", self.engine.name, self._model, error.code, engine.name)
        self.engine = engine
        self._at_s = self._home.clock.steady_s()

    def _untried(self) -> Iterator[ChatEngine]:
        now_s = self._home.clock.steady_s()
        for engine in self._engines:
            if engine.name not in self._asked and self._home.health(engine.name).wait_s(self._model, now_s) == 0:
                yield engine

    async def _wait_for_another_try(self, error: ServiceError) -> ChatEngine:
        """All were asked: the first that may be asked again is, after a while."""
        for engine in self._engines:
            tries = self._asked.get(engine.name, 0)
            least_s = self._again.get(engine.name)
            if least_s is None or tries > self._home.retries(engine.name):
                continue
            now_s = self._home.clock.steady_s()
            least_s = max(least_s, self._home.health(engine.name).wait_s(self._model, now_s))
            if least_s <= LONGEST_WAIT_S:
                await asyncio.sleep(least_s + jitter_s(0.05, _FIRST_WAIT_S * 2**tries))
                return engine
        raise error

    def end(self, error: ServiceError | None, *, had_begun: bool = False) -> None:
        """The attempt under way is over; the first word counts."""
        if not self._is_open:
            return
        self._is_open = False
        if self._span is not None and self._home.spans is not None:
            self._home.spans.end_attempt(self._span, error)
            self._span = None
        health, name = self._home.health(self.engine.name), self.engine.name
        if error is None and not self.attempts:
            health.answered()
            return
        self._again.pop(name, None)
        now_s = self._home.clock.steady_s()
        if error is None:
            health.answered()
        elif isinstance(error, ClientLeft):
            health.left()
        else:
            health.failed(error, self._model, now_s)
            self._home.meters.engine_failed(name, error.code)
            if error.retryable and not had_begun and not isinstance(error, EngineTimeout | EngineBroken):
                self._again[name] = float(error.retry_after_s or 0)
        if error is not None or self.attempts:
            code = error.code if error is not None else None
            self.attempts.append(
                EngineAttempt(
                    name, code, round((self._at_s - self._started_s) * 1000), round((now_s - self._at_s) * 1000)
                )
            )


class Router:
    """Chooses for every chat of this process, and remembers how each upstream fares."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, ChatEngine],
        clock: Clock,
        meters: Meters | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.meters = meters or Meters()
        self.spans = spans
        self._catalog = catalog
        self._engines = engines
        self.clock = clock
        self._configured: dict[tuple[str, ...], list[ChatEngine]] = {}
        self._health = {name: _health_of(catalog.engines.get(name)) for name in engines}

    def health(self, name: str) -> CircuitBreaker:
        """How this engine fares."""
        return self._health[name]

    def retries(self, name: str) -> int:
        """How often one request may be sent to it again."""
        entry = self._catalog.engines.get(name)
        return entry.retries if entry is not None else 0

    def candidates(self, model: ChatModel) -> list[ChatEngine]:
        """Those that are configured: every upstream, in order, or else the first engine that is ready."""
        configured = self._configured.get(model.engines)
        if configured is not None:
            return configured
        found: list[ChatEngine] = []
        for name in model.engines:
            engine = self._engines[name]
            is_upstream = self._catalog.engines[name].kind == "upstream"
            # An embedded engine looks at its files to tell, which no request to an upstream need wait for.
            if (found and not is_upstream) or engine.why_not_ready() is not None:
                continue
            if is_upstream:
                found.append(engine)
            elif not found:
                return [engine]
        if found:
            # Keys and addresses do not change while we run; the readiness of an embedded engine may.
            self._configured[model.engines] = found
        return found

    def choose(self, model: ChatModel, check: Check) -> Route:
        """Whom to ask, in order. `check` raises InvalidRequest for an engine that cannot do what was asked.

        InvalidRequest where none can, EngineRateLimited or Overloaded where none may be asked now.
        """
        engines = self.candidates(model)
        if not engines:
            reasons = "; ".join(f"{name}: {self._engines[name].why_not_ready()}" for name in model.engines)
            raise Overloaded(f"no engine for {model.name} is ready ({reasons})", retry_after_s=30)
        now_s = self.clock.steady_s()
        if len(engines) == 1 and self._health[engines[0].name].is_closed:
            check(engines[0])
            engines[0].check_capacity()
            return Route(self, model.name, engines, now_s)
        able = self._with_room(self.awake(_able(engines, check), model.name, now_s))
        return Route(self, model.name, able, now_s)

    def awake(self, engines: list[ChatEngine], model: str, now_s: float) -> list[ChatEngine]:
        """Those that may be asked now; EngineRateLimited or Overloaded where none may."""
        waits = {engine.name: self._health[engine.name].wait_s(model, now_s) for engine in engines}
        awake = [engine for engine in engines if waits[engine.name] == 0]
        if awake:
            return awake
        name = min(waits, key=waits.__getitem__)
        wait_s = max(1, round(waits[name] + 0.5))
        if self._health[name].is_limited(model, now_s):
            raise EngineRateLimited(f"{name} asked us to slow down; come back in {wait_s} s", retry_after_s=wait_s)
        raise Overloaded(f"{name} failed repeatedly and rests; come back in {wait_s} s", retry_after_s=wait_s)

    def _with_room(self, engines: list[ChatEngine]) -> list[ChatEngine]:
        """Those with a free slot before those where one waits; Overloaded where all are full."""
        roomy, refusal = [], None
        for engine in engines:
            try:
                engine.check_capacity()
            except Overloaded as full:
                refusal = refusal or full
            else:
                roomy.append(engine)
        if refusal is not None and not roomy:
            raise refusal
        return sorted(roomy, key=lambda engine: engine.is_busy())


def _able(engines: list[ChatEngine], check: Check) -> list[ChatEngine]:
    able, refusal = [], None
    for engine in engines:
        try:
            check(engine)
        except InvalidRequest as no:
            refusal = refusal or no
        else:
            able.append(engine)
    if refusal is not None and not able:
        raise refusal
    return able


def _health_of(entry: EngineEntry | None) -> CircuitBreaker:
    if entry is None or entry.kind != "upstream":
        return CircuitBreaker(after=0, rest_s=1.0)
    return CircuitBreaker(after=entry.cooldown_after, rest_s=entry.cooldown_s)


def written(attempts: list[EngineAttempt]) -> str | None:
    """The attempts as they are kept with the generation; None where the first went well."""
    return msgspec.json.encode(attempts).decode() if attempts else None
