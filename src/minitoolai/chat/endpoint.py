"""The streaming hot path: a bare ASGI app, one for each form of a chat; see docs/performance.md before adding to it."""

from __future__ import annotations

import asyncio
from typing import Any

from minitoolai.accounts.keys import KeyRing
from minitoolai.chat.forms import Form
from minitoolai.chat.run import ChatRun
from minitoolai.chat.service import ChatService
from minitoolai.core.errors import ClientLeft, ServiceError
from minitoolai.http.asgi import JSON, Headers, Receive, Scope, Send, answer, answer_error, read_json_body
from minitoolai.http.auth import authenticate
from minitoolai.http.request_context import name_work
from minitoolai.http.streaming import EVENT_STREAM, StreamWriter, attempt, forward, only_post, watch


class ChatEndpoint:
    """A POST to one service, in the form of its address, such as `/api/chat-completions/` or `/v1/chat/completions`."""

    def __init__(self, chats: ChatService, keys: KeyRing, form: Form) -> None:
        self._chats = chats
        self._keys = keys
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "POST":
                await only_post(send)
                return
            caller = await authenticate(scope, self._keys)
            request = self._form.parse(await read_json_body(scope, receive))
            run = await self._chats.begin(caller, request)
        except ClientLeft:
            return
        except ServiceError as error:
            await answer_error(send, self._form.retold(error), [])
            return
        run.task = asyncio.current_task()
        name_work(scope, run.name)
        if request.stream:
            await _stream(run, self._form, receive, send)
        else:
            await _whole(run, self._form, receive, send)


async def _stream(run: ChatRun, form: Form, receive: Receive, send: Send) -> None:
    out = StreamWriter(send, [*EVENT_STREAM, *_headers(run)])
    run.on_silence = out.break_silence
    speaker = form.speaker(run)
    error = await forward(speaker, out, receive)
    if error is None or isinstance(error, ClientLeft):
        return
    # As a status while nothing has been sent, else as the last event; never with `[DONE]`.
    if out.has_begun:
        await out.write(form.last_words(speaker, error), is_last=True)
    else:
        await answer_error(send, form.retold(error), _headers(run))


async def _whole(run: ChatRun, form: Form, receive: Receive, send: Send) -> None:
    speaker = form.speaker(run)
    watchers: list[asyncio.Future[Any]] = []
    # Most plain answers are there at once; only one that is not is worth a watch for callers who leave.
    run.on_slow = lambda: watchers.append(watch(run, receive))
    try:
        told = await attempt(run, speaker.read_whole)
    finally:
        # It holds the run, and the run it: only the collector could free the two, and all that hangs on them.
        run.on_slow = None
        for watcher in watchers:
            watcher.cancel()
    if isinstance(told, bytes):
        await answer(send, 200, told, [JSON, *_headers(run)])
    elif told is not None and not isinstance(told, ClientLeft):
        await answer_error(send, form.retold(told), _headers(run))


def _headers(run: ChatRun) -> Headers:
    headers = [(b"x-generation-id", run.name.encode())]
    if run.request.clamped:
        headers.append((b"x-max-completion-tokens", str(run.reservation.units).encode()))
    return headers
