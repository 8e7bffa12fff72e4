"""Idempotency-Key on any POST, around whatever answers it. A request without the header does not come by here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.billing.idempotency import IdempotencyStore, RecordedResponse
from minitoolai.core.errors import AccessDenied, BodyTooLarge, ClientLeft, ServiceError, StoreError
from minitoolai.core.models import IdempotencyClaim
from minitoolai.http.asgi import LARGEST_BODY, App, Headers, Receive, Scope, Send, respond_error
from minitoolai.http.auth import CLAIM, authenticate
from minitoolai.http.errors import error_event, status_and_type

log = logging.getLogger(__name__)

#: The header by which a caller names a request.
IDEMPOTENCY_KEY = b"idempotency-key"
Message = MutableMapping[str, Any]


class Idempotent:
    """Runs a handler once for each Idempotency-Key of an account."""

    def __init__(self, replays: IdempotencyStore, keys: KeyVerifier) -> None:
        self._replays = replays
        self._keys = keys

    async def __call__(self, handler: App, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """`name`: what the header says."""
        try:
            caller = await authenticate(scope, self._keys)
        except AccessDenied:
            # Who may do without a key, as a poll by signature, is for the handler to know; nothing here is paid for.
            await handler(scope, receive, send)
            return
        except ServiceError as error:
            await respond_error(send, error, [], scope["path"])
            return
        try:
            body = await _read(receive)
            claim = await self._replays.claim(caller, name, _what_matters(scope, body))
        except ClientLeft:
            return
        except ServiceError as error:
            await respond_error(send, error, [], scope["path"])
            return
        if isinstance(claim, RecordedResponse):
            await _replay(claim, send)
            return
        try:
            await self._run(claim, handler, {**scope, CLAIM: claim}, _again(body, receive), send)
        finally:
            self._replays.release(claim)

    async def _run(self, claim: IdempotencyClaim, handler: App, scope: Scope, receive: Receive, send: Send) -> None:
        recorder = _Recorder(self._replays, claim, send)
        try:
            await handler(scope, receive, recorder)
        finally:
            await recorder.end()


class _Recorder:
    """Sends on, and keeps the answer before its end is sent: whoever has seen it can have it again."""

    def __init__(self, replays: IdempotencyStore, claim: IdempotencyClaim, send: Send) -> None:
        self._replays = replays
        self._claim = claim
        self._send = send
        self._status = 0
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._is_kept = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message.get("headers", []))
        elif message["type"] == "http.response.body":
            self._parts.append(bytes(message.get("body", b"")))
            if not message.get("more_body"):
                await self._keep()
        await self._send(message)

    async def end(self) -> None:
        """The handler is done. Of a stream of events that its caller left, what was written is kept, and says so."""
        if self._is_kept or not self._parts or self._content_type() != b"text/event-stream":
            return
        error = ClientLeft("the first caller with this Idempotency-Key hung up here; send another key to run it again")
        kind = status_and_type(error)[1]
        self._parts.append(error_event(error.message, kind=kind, code=error.code))
        await asyncio.shield(self._keep())

    async def _keep(self) -> None:
        self._is_kept = True
        if self._claim.hold_id is None:
            return
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers]
        try:
            # A refusal was not paid for, so there is nothing to keep: the key is free again.
            if self._status >= 400:
                await self._replays.settled()
                return
            await self._replays.keep(self._claim, RecordedResponse(self._status, headers, b"".join(self._parts)))
        except StoreError as error:
            log.error("the answer of %s could not be kept: %s", self._claim.id, error)

    def _content_type(self) -> bytes:
        value = next((value for name, value in self._headers if name.lower() == b"content-type"), b"")
        return value.partition(b";")[0].strip()


async def _replay(kept: RecordedResponse, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept.headers]
    headers.append((b"idempotent-replayed", b"true"))
    await send({"type": "http.response.start", "status": kept.status, "headers": headers})
    await send({"type": "http.response.body", "body": kept.body})


def _what_matters(scope: Scope, body: bytes) -> bytes:
    """The last slash of a path changes nothing."""
    path = scope["path"].rstrip("/").encode()
    return b"\n".join([path, bytes(scope.get("query_string", b"")), body])


async def _read(receive: Receive) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the caller hung up before its request was whole")
        parts.append(bytes(message.get("body", b"")))
        more, size = message.get("more_body", False), size + len(parts[-1])
        if size > LARGEST_BODY:
            raise BodyTooLarge(f"the body is larger than {LARGEST_BODY // 1024 // 1024} MB; send less")
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes after it."""
    left = [body]

    async def receive_again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return receive_again
