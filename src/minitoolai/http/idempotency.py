"""Middleware for the Idempotency-Key header on any POST. Requests without the header bypass it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.billing.idempotency import IdempotencyStore, RecordedResponse
from minitoolai.core.errors import AccessDenied, ClientLeft, ServiceError, StoreError
from minitoolai.core.models import Caller, IdempotencyClaim
from minitoolai.http.asgi import App, Headers, Receive, Scope, Send, respond_error
from minitoolai.http.auth import CLAIM, authenticate
from minitoolai.http.bodies.bodies import BodyLimits, read_body, run_in_body_thread
from minitoolai.http.bodies.uploads import UPLOAD, Form
from minitoolai.http.errors import last_event
from minitoolai.http.validation import is_small

log = logging.getLogger(__name__)

#: Name of the request header that holds the idempotency key.
IDEMPOTENCY_KEY = b"idempotency-key"
Message = MutableMapping[str, Any]


ReceivesForm = Callable[[Caller, Scope, Receive], AbstractAsyncContextManager[Form]]


class Idempotent:
    """Run a handler once per Idempotency-Key of an account."""

    def __init__(self, store: IdempotencyStore, keys: KeyVerifier) -> None:
        self._store = store
        self._keys = keys

    async def __call__(self, handler: App, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. `name` is the value of its Idempotency-Key header."""
        limits: BodyLimits | None = getattr(handler, "limits", None)
        received: ReceivesForm | None = getattr(handler, "received", None)
        if limits is None and received is None:
            # The handler reads no body and charges nothing.
            await handler(scope, receive, send)
            return
        try:
            caller = await authenticate(scope, self._keys)
        except AccessDenied:
            # The handler decides if a request needs no key, such as a poll with a signed URL. Nothing paid happens
            # here.
            await handler(scope, receive, send)
            return
        except ServiceError as error:
            await respond_error(send, error, [], scope["path"])
            return
        if received is not None:
            await self._run_form(received, handler, name, caller, scope, receive, send)
            return
        assert limits is not None
        try:
            body = await read_body(scope, receive, limits)
            if is_small(body):
                identity = _request_identity(scope, body)
            else:
                identity = await run_in_body_thread(_request_identity, scope, body)
            claim = await self._store.claim(caller, name, identity)
        except ClientLeft:
            return
        except ServiceError as error:
            await respond_error(send, error, [], scope["path"])
            return
        if isinstance(claim, RecordedResponse):
            await _replay(claim, send)
            return
        try:
            await self._run(claim, handler, {**scope, CLAIM: claim}, _replay_body(body, receive), send)
        finally:
            self._store.release(claim)

    async def _run_form(
        self,
        received: ReceivesForm,
        handler: App,
        name: str,
        caller: Caller,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Handle a form with a file. It stays on the disk, and is compared without its random boundary."""
        try:
            async with received(caller, scope, receive) as form:
                claim = await self._store.claim(caller, name, _request_identity(scope, form.identity()))
                if isinstance(claim, RecordedResponse):
                    await _replay(claim, send)
                    return
                try:
                    await self._run(claim, handler, {**scope, CLAIM: claim, UPLOAD: form}, receive, send)
                finally:
                    self._store.release(claim)
        except ClientLeft:
            return
        except ServiceError as error:
            await respond_error(send, error, [], scope["path"])

    async def _run(self, claim: IdempotencyClaim, handler: App, scope: Scope, receive: Receive, send: Send) -> None:
        recorder = _Recorder(self._store, claim, send, scope["path"])
        try:
            await handler(scope, receive, recorder)
        finally:
            await recorder.end()
            # Break the reference cycle, which only the garbage collector could free.
            claim.recorder = None


class _Recorder:
    """Forward messages, and see to it that the response is stored before its last message is sent.

    So a client that has seen the whole response can get it again. A response that is charged when it ends is announced
    before, and the commit of its charge stores it: then a machine may be lost at any time. A response that was not, or
    that differs in the end, is stored here.
    """

    def __init__(self, store: IdempotencyStore, claim: IdempotencyClaim, send: Send, path: str) -> None:
        self._store = store
        self._path = path
        self._claim = claim
        self._send = send
        self._status = 0
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._is_stored = False
        #: What the commit of the charge stores, or of the hold of a job.
        self._announced: RecordedResponse | None = None
        claim.recorder = self

    async def announce(self, headers: Headers, end: bytes) -> None:
        """Hand over a complete response before it is charged: the part sent so far, or these headers, then `end`."""
        self._announced = self._response(headers, end)
        self._claim.answer = await self._store.encode(self._announced)

    def announce_jobs(self, job_ids: list[int]) -> None:
        """Hand over the jobs for which the response will wait, before the first is queued."""
        self._claim.answer = self._store.encode_jobs(job_ids)

    def announce_failure(self, end: bytes | None) -> None:
        """Hand over a stream that fails, before it is charged. Without an end, its caller left."""
        if self._parts and not self._is_stored and self._content_type() == b"text/event-stream":
            response = self._response([], last_event(_left(), self._path) if end is None else end)
            self._claim.answer = self._store.encode_now(response)

    def _response(self, headers: Headers, end: bytes = b"") -> RecordedResponse:
        """Return the part sent so far, then `end`. If nothing was sent, these are its headers."""
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers or headers]
        return RecordedResponse(self._status or 200, pairs, b"".join((*self._parts, end)))

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message.get("headers", []))
        elif message["type"] == "http.response.body":
            self._parts.append(bytes(message.get("body", b"")))
            if not message.get("more_body"):
                await self._store_response()
        await self._send(message)

    async def end(self) -> None:
        """Finish after the handler returned.

        If the client left an event stream, store the partial response and mark its end.
        """
        if self._is_stored or not self._parts or self._content_type() != b"text/event-stream":
            return
        self._parts.append(last_event(_left(), self._path))
        await asyncio.shield(self._store_response())

    async def _store_response(self) -> None:
        self._is_stored = True
        if self._claim.hold_id is None:
            return
        try:
            # An error response was not charged, so it is not stored and the key is free again.
            if self._status >= 400:
                await self._store.flush()
                return
            response = self._response([])
            # An announced response is in the commit of the charge, for which its end has waited.
            if response != self._announced:
                await self._store.store(self._claim, response)
        except StoreError as error:
            log.error("storing the response for idempotency key %s failed: %s", self._claim.id, error)

    def _content_type(self) -> bytes:
        value = next((value for name, value in self._headers if name.lower() == b"content-type"), b"")
        return value.partition(b";")[0].strip()


def _left() -> ClientLeft:
    return ClientLeft(
        "The first client with this Idempotency-Key disconnected here. Send a new key to run the request again."
    )


async def _replay(response: RecordedResponse, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    headers.append((b"idempotent-replayed", b"true"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


def _request_identity(scope: Scope, body: bytes) -> bytes:
    """Return everything that distinguishes a request. A trailing slash of the path makes no difference."""
    path = scope["path"].rstrip("/").encode()
    return b"\n".join([path, bytes(scope.get("query_string", b"")), body])


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body again, then the messages that follow."""
    left = [body]

    async def receive_again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return receive_again
