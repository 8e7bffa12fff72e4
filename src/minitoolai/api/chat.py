"""The streaming hot path: two addresses, one service. A bare ASGI app; see docs/performance.md before adding to it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from minitoolai.api.asgi import JSON, Headers, Receive, Scope, Send, answer, answer_error, read_json_body
from minitoolai.api.auth import authenticate
from minitoolai.api.errors import status_and_type
from minitoolai.api.wire import Dialect, parse_chat
from minitoolai.core.errors import ClientLeft, Overloaded, ServiceError, StoreError
from minitoolai.services.accounts import KeyRing
from minitoolai.services.chat import ChatService
from minitoolai.services.chat_run import ChatRun
from minitoolai.services.events import error_event

log = logging.getLogger(__name__)

#: Longest that the end of an answer waits for its charge, should the database be sick.
CHARGE_TIMEOUT_S = 15.0
STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class StreamWriter:
    """The caller's side of a stream: the head goes out with the first bytes."""

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send = send
        self._headers = headers
        self.has_begun = False
        self._is_sending = False

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Send; waits while the caller reads slowly."""
        self._is_sending = True
        if not self.has_begun:
            self.has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
        self._is_sending = False

    def break_silence(self) -> None:
        """A comment, so that proxies between us keep the connection. Nothing if a write is under way."""
        if not self._is_sending:
            self._comment = asyncio.ensure_future(self.write(b": the model is still at work\n\n"))


class ChatEndpoint:
    """`POST /api/chat-completions/` (dialect api) or `POST /v1/chat/completions` (dialect openai)."""

    def __init__(self, chats: ChatService, keys: KeyRing, dialect: Dialect) -> None:
        self._chats = chats
        self._keys = keys
        self._dialect: Dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "POST":
                await _only_post(send)
                return
            caller = await authenticate(scope["headers"], self._keys)
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
    out = StreamWriter(send, [*STREAM_HEADERS, *_headers(run)])
    run.on_silence = out.break_silence
    watcher = _watch(run, receive)
    error: ServiceError | None = ClientLeft("the caller hung up")
    try:
        await run.open()
        while (block := await run.next_block()) is not None:
            await out.write(block)
        await _charge(run)
        error = run.task = None
        await out.write(run.events.ending(run.usage_so_far()), is_last=True)
    except asyncio.CancelledError:
        error = _reason_to_stop(run)
    except ServiceError as failure:
        error = failure
    except Exception as bug:
        log.exception("%s failed", run.name)
        error = ServiceError(f"something went wrong on our side: {type(bug).__name__}")
    finally:
        run.task = None
        watcher.cancel()
        # Whatever happened, the charge is queued by now; nothing below can undo it.
        await run.close(error)
    if error is not None and not isinstance(error, ClientLeft):
        await _tell_of_failure(out, run, error, send)


async def _whole(run: ChatRun, receive: Receive, send: Send) -> None:
    watchers: list[asyncio.Future[Any]] = []
    # Most plain answers are there at once; only one that is not is worth a watch for callers who leave.
    run.on_slow = lambda: watchers.append(_watch(run, receive))
    error: ServiceError | None = ClientLeft("the caller hung up")
    body = b""
    try:
        await run.open()
        body = await run.read_whole()
        await _charge(run)
        error = None
    except asyncio.CancelledError:
        error = _reason_to_stop(run)
    except ServiceError as failure:
        error = failure
    except Exception as bug:
        log.exception("%s failed", run.name)
        error = ServiceError(f"something went wrong on our side: {type(bug).__name__}")
    finally:
        run.task = None
        for watcher in watchers:
            watcher.cancel()
        await run.close(error)
    if error is None:
        await answer(send, 200, body, [JSON, *_headers(run)])
    elif not isinstance(error, ClientLeft):
        await answer_error(send, error, _headers(run))


async def _charge(run: ChatRun) -> None:
    """The end leaves only when the charge is durable."""
    try:
        await run.charge(within_s=CHARGE_TIMEOUT_S)
    except (StoreError, TimeoutError) as error:
        raise Overloaded("the charge could not be written; the answer is not complete", retry_after_s=5) from error


def _watch(run: ChatRun, receive: Receive) -> asyncio.Future[Any]:
    """Break the answer off when the caller hangs up: the next thing to receive can only be that."""
    watcher = asyncio.ensure_future(receive())
    watcher.add_done_callback(lambda _: run.stop(ClientLeft("the caller hung up")))
    return watcher


def _reason_to_stop(run: ChatRun) -> ServiceError:
    """Why this task was cancelled: by ourselves, for a reason, or by a server that cannot wait any longer."""
    if run.stop_reason is None:
        run.finish(ClientLeft("the server stopped"))
        raise asyncio.CancelledError
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    return run.stop_reason


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


async def _only_post(send: Send) -> None:
    body = (
        b'{"error":{"message":"use POST here","type":"invalid_request_error","param":null,"code":"method_not_allowed"}}'
    )
    await answer(send, 405, body, [JSON, (b"allow", b"POST")])
