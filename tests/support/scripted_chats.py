"""Run chats in virtual time with engines that follow a script. Service, router, charging and database are real."""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from typing import Any

from minitoolai.billing.charging import Charging
from minitoolai.chat.run import ChatRun
from minitoolai.chat.service import ChatService
from minitoolai.core.catalog.catalog import Catalog, ChatModel, EngineEntry
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.errors import ClientLeft, EngineError, ServiceError
from minitoolai.core.in_flight import InFlight
from minitoolai.core.inference import ChatRequest
from minitoolai.core.models import Caller
from minitoolai.engines.chat.fake import FakeEngine
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.http.streaming import run_and_charge
from minitoolai.ledger.rules import decide
from minitoolai.storage.writer import Writer
from tests.support import manners
from tests.support.ask import events
from tests.support.books import TemporaryBooks
from tests.support.virtual import VirtualClock, VirtualLoop

PRICE_IN, PRICE_OUT = 150, 600
MODEL = "model"
CREDIT = 5_000_000_000
WORDS = ("Saturn ", "has ", "most ", "moons.")
TEXT = "".join(WORDS)
#: The cost of a response of these words with the usage that `stream` and `completion` report.
COST = manners.PROMPT_TOKENS * PRICE_IN + len(WORDS) * PRICE_OUT
#: Our own count of the prompt of `Stage.request`.
PROMPT = 6
#: Time that passes before a scenario begins: no code may rely on a clock that starts at 0.
START_S = 1000.0
#: The writer commits this often. Its thread is replaced by a task, so that virtual time is deterministic.
_COMMIT_EVERY_S = 0.01
#: Wait for ever.
SILENCE = math.inf
#: What an engine does next: wait this many seconds, send these bytes, or fail with this error.
Step = float | bytes | ServiceError


# ── scripts ───────────────────────────────────────────────────────────────────────────────────────────────


def event(data: dict[str, Any]) -> bytes:
    """Return an event of a stream."""
    return b"data: " + json.dumps(data).encode() + b"\n\n"


ROLE = event(manners.chunk({"role": "assistant", "content": ""}))
FINISH = event(manners.chunk({}, finish="stop"))
DONE = b"data: [DONE]\n\n"
COMMENT = b": still here\n\n"


def word(text: str) -> bytes:
    """Return the event of one word."""
    return event(manners.chunk({"content": text}))


def usage_event(prompt: int, output: int, **more: Any) -> bytes:
    """Return the event that reports a usage."""
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output, **more}
    return event({**manners.head("chat.completion.chunk"), "choices": [], "usage": usage})


def stream(*words: str, usage: tuple[int, int] | None = None, every_s: float = 0.0) -> list[Step]:
    """Return the script of a complete stream. `usage`: the reported counts, if not one token per word."""
    prompt, output = usage or (manners.PROMPT_TOKENS, len(words))
    said: list[Step] = [step for text in words for step in (every_s, word(text))]
    return [ROLE, *said, FINISH, usage_event(prompt, output), DONE]


def without_usage(*words: str) -> list[Step]:
    """Return the script of a complete stream that reports no usage."""
    return [ROLE, *map(word, words), FINISH, DONE]


def completion(*words: str, with_usage: bool = True) -> bytes:
    """Return the body of a response that is sent whole."""
    return json.dumps(manners.completion(words, with_usage=with_usage)).encode()


# ── engines ───────────────────────────────────────────────────────────────────────────────────────────────


class Attempt:
    """What an engine does with one request: `opening` before the response begins, `steps` afterwards."""

    def __init__(self, *steps: Step, opening: tuple[Step, ...] = (), ignores_cancel: bool = False) -> None:
        self.steps = steps
        self.opening = opening
        #: The response begins even if it is cancelled while it opens, as if both crossed on the wire.
        self.ignores_cancel = ignores_cancel


