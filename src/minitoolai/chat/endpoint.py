"""The streaming hot path: a bare ASGI app, one for each form of a chat; see docs/performance.md before adding to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.chat.request import DialectName, parse_chat
from minitoolai.chat.run import ChatRun
from minitoolai.chat.service import ChatService
from minitoolai.core.errors import ClientLeft, ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.http.asgi import JSON, Headers, Receive, Scope, Send, read_json_body, respond, respond_error
from minitoolai.http.auth import authenticate
from minitoolai.http.errors import error_event, status_and_type
from minitoolai.http.request_context import name_work
from minitoolai.http.streaming import (
    EVENT_STREAM,
    StreamRun,
    StreamWriter,
    attempt,
    method_not_allowed,
    stream_response,
    watch_disconnect,
)

# (merged from forms) In which form a chat is asked for and answered: our own, OpenAI's, or one that is translated from and to it.


class DialectRun(StreamRun, Protocol):
    """A chat under way, as its caller hears it."""

    async def read_whole(self) -> bytes:
        """The answer that is not streamed."""


class Dialect(Protocol):
    """How bodies are read and answers are told."""

    def parse(self, body: bytes) -> ChatRequest:
        """The checked request; InvalidRequest names the field."""

    def speaker(self, run: ChatRun) -> DialectRun:
        """Who tells the caller of this run."""

    def retold(self, error: ServiceError) -> ServiceError:
        """The error in the words of this form."""

    def last_words(self, speaker: DialectRun, error: ServiceError) -> bytes:
        """What ends a stream that failed after it began."""


class ChatDialect:
    """Chats as they are: nothing is translated."""

    def __init__(self, dialect: DialectName) -> None:
        self._dialect: DialectName = dialect

    def parse(self, body: bytes) -> ChatRequest:
        return parse_chat(body, self._dialect)

    def speaker(self, run: ChatRun) -> DialectRun:
        return run

    def retold(self, error: ServiceError) -> ServiceError:
        return error

    def last_words(self, speaker: DialectRun, error: ServiceError) -> bytes:
        return error_event(error.message, kind=status_and_type(error)[1], code=error.code, param=error.param)


class DialectTranslator(Protocol):
    """Chat's events into another form's."""

    def events(self, block: bytes) -> bytes:
        """Whole events of a chat, retold; may be nothing."""

    def final_events(self, block: bytes) -> bytes:
        """The usage and the end, retold."""

    def whole(self, body: bytes) -> bytes:
        """A whole completion, retold."""


class DialectAdapter:
    """A chat under way that is told in another form. Money and time stay with the run inside."""

    def __init__(self, run: ChatRun, translator: DialectTranslator) -> None:
        self._run = run
        self.translator = translator
        self.name = run.name

    @property
    def task(self) -> asyncio.Task[object] | None:
        """Set while somebody may break the answer off by cancelling it."""
        return self._run.task

    @task.setter
    def task(self, task: asyncio.Task[object] | None) -> None:
        self._run.task = task

    @property
    def stop_reason(self) -> ServiceError | None:
        """Why it was broken off, if it was."""
        return self._run.stop_reason

    @stop_reason.setter
    def stop_reason(self, reason: ServiceError | None) -> None:
        self._run.stop_reason = reason

    async def open(self) -> None:
        await self._run.open()

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        def retell(block: bytes) -> Awaitable[None] | None:
            events = self.translator.events(block)
            return write(events) if events else None

        await self._run.flow(retell)

    async def read_whole(self) -> bytes:
        return self.translator.whole(await self._run.read_whole())

    def final_events(self) -> bytes:
        return self.translator.final_events(self._run.final_events())

    async def charge(self, *, within_s: float) -> None:
        await self._run.charge(within_s=within_s)

    def finish(self, error: ServiceError | None = None) -> None:
        self._run.finish(error)

    async def close(self, error: ServiceError | None = None) -> None:
        await self._run.close(error)

    def stop(self, reason: ServiceError) -> None:
        self._run.stop(reason)


class ChatEndpoint:
    """A POST to one service, in the form of its address, such as `/api/chat-completions/` or `/v1/chat/completions`."""

    def __init__(self, chats: ChatService, keys: KeyVerifier, form: Dialect) -> None:
        self._chats = chats
        self._keys = keys
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "POST":
                await method_not_allowed(send)
                return
            caller = await authenticate(scope, self._keys)
            request = self._form.parse(await read_json_body(scope, receive))
            run = await self._chats.begin(caller, request)
        except ClientLeft:
            return
        except ServiceError as error:
            await respond_error(send, self._form.retold(error), [])
            return
        run.task = asyncio.current_task()
        name_work(scope, run.name)
        if request.stream:
            await _stream(run, self._form, receive, send)
        else:
            await _whole(run, self._form, receive, send)


async def _stream(run: ChatRun, form: Dialect, receive: Receive, send: Send) -> None:
    out = StreamWriter(send, [*EVENT_STREAM, *_headers(run)])
    run.on_silence = out.break_silence
    speaker = form.speaker(run)
    error = await stream_response(speaker, out, receive)
    if error is None or isinstance(error, ClientLeft):
        return
    # As a status while nothing has been sent, else as the last event; never with `[DONE]`.
    if out.has_begun:
        await out.write(form.last_words(speaker, error), is_last=True)
    else:
        await respond_error(send, form.retold(error), _headers(run))


async def _whole(run: ChatRun, form: Dialect, receive: Receive, send: Send) -> None:
    speaker = form.speaker(run)
    watchers: list[asyncio.Future[Any]] = []
    # Most plain answers are there at once; only one that is not is worth a watch for callers who leave.
    run.on_slow = lambda: watchers.append(watch_disconnect(run, receive))
    try:
        told = await attempt(run, speaker.read_whole)
    finally:
        # It holds the run, and the run it: only the collector could free the two, and all that hangs on them.
        run.on_slow = None
        for watcher in watchers:
            watcher.cancel()
    if isinstance(told, bytes):
        await respond(send, 200, told, [JSON, *_headers(run)])
    elif told is not None and not isinstance(told, ClientLeft):
        await respond_error(send, form.retold(told), _headers(run))


def _headers(run: ChatRun) -> Headers:
    headers = [(b"x-generation-id", run.name.encode())]
    if run.request.clamped:
        headers.append((b"x-max-completion-tokens", str(run.reservation.units).encode()))
    return headers
