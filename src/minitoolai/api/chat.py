"""The streaming hot path: two addresses, one service. A bare ASGI app; see docs/performance.md before adding to it."""

from __future__ import annotations

import asyncio
from typing import Any

from minitoolai.api.asgi import JSON, Headers, Receive, Scope, Send, answer, answer_error, read_json_body
from minitoolai.api.auth import authenticate
from minitoolai.api.errors import status_and_type
from minitoolai.api.streaming import EVENT_STREAM, StreamWriter, attempt, forward, only_post, watch
from minitoolai.api.wire import Dialect, parse_chat
from minitoolai.core.errors import ClientLeft, ServiceError
from minitoolai.services.accounts import KeyRing
from minitoolai.services.chat import ChatService
from minitoolai.services.chat_run import ChatRun
from minitoolai.services.events import error_event


class ChatEndpoint:
    """`POST /api/chat-completions/` (dialect api) or `POST /v1/chat/completions` (dialect openai)."""

    def __init__(self, chats: ChatService, keys: KeyRing, dialect: Dialect) -> None:
        self._chats = chats
        self._keys = keys
        self._dialect: Dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "POST":
                await only_post(send)
                return
            caller = await authenticate(scope, self._keys)
            request = parse_chat(await read_json_body(scope, receive), self._dialect)
            run = await self._chats.begin(caller, request)
        except ClientLeft:
            return
        except ServiceError as error:
            await answer_error(send, error, [])
            return
        run.task = asyncio.current_task()
        if request.stream:
            await _stream(run, receive, send)
        else:
            await _whole(run, receive, send)


async def _stream(run: ChatRun, receive: Receive, send: Send) -> None:
    out = StreamWriter(send, [*EVENT_STREAM, *_headers(run)])
    run.on_silence = out.break_silence
    error = await forward(run, out, receive)
    if error is not None and not isinstance(error, ClientLeft):
        await _tell_of_failure(out, run, error, send)


async def _whole(run: ChatRun, receive: Receive, send: Send) -> None:
    watchers: list[asyncio.Future[Any]] = []
    # Most plain answers are there at once; only one that is not is worth a watch for callers who leave.
    run.on_slow = lambda: watchers.append(watch(run, receive))
    body = b""

    async def read() -> None:
        nonlocal body
        body = await run.read_whole()

    try:
        error = await attempt(run, read)
    finally:
        for watcher in watchers:
            watcher.cancel()
    if error is None:
        await answer(send, 200, body, [JSON, *_headers(run)])
    elif not isinstance(error, ClientLeft):
        await answer_error(send, error, _headers(run))


def _headers(run: ChatRun) -> Headers:
    headers = [(b"x-generation-id", run.name.encode())]
    if run.request.clamped:
        headers.append((b"x-max-completion-tokens", str(run.reservation.units).encode()))
    return headers


async def _tell_of_failure(out: StreamWriter, run: ChatRun, error: ServiceError, send: Send) -> None:
    """As a status while nothing has been sent, else as the last event; never with `[DONE]`."""
    if not out.has_begun:
        await answer_error(send, error, _headers(run))
        return
    kind = status_and_type(error)[1]
    await out.write(error_event(error.message, kind=kind, code=error.code, param=error.param), is_last=True)
