"""HTTP endpoint of chats: a bare ASGI app per dialect, streaming server-sent events (SSE).

This is the hot path: read docs/performance.md before adding to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.chat.request import DialectName, parse_chat
from minitoolai.chat.run import ChatRun
from minitoolai.chat.service import ChatService
from minitoolai.core.errors import ClientLeft, InvalidRequest, ServiceError
from minitoolai.core.in_flight import RunFailure
from minitoolai.core.inference import ChatRequest
from minitoolai.core.request_fields import header_of_names
from minitoolai.http.asgi import JSON, Headers, Receive, Scope, Send, header, respond, respond_error
from minitoolai.http.auth import authenticate
from minitoolai.http.bodies.bodies import BodyLimits, read_parsed
from minitoolai.http.errors import error_body, last_event
from minitoolai.http.exchanges import RECORDING, record
from minitoolai.http.request_context import set_generation
from minitoolai.http.serving.fast_path import DisconnectWatcher
from minitoolai.http.streaming import (
    EVENT_STREAM,
    StreamRun,
    StreamWriter,
    announced,
    method_not_allowed,
    run_and_charge,
    stream_with_errors,
    watch_disconnect,
)

# ── dialects: the request and response formats of a chat ──────────────────────────────────────────────────


class DialectRun(StreamRun, Protocol):
    """Chat run with its output in the format of a dialect."""

    async def read_whole(self) -> bytes:
        """Return the body of a response that is not streamed."""


class Dialect(Protocol):
    """Request and response format of one API, such as OpenAI's responses."""

    #: Errors have the format of this path: "" for OpenAI's.
    path: str

    def parse(self, body: bytes) -> ChatRequest:
        """Return the validated request. InvalidRequest names the field."""

    def adapt(self, run: ChatRun) -> DialectRun:
        """Return the run with its output in this format."""

    def map_error(self, error: ServiceError) -> ServiceError:
        """Translate the field names in an error to those of this format."""

    def error_frame(self, adapted: DialectRun, error: ServiceError) -> bytes:
        """Return the event that ends a stream which failed after it began."""


class OpenAIErrors:
    """The errors of a dialect in OpenAI's format."""

    path = ""

    def map_error(self, error: ServiceError) -> ServiceError:
        return error

    def error_frame(self, adapted: DialectRun, error: ServiceError) -> bytes:
        return last_event(error, self.path)


class ChatDialect(OpenAIErrors):
    """Format of chat completions, ours or OpenAI's. Needs no translation."""

    def __init__(self, dialect: DialectName) -> None:
        self._dialect: DialectName = dialect

    def parse(self, body: bytes) -> ChatRequest:
        return parse_chat(body, self._dialect)

    def adapt(self, run: ChatRun) -> DialectRun:
        return run


class DialectTranslator(Protocol):
    """Translator of chat events and completions to another format."""

    def events(self, block: bytes) -> bytes:
        """Translate whole chat events. May return nothing."""

    def final_events(self, block: bytes) -> bytes:
        """Translate the usage chunk and the end of the stream."""

    def completion(self, body: bytes) -> bytes:
        """Translate a completion that is not streamed."""


class DialectAdapter:
    """Chat run that translates its output. Charging and timeouts stay with the inner run."""

    def __init__(self, run: ChatRun, translator: DialectTranslator) -> None:
        self.run = run
        self.translator = translator
        self.name = run.name
        self.cancellation = run.cancellation

    async def open(self) -> None:
        await self.run.open()

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        def write_translated(block: bytes) -> Awaitable[None] | None:
            events = self.translator.events(block)
            return write(events) if events else None

        await self.run.flow(write_translated)

    async def read_whole(self) -> bytes:
        return self.translator.completion(await self.run.read_whole())

    async def count_output(self) -> None:
        await self.run.count_output()

    def final_events(self) -> bytes:
        return self.translator.final_events(self.run.final_events())

    async def charge(self, *, within_s: float) -> None:
        await self.run.charge(within_s=within_s)

    def finish(self, error: ServiceError | None = None) -> None:
        self.run.finish(error)

    async def close(self, error: ServiceError | None = None) -> None:
        await self.run.close(error)

    def describe_failure(self, error: ServiceError) -> RunFailure:
        return self.run.describe_failure(error)

    def stop(self, reason: ServiceError) -> None:
        self.run.stop(reason)