class ScriptedResponse:
    """A response that follows a script. With `calls_back`, it offers callbacks as an upstream's connection does."""

    def __init__(self, steps: tuple[Step, ...], *, calls_back: bool, on_close: Callable[[], None]) -> None:
        self._calls_back = calls_back
        self._on_close = on_close
        self._ready: deque[bytes | ServiceError] = deque()
        self._is_over = False
        self._arrival = asyncio.Event()
        self._on_readable: Callable[[], None] | None = None
        self._on_chunk: Callable[[bytes], None] | None = None
        self.is_closed = False
        self._task = asyncio.ensure_future(self._play(steps))

    async def _play(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if isinstance(step, float):
                await wait(step)
            else:
                self.arrive(step)
        self._is_over = True
        self._announce()

    def arrive(self, data: bytes | ServiceError) -> None:
        """Receive bytes or an error from the engine now."""
        if isinstance(data, bytes) and self._on_chunk is not None and not self._ready:
            self._on_chunk(data)
            return
        self._ready.append(data)
        self._announce()

    def _announce(self) -> None:
        self._arrival.set()
        if self._on_readable is not None:
            self._on_readable()

    async def next_bytes(self) -> bytes:
        while (data := self.read_nowait()) is None:
            self._arrival.clear()
            await self._arrival.wait()
        return data

    def read_nowait(self) -> bytes | None:
        if not self._ready:
            return b"" if self._is_over else None
        data = self._ready.popleft()
        if isinstance(data, ServiceError):
            raise data
        return data

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        if self._calls_back:
            self._on_readable, self._on_chunk = on_readable, on_chunk
        return self._calls_back

    async def read(self) -> bytes:
        parts = []
        while data := await self.next_bytes():
            parts.append(data)
        return b"".join(parts)

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._on_close()
        self._task.cancel()


class ScriptedEngine(FakeEngine):
    """An upstream that follows one script per request; the last one is repeated."""

    token_events = False

    def __init__(
        self,
        name: str,
        *attempts: Attempt,
        first_s: float | None = None,
        total_s: float | None = None,
        slots: ConcurrencyLimit | None = None,
        prompt_tokens: int | None = None,
        calls_back: bool = True,
        **entry: Any,
    ) -> None:
        self.entry = EngineEntry(
            kind="upstream",
            first_token_timeout_s=first_s,
            total_timeout_s=total_s,
            **{"cooldown_after": 0, "complete_chunks": True, **entry},
        )
        super().__init__(name, self.entry)
        self.bills_after_cancel = self.entry.bills_after_cancel
        self.complete_chunks = self.entry.complete_chunks
        self._attempts = list(attempts) or [Attempt(*stream("Saturn."))]
        self._slots = slots
        self._prompt_tokens = prompt_tokens
        self._calls_back = calls_back
        #: When each request arrived, and its output limit.
        self.asked_s: list[float] = []
        self.limits: list[int] = []
        self.responses: list[ScriptedResponse] = []
        #: Requests that were cancelled before their response began.
        self.cancelled = 0

    def check_capacity(self) -> None:
        if self._slots is not None:
            self._slots.check_capacity()

    def is_busy(self) -> bool:
        return self._slots is not None and self._slots.is_busy

    async def count_prompt(self, request: ChatRequest) -> int | None:  # type: ignore[override]
        return self._prompt_tokens

    async def open(self, request: ChatRequest, limit: int) -> ScriptedResponse:  # type: ignore[override]
        attempt = self._attempts.pop(0) if len(self._attempts) > 1 else self._attempts[0]
        if self._slots is not None:
            request.waits = True
            await self._slots.acquire(on_wait=request.set_queue_place)
            request.waits, request.queue_place = False, None
        self.asked_s.append(asyncio.get_running_loop().time() - START_S)
        self.limits.append(limit)
        try:
            for step in attempt.opening:
                if isinstance(step, float):
                    await wait(step)
                elif isinstance(step, ServiceError):
                    raise step
        except asyncio.CancelledError:
            self.cancelled += 1
            if not attempt.ignores_cancel:
                self._release_slot()
                raise
        except ServiceError:
            self._release_slot()
            raise
        response = ScriptedResponse(attempt.steps, calls_back=self._calls_back, on_close=self._release_slot)
        self.responses.append(response)
        return response

    def _release_slot(self) -> None:
        if self._slots is not None:
            self._slots.release()


def narrow(*attempts: Attempt, **options: Any) -> ScriptedEngine:
    """Return an engine `a` that responds to one request at a time."""
    return ScriptedEngine("a", *attempts, slots=ConcurrencyLimit(1, 5, "a"), **options)


async def wait(seconds: float) -> None:
    """Sleep in virtual time, or for ever."""
    if seconds == SILENCE:
        await asyncio.Event().wait()
    await asyncio.sleep(seconds)


class CharacterTokenizer:
    """One token per character: its counts differ clearly from every estimate. Keeps what it counted."""

    def __init__(self) -> None:
        self.counted: list[str] = []

    def count(self, text: str) -> int:
        self.counted.append(text)
        return len(text)


# ── scenarios ─────────────────────────────────────────────────────────────────────────────────────────────


class _Loop(VirtualLoop):
    """Runs the work of thread pools immediately, so that virtual time does not pass meanwhile."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()

        def work() -> None:
            if not future.done():
                future.set_result(func(*args))

        self.call_soon(work)
        return future


class Answer:
    """What a caller received, when, and the error that ended it."""

    def __init__(self, books: TemporaryBooks, run: ChatRun) -> None:
        self._books = books
        self.run = run
        #: Each block with the seconds since the start of the scenario.
        self.blocks: list[tuple[float, bytes]] = []
        self.body = b""
        self.error: ServiceError | None = None
        self.ended_s = 0.0

    @property
    def events(self) -> list[Any]:
        """Return the events of a stream, decoded."""
        return events(b"".join(block for _, block in self.blocks).decode())

    @property
    def text(self) -> str:
        """Return the text of a stream."""
        chunks = [one for one in self.events if isinstance(one, dict)]
        return "".join(choice["delta"].get("content") or "" for one in chunks for choice in one["choices"])

    @property
    def message(self) -> str:
        """Return the text of a response that was sent whole."""
        return str(json.loads(self.body)["choices"][0]["message"]["content"])

    @property
    def code(self) -> str | None:
        """Return the code of the error that ended it."""
        return None if self.error is None else self.error.code

    @property
    def row(self) -> dict[str, Any]:
        """Return the generation in the database."""
        columns = (
            "state", "cost", "input_units", "output_units", "cached_units", "delivered_bytes", "estimated",
            "served_model", "error_code", "first_token_ms", "engine", "attempts", "purchase",
        )  # fmt: skip
        sql = f"SELECT {', '.join(columns)} FROM generations WHERE id = ?"
        (found,) = self._books.rows(sql, self.run.hold_id)
        return dict(zip(columns, found, strict=True))

    @property
    def attempts(self) -> list[tuple[str, str | None]]:
        """Return the engines that were asked, with their errors, as recorded for the operator."""
        return [(one["engine"], one["error_code"]) for one in json.loads(self.row["attempts"] or "[]")]


class Stage:
    """One model served by these engines in order, with 5 s to the first token and 60 s in total by default."""

    def __init__(self, books: TemporaryBooks, *engines: ScriptedEngine, costs: dict[tuple[str, str], Prices]) -> None:
        self.books = books
        self.engines = engines
        self.account = books.account(CREDIT)
        self.loop = _Loop()
        self.loop.pass_time(START_S)
        self.clock = VirtualClock(self.loop)
        self._writer = Writer(books.database, decide, steady_s=self.loop.time)
        self.charging = Charging(self._writer, self.clock)
        self.meters = self.charging.meters
        self.in_flight = InFlight(self.clock)
        model = ChatModel(
            MODEL, Prices.of_nano(PRICE_IN, PRICE_OUT), 128_000, 4096, tuple(one.name for one in engines), None
        )
        unused: Any = None
        self.service = ChatService(
            Catalog({one.name: one.entry for one in engines}, {MODEL: model}, upstream_costs=costs),
            {one.name: one for one in engines}, self.charging, self.clock, self.in_flight,
            first_token_timeout_s=5.0, total_timeout_s=60.0, image_inputs=unused,
        )  # fmt: skip

    def now_s(self) -> float:
        """Return the seconds since the start."""
        return self.loop.time() - START_S

    def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a scenario with the ticker and the writer, then wait until every run has ended and is charged."""

        async def work() -> None:
            helpers = [asyncio.ensure_future(self._write()), asyncio.ensure_future(self.in_flight.run_ticker())]
            try:
                await scenario()
                await self.all_ended()
            finally:
                for helper in helpers:
                    helper.cancel()

        with closing(self.loop):
            self.loop.run_until_complete(work())

    async def all_ended(self) -> None:
        """Wait until no run is in flight, also in the background, and every charge is written."""
        while self.in_flight.count() or any(self._writer.backlog()):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)

    async def _write(self) -> None:
        while True:
            self._writer.run_once(self.books.connection)
            await asyncio.sleep(_COMMIT_EVERY_S)

    def request(self, *, streams: bool = True, **options: Any) -> ChatRequest:
        """Return a request with a short prompt."""
        asked = {
            "messages": [{"role": "user", "content": "Hello there"}],
            "fields": {},
            "limit": None,
            "text_bytes": 11,
            **options,
        }
        return ChatRequest(MODEL, stream=streams, include_usage=True, **asked)

    async def begin(self, request: ChatRequest) -> ChatRun:
        """Place the hold and return the run, cancellable in this task."""
        run = await self.service.begin(Caller(self.account, "key000000001"), request)
        run.cancellation.arm()
        return run

    async def ask(
        self,
        request: ChatRequest | None = None,
        *,
        write: Callable[[bytes], Awaitable[None] | None] | None = None,
        prepare: Callable[[ChatRun], None] = lambda run: None,
    ) -> Answer:
        """Send a request and receive the response as the HTTP layer does. `prepare` gets the run before it opens."""
        request = request or self.request()
        run = await self.begin(request)
        answer = Answer(self.books, run)
        prepare(run)

        def receive(block: bytes) -> Awaitable[None] | None:
            assert block, "an empty block would count as output, and delay the next heartbeat"
            answer.blocks.append((self.now_s(), block))
            return write(block) if write is not None else None

        work: Callable[[], Awaitable[bytes | None]] = run.read_whole
        if request.stream:

            async def work() -> bytes | None:
                await run.flow(receive)
                return None

        result = await run_and_charge(run, work)
        if isinstance(result, ServiceError):
            answer.error = result
        elif request.stream:
            answer.blocks.append((self.now_s(), run.final_events()))
        else:
            answer.body = result or b""
        answer.ended_s = self.now_s()
        return answer

    def answers(self, *requests: ChatRequest) -> list[Answer]:
        """Send these requests one after the other and return what their caller received, once all is charged."""
        found: list[Answer] = []

        async def scenario() -> None:
            found.extend([await self.ask(request) for request in requests or [self.request()]])

        self.play(scenario)
        return found

    def answer(self, request: ChatRequest | None = None) -> Answer:
        """Send one request and return what its caller received, once it is charged."""
        return self.answers(*([] if request is None else [request]))[0]

    def spent(self) -> int:
        """Return what the account has paid."""
        return CREDIT - self.books.money(self.account).posted


def leaves(after_s: float) -> Callable[[ChatRun], None]:
    """Return a `prepare` for `Stage.ask` with which the client disconnects after so many seconds."""
    return stops(after_s, ClientLeft("The client disconnected."))


def stops(after_s: float, reason: ServiceError) -> Callable[[ChatRun], None]:
    """Return a `prepare` for `Stage.ask` with which the run is stopped after so many seconds."""

    def prepare(run: ChatRun) -> None:
        asyncio.get_running_loop().call_later(after_s, run.stop, reason)

    return prepare


#: Makes a stage; the fixture `set_up`.
SetUp = Callable[..., Stage]


def good(name: str = "b", **options: Any) -> ScriptedEngine:
    """Return an engine that responds at once."""
    return ScriptedEngine(name, Attempt(*stream(*WORDS)), **options)


def failed() -> EngineError:
    return EngineError("it broke")
