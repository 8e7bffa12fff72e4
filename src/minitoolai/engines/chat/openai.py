"""OpenAI-compatible servers as chat engines: forward the request with the token limit forced, and stream the response.

Text completions and embeddings of such a server are translated into chat form here, so that one code path serves,
counts and charges all three.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.errors import (
    ContextExceeded,
    EngineBroken,
    EngineError,
    EngineRateLimited,
    EngineRefused,
    EngineTimeout,
    Overloaded,
)
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.embeddings import embeddings_as_chat, embeddings_body
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.httpclient.client import ConnectError, HttpClient, HttpError, HttpResponse, ReadTimeout
from minitoolai.httpclient.guarded import is_public_address

#: Always ask a streaming upstream for usage: without it there is no exact charge.
_STREAM_OPTIONS = {"include_usage": True}
MAX_ERROR_BYTES = 65_536
_encode = msgspec.json.Encoder().encode


class UpstreamEngine:
    """One server with one API key. Ready if it has the key it needs."""

    plain_images = False
    token_events = False

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        client: HttpClient,
        *,
        base_url: str = "",
        key: str = "",
        may_repeat: bool = False,
        concurrency: ConcurrencyLimit | None = None,
        extra_headers: Callable[[], dict[str, str]] | None = None,
    ) -> None:
        """Create an engine. `extra_headers` returns additional headers for each request, such as a trace context."""
        self.name = name
        self.complete_chunks = entry.complete_chunks
        self.bills_after_cancel = entry.bills_after_cancel
        self.vision = entry.vision
        self.forwards = frozenset(entry.forwards)
        self.first_token_timeout_s = entry.first_token_timeout_s
        self.total_timeout_s = entry.total_timeout_s
        self._entry = entry
        self._client = client
        self._has_key = bool(key)
        self._may_repeat = may_repeat
        self._concurrency = concurrency
        self._extra_headers = extra_headers
        url = (base_url or entry.base_url).rstrip("/")
        self.fetches_images = is_public_address(url) if entry.fetches_images is None else entry.fetches_images
        self._chat_url, self._completions_url = f"{url}/chat/completions", f"{url}/completions"
        self._embeddings_url = f"{url}/embeddings"
        self._headers = {"content-type": "application/json", **entry.headers}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def why_not_ready(self) -> str | None:
        if self._entry.needs_key and not self._has_key:
            return f"no key: set MINITOOLAI_{self.name.upper()}_API_KEY"
        return None

    def vision_unavailable_reason(self) -> str | None:
        return None

    def context_tokens(self) -> int | None:
        return None

    def unsupported_field(self, request: ChatRequest) -> str | None:
        if request.prompt is not None and not self._entry.completions:
            return "prompt"
        return next(
            (name for name in self._entry.unsupported if name in request.fields or name in request.extras), None
        )

    def check_capacity(self) -> None:
        if self._concurrency is not None:
            self._concurrency.check_capacity()

    def is_busy(self) -> bool:
        return self._concurrency is not None and self._concurrency.is_busy

    async def count_prompt(self, request: ChatRequest) -> int | None:
        return None

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    def open(self, request: ChatRequest, limit: int) -> Coroutine[Any, Any, UpstreamResponse]:
        if self._concurrency is None:
            return self._open_now(request, limit)
        return self._open_in_turn(self._concurrency, request, limit)

    async def _open_in_turn(self, concurrency: ConcurrencyLimit, request: ChatRequest, limit: int) -> UpstreamResponse:
        request.waits = True
        await concurrency.acquire()
        request.waits = False
        try:
            response = await self._open_now(request, limit)
        except BaseException:
            concurrency.release()
            raise
        response.on_close = concurrency.release
        return response

    def _open_now(self, request: ChatRequest, limit: int) -> Coroutine[Any, Any, UpstreamResponse]:
        if request.embed is not None:
            body = embeddings_body(request, self._entry)
            return self._post(self._embeddings_url, _encode(body), partial(EmbeddingResponse, request=request))
        if request.prompt is not None:
            body = completions_body(request, limit, self._entry)
            return self._post(self._completions_url, _encode(body), CompletionResponse)
        return self._post(self._chat_url, _encode(chat_body(request, limit, self._entry)), UpstreamResponse)

    async def _post(
        self, url: str, body: bytes, response_type: Callable[[HttpResponse, str], UpstreamResponse]
    ) -> UpstreamResponse:
        try:
            # The ticker of core/in_flight.py enforces the timeouts; this one is only a safety net.
            response = await self._client.request(
                "POST",
                url,
                headers=self._headers if self._extra_headers is None else {**self._headers, **self._extra_headers()},
                body=body,
                read_timeout_s=self._entry.total_timeout_s or 600.0,
                may_repeat=self._may_repeat,
            )
        except HttpError as error:
            raise engine_error(error, self.name) from error
        if response.status != 200:
            raise await self._failure(response)
        return response_type(response, self.name)

    async def _failure(self, response: HttpResponse) -> EngineError | ContextExceeded | Overloaded:
        body = await read_error_body(response)
        return upstream_failure(response.status, response.headers.get("retry-after"), body, self.name)


class UpstreamResponse:
    """A response of an upstream, which it forwards unchanged. Translates HTTP failures into EngineError."""

    def __init__(self, response: HttpResponse, name: str) -> None:
        self._response = response
        self._name = name
        #: Called once by `close`: returns the slot that the response occupies.
        self.on_close: Callable[[], None] | None = None

    async def next_bytes(self) -> bytes:
        try:
            return await self._response.next_bytes()
        except HttpError as error:
            raise engine_error(error, self._name) from error

    def read_nowait(self) -> bytes | None:
        try:
            return self._response.read_nowait()
        except HttpError as error:
            raise engine_error(error, self._name) from error

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        self._response.set_callbacks(on_readable, on_chunk)
        return True

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except HttpError as error:
            raise engine_error(error, self._name) from error

    async def close(self) -> None:
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()
        self._response.close()


def chat_body(request: ChatRequest, limit: int, entry: EngineEntry) -> dict[str, Any]:
    """Return the body for `/chat/completions`: the caller's fields, with those replaced that this gateway controls."""
    body = request.forwarded(entry.forwards)
    body["model"] = entry.served_name(request.model)
    body["messages"] = request.messages if entry.developer_role else [_as_system(m) for m in request.messages]
    body[entry.limit_field] = limit
    body["stream"] = request.stream
    if request.stream:
        body["stream_options"] = {**(request.fields.get("stream_options") or {}), **_STREAM_OPTIONS}
    else:
        body.pop("stream_options", None)
    return body


