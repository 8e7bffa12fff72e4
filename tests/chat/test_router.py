"""Unit tests of chat/router.py: the order of engines, retries, backoff, and engines with an open circuit."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from minitoolai.chat.circuit_breaker import MAX_ACCOUNTS
from minitoolai.chat.router import MAX_RETRY_WAIT_S, Check, Route, Router, encode_attempts
from minitoolai.core.catalog.catalog import Catalog, ChatModel, EngineEntry
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.errors import (
    ClientLeft,
    EngineBroken,
    EngineError,
    EngineFull,
    EngineRateLimited,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    Overloaded,
    ServiceError,
)
from minitoolai.core.models import EngineAttempt
from minitoolai.core.telemetry.meters import Meters
from minitoolai.engines.chat.fake import FakeEngine
from minitoolai.engines.concurrency import ConcurrencyLimit
from tests.support.books import FixedClock
from tests.support.scripted_chats import SILENCE, Answer, Attempt, ScriptedEngine, SetUp, leaves, stream

WORKS = Attempt(*stream("Saturn."))


def fails(error: ServiceError, after_s: float = 0.0) -> Attempt:
    """Return an attempt that fails before its response begins."""
    return Attempt(opening=(after_s, error))


def broke() -> EngineError:
    return EngineError("it broke")


def hasty(retry_after_s: int | None = None) -> EngineRateLimited:
    """Return the error for a 429; with Retry-After it concerns every request for the model."""
    return EngineRateLimited("slow down", retry_after_s=retry_after_s, rests_model=retry_after_s is not None)


class Embedded(ScriptedEngine):
    """An engine that is no upstream and is ready if a test says so."""

    reason: str | None = None

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.entry = EngineEntry(kind="fake")
        self.asked_whether_ready = 0

    def why_not_ready(self) -> str | None:
        self.asked_whether_ready += 1
        return self.reason


def accept(engine: object) -> None:
    """Every engine supports the request."""


def only(*names: str) -> Check:
    """Return a check that refuses all engines but these."""

    def check(engine: object) -> None:
        assert isinstance(engine, FakeEngine)
        if engine.name not in names:
            raise InvalidRequest(f"{engine.name} cannot do this")

    return check


class Paths:
    """A router for one model with these engines, and a clock that a test moves."""

    def __init__(self, *engines: ScriptedEngine) -> None:
        self.clock = FixedClock()
        self.meters = Meters()
        names = tuple(one.name for one in engines)
        self.model = ChatModel("model", Prices.of_nano(150, 600), 128_000, 4096, names, None)
        catalog = Catalog({one.name: one.entry for one in engines}, {"model": self.model})
        self.router = Router(catalog, {one.name: one for one in engines}, self.clock, self.meters)

    def choose(self, check: Check = accept, account: int = 1) -> Route:
        return self.router.choose(self.model, check, account)

    def fail(self, error: ServiceError, *, account: int = 1, times: int = 1) -> None:
        """Let requests of this account fail at the first engine that allows them."""
        for _ in range(times):
            route = self.choose(account=account)
            route.start_attempt()
            route.end_attempt(error)

    def names(self, check: Check = accept) -> list[str]:
        """Return the engines that a request would be sent to, one after the other."""
        route = self.choose(check)
        found = []
        while True:
            route.start_attempt()
            found.append(route.engine.name)
            following = route.next_engine()
            if following is None:
                return found
            route.engine = following


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_upstreams_are_tried_in_the_order_of_the_catalog() -> None:
    assert Paths(*map(ScriptedEngine, "cab")).names() == ["c", "a", "b"]


def test_an_upstream_without_a_key_is_skipped_and_embedded_engines_follow_no_upstream() -> None:
    keyless, embedded = Embedded("keyless"), Embedded("embedded")
    keyless.entry, keyless.reason = EngineEntry(kind="upstream"), "no key"
    assert Paths(keyless, ScriptedEngine("a"), embedded, ScriptedEngine("b")).names() == ["a", "b"]
    # Checking whether an embedded engine is ready reads files.
    assert embedded.asked_whether_ready == 0


def test_without_a_usable_upstream_the_first_embedded_engine_that_is_ready_serves_alone() -> None:
    keyless, absent, ready, other = (Embedded(name) for name in ("keyless", "absent", "ready", "other"))
    keyless.entry, keyless.reason, absent.reason = EngineEntry(kind="upstream"), "no key", "no file"
    paths = Paths(keyless, absent, ready, other, ScriptedEngine("late"))
    assert paths.names() == ["ready"]
    # Its readiness may change at any time.
    ready.reason = "its file was deleted"
    assert paths.names() == ["other"]


def test_an_embedded_engine_never_rests() -> None:
    paths = Paths(Embedded("local"))
    paths.fail(EngineUnavailable("it crashed"), times=20)
    assert paths.names() == ["local"]


async def choose_in_loop(paths: Paths) -> None:
    """Choose where a refusal can be counted for the log."""
    paths.choose()


def test_a_model_without_a_ready_engine_is_overloaded_and_the_operator_knows_why() -> None:
    first, second = Embedded("first"), Embedded("second")
    first.reason, second.reason = "no key: set KEY", "no file"
    paths = Paths(first, second)
    with pytest.raises(Overloaded, match=r"^model is not available at the moment\.$") as caught:
        asyncio.run(choose_in_loop(paths))
    assert paths.router.why_none(paths.model) == "first: no key: set KEY; second: no file"
    assert caught.value.retry_after_s == 30


def test_engines_that_lack_a_capability_are_left_out() -> None:
    paths = Paths(*map(ScriptedEngine, "abc"))
    assert paths.names(only("b", "c")) == ["b", "c"]
    with pytest.raises(InvalidRequest, match="a cannot do this"):
        paths.choose(only())


def test_a_single_engine_that_lacks_a_capability_refuses_the_request() -> None:
    with pytest.raises(InvalidRequest, match="a cannot do this"):
        Paths(ScriptedEngine("a")).choose(only())


def test_idle_engines_come_before_busy_ones_and_full_ones_are_left_out() -> None:
    limits = {"full": ConcurrencyLimit(1, 0, "full"), "busy": ConcurrencyLimit(1, 1, "busy")}
    engines = [ScriptedEngine(name, slots=limits.get(name)) for name in ("full", "busy", "idle")]
    paths = Paths(*engines)

    async def occupy() -> None:
        for limit in limits.values():
            await limit.acquire()

    asyncio.run(occupy())
    assert paths.names() == ["idle", "busy"]


@pytest.mark.parametrize("count", [1, 2])
def test_if_every_queue_is_full_the_request_is_refused_with_the_first_reason(count: int) -> None:
    engines = [ScriptedEngine(name, slots=ConcurrencyLimit(0, 0, name)) for name in "ab"[:count]]
    with pytest.raises(EngineFull, match="the engine is at capacity") as caught:
        Paths(*engines).choose()
    assert caught.value.retry_after_s == 2


@pytest.mark.parametrize(
    ("fetches", "plain", "expected"),
    [((True, True), (False, False), (True, False)), ((True, False), (False, True), (False, True))],
)
def test_images_are_prepared_for_every_engine_that_may_get_the_request(
    fetches: tuple[bool, bool], plain: tuple[bool, bool], expected: tuple[bool, bool]
) -> None:
    engines = [ScriptedEngine(name) for name in "ab"]
    for engine, one, other in zip(engines, fetches, plain, strict=True):
        engine.fetches_images, engine.plain_images = one, other
    route = Paths(*engines).choose()
    assert (route.fetches_images, route.plain_images) == expected


# ── open circuits and rate limits ─────────────────────────────────────────────────────────────────────────


def resting(name: str, **entry: object) -> ScriptedEngine:
    """Return an upstream whose circuit opens at the first failure that no request can cause."""
    return ScriptedEngine(name, cooldown_after=1, cooldown_s=10.0, **entry)  # type: ignore[arg-type]


def test_an_engine_that_cannot_be_reached_is_skipped_until_its_cooldown_is_over() -> None:
    paths = Paths(resting("a"), resting("b"))
    paths.fail(EngineUnavailable("no connection"))
    assert paths.names() == ["b"]
    paths.clock.forward(10.1)
    assert paths.names()[0] == "a"


def test_a_threshold_of_zero_keeps_the_circuit_closed() -> None:
    paths = Paths(ScriptedEngine("a", cooldown_after=0))
    paths.fail(EngineUnavailable("no connection"), times=5)
    assert paths.names() == ["a"]


def test_a_request_is_refused_with_the_shortest_wait_if_every_circuit_is_open() -> None:
    paths = Paths(ScriptedEngine("a", cooldown_after=1, cooldown_s=30.0), resting("b"))
    paths.fail(EngineUnavailable("no connection"), times=2)
    paths.clock.forward(2.5)
    message = "model is temporarily unavailable after repeated failures; retry in 8 s"
    with pytest.raises(Overloaded, match=message) as caught:
        paths.choose()
    assert caught.value.retry_after_s == 8


def test_a_retry_after_concerns_the_model_and_is_told_to_other_callers_in_whole_seconds() -> None:
    async def work() -> None:
        paths = Paths(resting("a"))
        paths.fail(hasty(20))
        paths.clock.forward(0.6)
        with pytest.raises(EngineRateLimited, match="model is rate limited now; retry in 20 s") as caught:
            paths.choose(account=2)
        assert caught.value.retry_after_s == 20
        paths.clock.forward(19.3)
        with pytest.raises(EngineRateLimited) as caught:
            paths.choose()
        assert caught.value.retry_after_s == 1
        paths.clock.forward(0.2)
        assert paths.names() == ["a"]

    # Rests are summed in the log by a timer of the event loop.
    asyncio.run(work())


def test_a_request_that_was_chosen_before_a_circuit_opened_goes_to_the_next_engine() -> None:
    paths = Paths(resting("a"), resting("b"))
    route = paths.choose()
    paths.fail(EngineUnavailable("no connection"), account=2)
    paths.clock.forward(0.5)
    route.start_attempt()
    assert (route.engine.name, route.fallback_engine) == ("b", "b")
    # Its record says so, although the first engine never got this request.
    route.end_attempt(broke())
    assert route.attempts == [EngineAttempt("b", "upstream_error", 500, 0)]
    assert route.next_engine() is None


def test_a_request_that_was_chosen_before_all_circuits_opened_is_refused() -> None:
    paths = Paths(resting("a"))
    route = paths.choose()
    paths.fail(EngineUnavailable("no connection"), account=2)
    with pytest.raises(Overloaded, match="model is temporarily unavailable"):
        route.start_attempt()
    # It was not sent, so it is no attempt.
    route.end_attempt(ClientLeft("gone"))
    assert route.attempts == []


def test_one_request_probes_after_the_cooldown_and_its_outcome_decides_for_all() -> None:
    paths = Paths(resting("a"))
    paths.fail(EngineUnavailable("no connection"))
    paths.clock.forward(10.1)
    probe = paths.choose(account=2)
    probe.start_attempt()
    with pytest.raises(Overloaded):
        paths.choose(account=3)
    probe.end_attempt(None)
    assert paths.choose(account=3).engine.name == "a"


def test_a_probe_that_its_client_abandons_leaves_the_next_request_to_probe() -> None:
    paths = Paths(resting("a"))
    paths.fail(EngineUnavailable("no connection"))
    paths.clock.forward(10.1)
    probe = paths.choose(account=2)
    probe.start_attempt()
    probe.end_attempt(ClientLeft("gone"))
    second = paths.choose(account=3)
    second.start_attempt()
    second.end_attempt(EngineUnavailable("no connection"))
    with pytest.raises(Overloaded):
        paths.choose(account=4)


def test_clients_that_leave_do_not_open_the_circuit() -> None:
    paths = Paths(ScriptedEngine("a", cooldown_after=1))
    for account in range(20):
        paths.fail(ClientLeft("gone"), account=account)
    assert paths.meters.failures == {}
    assert paths.names() == ["a"]


def test_a_success_ends_a_row_of_failures() -> None:
    paths = Paths(ScriptedEngine("a", cooldown_after=1))
    for _ in range(30):
        paths.fail(broke(), times=2)
        route = paths.choose()
        route.start_attempt()
        route.end_attempt(None)
    assert paths.names() == ["a"]
    assert paths.meters.failures == {("a", "upstream_error"): 60}


def test_only_the_first_end_of_an_attempt_counts() -> None:
    paths = Paths(ScriptedEngine("a"))
    route = paths.choose()
    # Before it starts, there is nothing to end.
    route.end_attempt(broke())
    route.start_attempt()
    route.end_attempt(broke())
    route.end_attempt(EngineTimeout("late"))
    assert [attempt.error_code for attempt in route.attempts] == ["upstream_error"]
    assert paths.meters.failures == {("a", "upstream_error"): 1}


def test_accounts_are_forgotten_after_a_while_so_that_memory_is_bounded() -> None:
    paths = Paths(ScriptedEngine("a", cooldown_after=5))
    for account in range(MAX_ACCOUNTS + 100):
        paths.clock.forward(1)
        paths.choose(account=account).start_attempt()
    assert len(paths.router.breakers["a"].seen) <= MAX_ACCOUNTS


# ── retries ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("error", [broke(), hasty(), hasty(0), Overloaded("busy", retry_after_s=1)])
def test_a_failure_that_was_not_billed_is_retried_as_often_as_the_catalog_says(
    set_up: SetUp, retries: int, error: ServiceError
) -> None:
    a = ScriptedEngine("a", fails(error), retries=retries, total_s=100.0)
    answer = set_up(a).answer()
    assert len(a.asked_s) == 1 + retries
    assert answer.attempts == [("a", error.code)] * (1 + retries)
    assert answer.code == error.code


@pytest.mark.parametrize(
    "error",
    [
        EngineTimeout("late"),
        EngineBroken("broke off"),
        EngineRefused("no"),
        EngineRateLimited("too large", retry_after_s=1, rests_model=True, is_size=True),
    ],
)
def test_a_failure_that_may_be_billed_or_would_repeat_is_not_retried(set_up: SetUp, error: ServiceError) -> None:
    a = ScriptedEngine("a", fails(error), retries=3)
    assert set_up(a).answer().code == error.code
    assert len(a.asked_s) == 1


def test_a_refusal_of_the_request_does_not_fail_over(set_up: SetUp) -> None:
    a, b = ScriptedEngine("a", fails(EngineRefused("no such field"))), ScriptedEngine("b", WORKS)
    answer = set_up(a, b).answer()
    assert (answer.code, answer.attempts, b.asked_s) == ("invalid_request", [("a", "invalid_request")], [])


def test_every_engine_is_tried_before_one_is_retried(set_up: SetUp) -> None:
    a = ScriptedEngine("a", fails(broke()), WORKS)
    b, c = ScriptedEngine("b", fails(EngineTimeout("late"))), ScriptedEngine("c", fails(broke()))
    answer = set_up(a, b, c).answer()
    assert answer.attempts == [
        ("a", "upstream_error"), ("b", "upstream_timeout"), ("c", "upstream_error"), ("a", None),
    ]  # fmt: skip
    assert answer.row["engine"] == "a"


def test_an_engine_that_used_up_its_retries_leaves_them_to_the_next(set_up: SetUp) -> None:
    a, b = ScriptedEngine("a", fails(broke()), retries=0), ScriptedEngine("b", fails(broke()), WORKS, retries=1)
    answer = set_up(a, b).answer()
    assert [name for name, _ in answer.attempts] == ["a", "b", "b"]
    assert answer.code is None


def test_a_rate_limit_of_one_request_is_retried_there_before_the_next_engine(set_up: SetUp) -> None:
    a = ScriptedEngine("a", fails(hasty()), retries=2)
    answer = set_up(a, ScriptedEngine("b", WORKS)).answer()
    assert answer.attempts == [("a", "rate_limit_exceeded")] * 3 + [("b", None)]


def test_a_rate_limit_with_retry_after_goes_to_the_next_engine_at_once(set_up: SetUp) -> None:
    a, b = ScriptedEngine("a", fails(hasty(2)), retries=2), ScriptedEngine("b", WORKS)
    answer = set_up(a, b).answer()
    assert answer.attempts == [("a", "rate_limit_exceeded"), ("b", None)]
    assert b.asked_s[0] < 0.1


@pytest.mark.parametrize(
    ("retry_after_s", "waits"), [(int(MAX_RETRY_WAIT_S), True), (int(MAX_RETRY_WAIT_S) + 1, False)]
)
@pytest.mark.parametrize("kind", ["rate limit", "overloaded"])
def test_a_short_retry_after_is_waited_for_and_a_long_one_is_returned(
    set_up: SetUp, retry_after_s: int, waits: bool, kind: str
) -> None:
    error: ServiceError = Overloaded("busy", retry_after_s=retry_after_s)
    if kind == "rate limit":
        error = hasty(retry_after_s)
    a = ScriptedEngine("a", fails(error), WORKS)
    answer = set_up(a).answer()
    if waits:
        assert answer.code is None
        assert retry_after_s + 0.05 <= a.asked_s[1] - a.asked_s[0] <= retry_after_s + 0.61
        return
    assert answer.error is error
    assert len(a.asked_s) == 1
    assert answer.ended_s < 0.1


def test_a_retry_waits_for_a_rate_limit_that_another_request_caused(set_up: SetUp) -> None:
    a = ScriptedEngine("a", fails(broke(), 0.2), fails(hasty(2)), WORKS, cooldown_after=5)
    answers: list[Answer] = []
    stage = set_up(a)

    async def scenario() -> None:
        answers.extend(await asyncio.gather(stage.ask(), stage.ask()))

    stage.play(scenario)
    assert [answer.code for answer in answers] == [None, None]
    assert min(a.asked_s[2:]) >= 2.0


@pytest.mark.parametrize("error", [broke(), hasty()])
def test_the_wait_before_a_retry_is_random_and_its_most_doubles_each_time(set_up: SetUp, error: ServiceError) -> None:
    a = ScriptedEngine("a", fails(error), retries=3, total_s=100.0)
    gaps: list[list[float]] = [[], [], []]
    stage = set_up(a)

    async def scenario() -> None:
        for _ in range(60):
            before = len(a.asked_s)
            await stage.ask()
            asked = a.asked_s[before:]
            for gap, (first, second) in zip(gaps, itertools.pairwise(asked), strict=True):
                gap.append(second - first)

    stage.play(scenario)
    for number, found in enumerate(gaps, start=1):
        most = 0.3 * 2**number
        assert min(found) >= 0.05 - 1e-6
        assert max(found) <= most + 1e-6
        # Of 60 random waits, none is above 80 % of the most once in a million times.
        assert max(found) > 0.8 * most


def test_the_record_has_the_start_and_the_duration_of_every_attempt(set_up: SetUp) -> None:
    a, b = ScriptedEngine("a", fails(EngineTimeout("late"), 0.4)), ScriptedEngine("b", Attempt(0.3, *stream("Saturn.")))
    stage = set_up(a, b)
    first, second = json.loads(stage.answer().row["attempts"])
    assert first == {"engine": "a", "error_code": "upstream_timeout", "after_ms": 0, "took_ms": 400}
    assert (second["engine"], second["error_code"], second["after_ms"]) == ("b", None, 400)
    assert 300 <= second["took_ms"] <= 320
    assert stage.meters.failures == {("a", "upstream_timeout"): 1}


def test_a_first_attempt_that_succeeds_is_not_recorded(set_up: SetUp) -> None:
    answer = set_up(ScriptedEngine("a", WORKS)).answer()
    assert (answer.row["attempts"], answer.row["engine"]) == (None, "a")
    assert encode_attempts([]) is None


def test_a_client_that_leaves_is_recorded_as_an_attempt_without_fault_of_the_engine(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(SILENCE)))
    answers: list[Answer] = []

    async def scenario() -> None:
        answers.append(await stage.ask(prepare=leaves(0.5)))

    stage.play(scenario)
    assert answers[0].attempts == [("a", "client_left")]
    assert stage.meters.failures == {}
