"""Choose the engines for a chat, with circuit breakers, fallback and retry with exponential backoff.

The model's upstreams are tried in catalog order until one responds. An embedded engine is used only if no upstream is
configured; it is never the fallback for an upstream that failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from minitoolai.chat.circuit_breaker import MAX_ACCOUNTS, CircuitBreaker
from minitoolai.core.catalog.catalog import Catalog, ChatModel, EngineEntry
from minitoolai.core.catalog.stand_ins import StandIns
from minitoolai.core.clock import Clock, jitter_s
from minitoolai.core.errors import (
    ClientLeft,
    EngineBroken,
    EngineRateLimited,
    EngineTimeout,
    InvalidRequest,
    Overloaded,
    ServiceError,
)
from minitoolai.core.models import EngineAttempt
from minitoolai.core.telemetry.logs import SummedLog
from minitoolai.core.telemetry.meters import Meters
from minitoolai.core.telemetry.tracing import Span, Spans
from minitoolai.engines.protocols import ChatEngine

log = logging.getLogger(__name__)

#: Longest wait before a retry. If it would take longer, the error is returned and the caller decides.
MAX_RETRY_WAIT_S = 3.0
_FIRST_BACKOFF_S = 0.3
#: Log lines that sum up a minute.
FALLBACKS = "chats of model %s that failed at %s (%s) succeeded at %s: %d in the last minute"
RATE_LIMITS = (
    "%s is rate limiting model %s and is skipped until its Retry-After has passed: %d times in the last minute"
)
Check = Callable[[ChatEngine], None]


class Route:
    """Fallback order of one request: the engines that can serve it, and the attempts made so far."""

    __slots__ = (
        "_account_id",
        "_attempt_count",
        "_attempt_is_open",
        "_attempt_started_s",
        "_engines",
        "_is_probe",
        "_model",
        "_retry_wait_s",
        "_router",
        "_shown_model",
        "_span",
        "_started_s",
        "_tries",
        "attempts",
        "engine",
    )

    def __init__(
        self, router: Router, model: str, engines: list[ChatEngine], now_s: float, account_id: int = 0
    ) -> None:
        self._router = router
        self._account_id = account_id
        self._model = model
        self._engines = engines
        self._started_s = self._attempt_started_s = now_s
        #: By engine name: number of attempts, and the least wait before a retry (absent if it must not be retried).
        self._tries: dict[str, int] = {}
        self._retry_wait_s: dict[str, float] = {}
        self._attempt_is_open = False
        #: The current attempt probes an upstream with a half-open circuit.
        self._is_probe = False
        #: Number of attempts and the span of the current one; used only if tracing is on.
        self._attempt_count = 0
        self._span: Span | None = None
        self.engine = engines[0]
        #: Set if another model was tried before.
        self._shown_model: str | None = None
        #: Attempts that ended, in order. Stays empty if the first attempt succeeds.
        self.attempts: list[EngineAttempt] = []

    def carry_on(self, earlier: Route) -> None:
        """Go on where the route of another model of the same request ended: keep its attempts and its start."""
        self.attempts = [msgspec.structs.replace(one, model=one.model or earlier._model) for one in earlier.attempts]
        self._shown_model = self._model
        self._started_s = earlier._started_s
        self._attempt_count = earlier._attempt_count
        self._attempt_started_s = self._router.clock.steady_s()

    def start_attempt(self) -> None:
        """Start an attempt with `engine`, or with the next one if its circuit has opened since it was chosen.

        Raises Overloaded or EngineRateLimited if no engine is available any more.
        """
        breakers, name = self._router.breakers, self.engine.name
        breaker = breakers[name]
        if breaker.is_closed:
            self._is_probe = False
            breaker.seen[self._account_id] = self._attempt_started_s
            if len(breaker.seen) > MAX_ACCOUNTS:
                breaker.forget_old(self._attempt_started_s)
        else:
            # Another request may have become the probe, or have been rate limited, since the engine was chosen.
            now_s = self._router.clock.steady_s()
            choice = [self.engine, *self._untried()]
            self.engine = self._router.available(choice, self._model, self._account_id, now_s)[0]
            name = self.engine.name
            self._attempt_started_s = now_s
            self._is_probe = breakers[name].on_request(self._account_id, now_s)
        self._attempt_is_open = True
        self._tries[name] = self._tries.get(name, 0) + 1
        spans = self._router.spans
        if spans is not None:
            self._attempt_count += 1
            self._span = spans.start_attempt(self.engine.name, self._attempt_count)

    @property
    def fallback_engine(self) -> str | None:
        """The name of the current engine, if this is not the first attempt with the first engine; else None."""
        return self.engine.name if self.attempts or self.engine is not self._engines[0] else None

    @property
    def fetches_images(self) -> bool:
        """True if every engine fetches image URLs itself."""
        return all(engine.fetches_images for engine in self._engines)

    @property
    def plain_images(self) -> bool:
        """True if at least one engine accepts only PNG images."""
        return any(engine.plain_images for engine in self._engines)

    def next_engine(self) -> ChatEngine | None:
        """Return the next available engine that has not been tried, if there is one."""
        return next(self._untried(), None)

    async def fail_over(self, error: ServiceError, *, had_begun: bool) -> None:
        """Select the next engine after a failure before the first byte, else raise the failure again.

        `had_begun` means that the engine had accepted the request. It may bill for it, so it is not retried there.
        """
        self.end_attempt(error, had_begun=had_begun)
        if not error.retryable:
            raise error
        self._attempt_started_s = self._router.clock.steady_s()
        engine = await self._retry_rate_limited(error) or next(self._untried(), None)
        if engine is None:
            engine = await self._wait_for_retry(error)
        self.engine = engine
        self._attempt_started_s = self._router.clock.steady_s()

    def _untried(self) -> Iterator[ChatEngine]:
        now_s = self._router.clock.steady_s()
        for engine in self._engines:
            if engine.name not in self._tries and self._wait_s(engine.name, now_s) == 0:
                yield engine

    def _wait_s(self, name: str, now_s: float) -> float:
        return self._router.breakers[name].wait_s(self._model, self._account_id, now_s)

    async def _retry_rate_limited(self, error: ServiceError) -> ChatEngine | None:
        """Wait, and return the same engine, if it rate limited only this request: a retry may succeed."""
        engine, tries = self.engine, self._tries.get(self.engine.name, 0)
        if (
            not isinstance(error, EngineRateLimited)
            or error.rests_model
            or engine.name not in self._retry_wait_s
            or tries > self._router.retries(engine.name)
        ):
            return None
        await asyncio.sleep(jitter_s(0.05, _FIRST_BACKOFF_S * 2**tries))
        return engine

    async def _wait_for_retry(self, error: ServiceError) -> ChatEngine:
        """Retry the first engine that may be retried, after a wait with exponential backoff and jitter."""
        for engine in self._engines:
            tries = self._tries.get(engine.name, 0)
            wait_s = self._retry_wait_s.get(engine.name)
            if wait_s is None or tries > self._router.retries(engine.name):
                continue
            now_s = self._router.clock.steady_s()
            wait_s = max(wait_s, self._wait_s(engine.name, now_s))
            if wait_s <= MAX_RETRY_WAIT_S:
                await asyncio.sleep(wait_s + jitter_s(0.05, _FIRST_BACKOFF_S * 2**tries))
                return engine
        raise error

    def end_attempt(self, error: ServiceError | None, *, had_begun: bool = False) -> None:
        """End the current attempt and report it to the circuit breaker. Only the first call per attempt counts."""
        if not self._attempt_is_open:
            return
        self._attempt_is_open = False
        if self._span is not None and self._router.spans is not None:
            self._router.spans.end_attempt(self._span, error)
            self._span = None
        name = self.engine.name
        breaker = self._router.breakers[name]
        if error is None and not self.attempts and not breaker.failing and breaker.is_closed:
            return
        self._retry_wait_s.pop(name, None)
        now_s, account_id, started_s = self._router.clock.steady_s(), self._account_id, self._attempt_started_s
        if error is None:
            self._log_fallbacks()
            breaker.on_success(account_id, started_s, is_probe=self._is_probe)
        elif isinstance(error, ClientLeft):
            breaker.on_cancel(is_probe=self._is_probe)
        else:
            breaker.on_failure(error, self._model, account_id, started_s, now_s, is_probe=self._is_probe)
            if isinstance(error, EngineRateLimited) and breaker.is_limited(self._model, now_s):
                self._router.rate_limits.add(name, self._model)
            self._router.meters.engine_failed(name, error.code, self._router.clock.now_ms())
            if error.retryable and not had_begun and not isinstance(error, EngineTimeout | EngineBroken):
                self._set_retry_wait(name, error)
        if error is not None or self.attempts:
            code = error.code if error is not None else None
            self.attempts.append(
                EngineAttempt(
                    name,
                    code,
                    round((self._attempt_started_s - self._started_s) * 1000),
                    round((now_s - self._attempt_started_s) * 1000),
                    self._shown_model,
                )
            )

    def _log_fallbacks(self) -> None:
        """Log the failed attempts of a request that succeeded after all. Codes only: messages may quote the prompt."""
        for attempt in self.attempts:
            self._router.fallbacks.add(self._model, attempt.engine, attempt.error_code, self.engine.name)

    def _set_retry_wait(self, name: str, error: ServiceError) -> None:
        """Set how long to wait before a retry. A request that is too large for a rate limit is not retried."""
        if not isinstance(error, EngineRateLimited):
            self._retry_wait_s[name] = float(error.retry_after_s or 0)
        elif not error.is_size:
            self._retry_wait_s[name] = float(error.retry_after_s or 0) if error.rests_model else 0.0


class Router:
    """Choose engines for every chat of this process. Holds the circuit breaker of each engine."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, ChatEngine],
        clock: Clock,
        meters: Meters | None = None,
        spans: Spans | None = None,
        stand_ins: StandIns | None = None,
    ) -> None:
        self._stand_ins = stand_ins or StandIns(catalog)
        self.meters = meters or Meters()
        self.spans = spans
        self._catalog = catalog
        self._engines = engines
        self.clock = clock
        self._configured: dict[tuple[str, ...], list[ChatEngine]] = {}
        #: By engine name.
        self.breakers = {name: _breaker_for(name, catalog.engines.get(name)) for name in engines}
        self.fallbacks = SummedLog(log, logging.INFO, FALLBACKS)
        self.rate_limits = SummedLog(log, logging.WARNING, RATE_LIMITS)

    def on_catalog_change(self, changed: Iterable[str]) -> None:
        """Choose anew after the catalog was replaced. Engines that changed get a closed circuit breaker.

        Those of removed engines stay, for responses in flight.
        """
        self._configured.clear()
        for name in changed:
            self.breakers[name] = _breaker_for(name, self._catalog.engines.get(name))

    def retries(self, name: str) -> int:
        """Return how often one request may be retried with this engine."""
        entry = self._catalog.engines.get(name)
        return entry.retries if entry is not None else 0

    def candidates(self, model: ChatModel) -> list[ChatEngine]:
        """Return the model's configured upstreams in order, or the first ready engine if there is no upstream."""
        configured = self._configured.get(model.engines)
        if configured is not None:
            return configured
        usable: list[ChatEngine] = []
        for name in model.engines:
            engine = self._engines[name]
            is_upstream = self._catalog.engines[name].is_upstream
            # Skip embedded engines once an upstream is usable: checking their readiness reads files.
            if (usable and not is_upstream) or self.why_not(name, model.name) is not None:
                continue
            if is_upstream:
                usable.append(engine)
            elif not usable:
                return [engine]
        if usable:
            # Cache only upstreams: their keys and URLs do not change, but an embedded engine's readiness may.
            self._configured[model.engines] = usable
        return usable

    def why_not(self, engine: str, model: str) -> str | None:
        """Return None if the engine can serve this model, else the reason and the remedy, for the operator."""
        return self._stand_ins.why_refused(engine, model) or self._engines[engine].why_not_ready()

    def why_none(self, model: ChatModel) -> str:
        """Return for each engine of the model why it does not serve it, for the operator."""
        return "; ".join(f"{name}: {self.why_not(name, model.name)}" for name in model.engines)

    def choose(
        self, model: ChatModel, check: Check, account_id: int = 0, engines: list[ChatEngine] | None = None
    ) -> Route:
        """Return the engines to try for this account, in order: of `engines`, or else of all candidates.

        `check` raises InvalidRequest for an engine that lacks a capability.

        Raises InvalidRequest if no engine can serve the request, and EngineRateLimited or Overloaded if none is
        available now.
        """
        if engines is None:
            engines = self.candidates(model)
        if not engines:
            self._stand_ins.unavailable.add(model.name, self.why_none(model))
            raise Overloaded(f"{model.name} is not available at the moment.", retry_after_s=30)
        now_s = self.clock.steady_s()
        if len(engines) == 1 and self.breakers[engines[0].name].is_closed:
            check(engines[0])
            engines[0].check_capacity()
            return Route(self, model.name, engines, now_s, account_id)
        capable = self._with_capacity(self.available(_capable(engines, check), model.name, account_id, now_s))
        return Route(self, model.name, capable, now_s, account_id)

    def available(self, engines: list[ChatEngine], model: str, account_id: int, now_s: float) -> list[ChatEngine]:
        """Return the engines that allow a request of this account now.

        Raises EngineRateLimited or Overloaded if there is none.
        """
        waits = {engine.name: self.breakers[engine.name].wait_s(model, account_id, now_s) for engine in engines}
        available = [engine for engine in engines if waits[engine.name] == 0]
        if available:
            return available
        name = min(waits, key=waits.__getitem__)
        wait_s = max(1, round(waits[name] + 0.5))
        if self.breakers[name].is_limited(model, now_s):
            raise EngineRateLimited(f"{model} is rate limited now; retry in {wait_s} s", retry_after_s=wait_s)
        raise Overloaded(
            f"{model} is temporarily unavailable after repeated failures; retry in {wait_s} s", retry_after_s=wait_s
        )

    def _with_capacity(self, engines: list[ChatEngine]) -> list[ChatEngine]:
        """Return the engines with a free slot, then those with a place in the queue. Overloaded if all are full."""
        accepting, refusal = [], None
        for engine in engines:
            try:
                engine.check_capacity()
            except Overloaded as full:
                refusal = refusal or full
            else:
                accepting.append(engine)
        if refusal is not None and not accepting:
            raise refusal
        return sorted(accepting, key=lambda engine: engine.is_busy())


def _capable(engines: list[ChatEngine], check: Check) -> list[ChatEngine]:
    capable, refusal = [], None
    for engine in engines:
        try:
            check(engine)
        except InvalidRequest as unsupported:
            refusal = refusal or unsupported
        else:
            capable.append(engine)
    if refusal is not None and not capable:
        raise refusal
    return capable


def _breaker_for(name: str, entry: EngineEntry | None) -> CircuitBreaker:
    if entry is None or not entry.is_upstream:
        return CircuitBreaker(name, failure_threshold=0, cooldown_s=1.0)
    return CircuitBreaker(name, failure_threshold=entry.cooldown_after, cooldown_s=entry.cooldown_s)


def encode_attempts(attempts: list[EngineAttempt]) -> str | None:
    """Encode the attempts for the generation's row. None if the first attempt succeeded."""
    return msgspec.json.encode(attempts).decode() if attempts else None