def _as_system(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "role": "system"} if message["role"] == "developer" else message


# ── failures ──────────────────────────────────────────────────────────────────────────────────────────────────


def engine_error(error: HttpError, name: str) -> EngineError:
    """Translate a failed HTTP exchange."""
    if isinstance(error, ConnectError):
        return EngineError(f"{name} cannot be reached")
    if isinstance(error, ReadTimeout):
        return EngineTimeout(f"{name} timed out")
    return EngineBroken(f"{name} broke off its response")


async def read_error_body(response: HttpResponse) -> bytes:
    """Return the body of an error response, or b"" if it cannot be read, and close the response."""
    try:
        return await response.read(MAX_ERROR_BYTES)
    except HttpError:
        return b""
    finally:
        response.close()


def upstream_failure(
    status: int, retry_after: str | None, body: bytes, name: str
) -> EngineError | ContextExceeded | Overloaded:
    """Translate an error response. Pass its message on only if it concerns the caller's request."""
    fault = _error_object(body)
    message = str(fault.get("message") or body[:200].decode("utf-8", "replace") or "no reason given")[:1000]
    kind = f"{fault.get('type')} {fault.get('code')}"
    wait_s = int(retry_after) if retry_after and retry_after.isdigit() else None
    if "context" in kind and "exceed" in kind:
        return ContextExceeded(message, param="messages")
    if status == 429:
        return EngineRateLimited(f"{name} has reached its rate limit: {message}", retry_after_s=wait_s or 5)
    if status in (400, 404, 413, 415, 422):
        param = fault.get("param")
        return EngineRefused(message, param=param if isinstance(param, str) else None)
    if status == 503:
        return Overloaded(f"{name} is overloaded; retry in a moment", retry_after_s=wait_s or 2)
    if status in (408, 504):
        return EngineTimeout(f"{name} timed out (status {status})")
    # 401 and 403 concern the operator's key: the caller cannot fix it and should see no details.
    return EngineError(f"{name} failed with status {status}; nothing was charged")


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        fault = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    fault = fault.get("error", fault) if isinstance(fault, dict) else {}
    return fault if isinstance(fault, dict) else {"message": str(fault)}