# ── endpoint ──────────────────────────────────────────────────────────────────────────────────────────────


class ChatEndpoint:
    """ASGI app for POST to one path, such as `/api/chat-completions/` or `/v1/chat/completions`, in its dialect."""

    def __init__(self, chats: ChatService, keys: KeyVerifier, dialect: Dialect, limits: BodyLimits) -> None:
        self._chats = chats
        self._keys = keys
        self._dialect = dialect
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: ChatRequest | None = None
        try:
            if scope["method"] != "POST":
                await refuse_method(scope, send, self._dialect.path)
                return
            caller = await authenticate(scope, self._keys)
            if caller.body_days and RECORDING not in scope:
                await record(self, self._keys, caller, scope, receive, send)
                return
            request = await read_parsed(self._dialect.parse, scope, receive, self.limits)
            run = await self._chats.begin(caller, request)
        except ClientLeft:
            return
        except ServiceError as error:
            if request is not None and error.is_fault:
                self._chats.count_refusal(request, error)
            await respond_error(send, self._dialect.map_error(error), [], self._dialect.path)
            return
        run.cancellation.arm()
        set_generation(scope, run.name)
        if request.stream:
            await stream(run, self._dialect, receive, send)
        else:
            await respond_whole(run, self._dialect, receive, send)


async def refuse_method(scope: Scope, send: Send, path: str) -> None:
    """Send a 405, or a 426 to a client that requests a WebSocket: Codex then immediately sends the request by POST."""
    if header(scope, b"upgrade").lower() != b"websocket":
        await method_not_allowed(send, path)
        return
    error = InvalidRequest("WebSockets are not supported here. Send the request by POST.", code="method_not_allowed")
    await respond(send, 426, error_body(error), [JSON, (b"upgrade", b"HTTP/1.1"), (b"connection", b"upgrade")])


async def stream(run: ChatRun, dialect: Dialect, receive: Receive, send: Send) -> None:
    """Run a chat that is armed, and stream its response."""
    out = StreamWriter(send, [*EVENT_STREAM, *headers_of(run)])
    run.output = out
    if run.request.preferences is not None:
        run.on_new_model = lambda: out.replace_headers([*EVENT_STREAM, *headers_of(run)])
    adapted = dialect.adapt(run)
    # An error ends the stream without `[DONE]`.
    error_event = partial(dialect.error_frame, adapted)
    error = await stream_with_errors(adapted, out, receive, error_event, run.reservation.recorder)
    if error is not None:
        await respond_error(send, dialect.map_error(error), headers_of(run), dialect.path)


async def respond_whole(run: ChatRun, dialect: Dialect, receive: Receive, send: Send) -> None:
    """Run a chat that is armed, and send its response as a whole."""
    adapted = dialect.adapt(run)
    work, recorder = adapted.read_whole, run.reservation.recorder
    if recorder is not None:
        work = partial(announced, work, recorder, lambda body: (body, [JSON, *headers_of(run)]))
    watchers: list[asyncio.Future[Any] | DisconnectWatcher] = []

    def watch() -> None:
        # Finish a response that is billed in any case: a repetition with the same Idempotency-Key gets it.
        if recorder is None or not run.engine.bills_after_cancel:
            watchers.append(watch_disconnect(run, receive))

    # Most completions arrive within half a second, so watch for a disconnect only in a slower response.
    run.on_slow = watch
    try:
        result = await run_and_charge(adapted, work)
    finally:
        # Break the reference cycle, which only the garbage collector could free.
        run.on_slow = None
        for watcher in watchers:
            watcher.cancel()
    if isinstance(result, bytes):
        await respond(send, 200, result, [JSON, *headers_of(run)])
    elif result is not None and not isinstance(result, ClientLeft):
        await respond_error(send, dialect.map_error(result), headers_of(run), dialect.path)


def headers_of(run: ChatRun) -> Headers:
    """Return the headers with the generation's ID and with changed or dropped fields."""
    headers = [(b"x-generation-id", run.name.encode())]
    if run.request.clamped:
        headers.append((b"x-max-completion-tokens", str(run.reservation.units).encode()))
    if run.request.dropped:
        headers.append((b"x-dropped-fields", header_of_names(run.request.dropped)))
    if run.request.dropped_tools:
        headers.append((b"x-dropped-tools", header_of_names(run.request.dropped_tools)))
    return headers