# ── text completions ──────────────────────────────────────────────────────────────────────────────────────────

_decode_completion = msgspec.json.Decoder().decode


class CompletionResponse(UpstreamResponse):
    """A text completion, translated into chat form."""

    def __init__(self, response: HttpResponse, name: str) -> None:
        super().__init__(response, name)
        self._partial = b""

    async def next_bytes(self) -> bytes:
        while data := await super().next_bytes():
            if events := self._translate(data):
                return events
        return self._take_partial()

    def read_nowait(self) -> bytes | None:
        data = super().read_nowait()
        if data is None:
            return None
        if not data:
            return self._take_partial()
        # Without a complete event there is nothing to return yet: b"" would mean the end.
        return self._translate(data) or None

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        # No `on_chunk`: the upstream's bytes need translation, so all of them go through `read_nowait`.
        return super().set_callbacks(on_readable)

    async def read(self) -> bytes:
        return completion_as_chat(await super().read())

    def _take_partial(self) -> bytes:
        partial, self._partial = self._partial, b""
        return partial

    def _translate(self, data: bytes) -> bytes:
        data = (self._partial + data).replace(b"\r\n", b"\n")
        events, separator, self._partial = data.rpartition(b"\n\n")
        if not separator:
            return b""
        return b"".join(_translate_event(event) for event in events.split(b"\n\n") if event)


def first_prompt(prompt: Any) -> str | list[int]:
    """Return the prompt, unwrapped from a list that contains only this one."""
    is_wrapped = isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int)
    text: str | list[int] = prompt[0] if is_wrapped else prompt
    return text


def completions_body(request: ChatRequest, limit: int, entry: EngineEntry) -> dict[str, Any]:
    """Return the body for `/completions`: the caller's fields, with the limit forced and usage requested."""
    body = request.forwarded(entry.forwards)
    body |= {"model": entry.served_name(request.model), "prompt": first_prompt(request.prompt), "max_tokens": limit}
    body["stream"] = request.stream
    body.pop("stream_options", None)
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    return body


def _translate_event(event: bytes) -> bytes:
    if not event.startswith(b"data:") or event[5:].strip() == b"[DONE]":
        return event + b"\n\n"
    return b"data: " + completion_as_chat(event[5:].strip()) + b"\n\n"


def completion_as_chat(data: bytes) -> bytes:
    """Translate a `text_completion` object or chunk into chat form. Return anything else unchanged."""
    try:
        body = _decode_completion(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        return data
    for choice in body["choices"]:
        if isinstance(choice, dict) and "text" in choice:
            text = choice.pop("text")
            # Readers of streams use the delta, readers of complete responses the message.
            choice["delta"] = {"content": text}
            choice["message"] = {"role": "assistant", "content": text}
    return _encode(body)


# ── embeddings ────────────────────────────────────────────────────────────────────────────────────────────────


class EmbeddingResponse(UpstreamResponse):
    """Embeddings, translated into a chat response with a single choice that holds the vectors."""

    def __init__(self, response: HttpResponse, name: str, request: ChatRequest) -> None:
        super().__init__(response, name)
        self._request = request

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        return False

    async def read(self) -> bytes:
        inputs = self._request.embed or ()
        return embeddings_as_chat(await super().read(), len(inputs), model=self._request.model)
