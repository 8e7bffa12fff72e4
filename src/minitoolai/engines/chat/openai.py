"""OpenAI-compatible servers as chat engines: forward the request with the token limit forced, and stream the response.

Embeddings of such a server are translated into chat form here, text completions by chat/stream/decoding.py, so that one
code path serves, counts and charges all three.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.suppliers import EngineLabel
from minitoolai.core.counting import Tokenizer
from minitoolai.core.errors import EngineBroken, EngineTimeout, EngineUnavailable, ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.addresses import AddressPool
from minitoolai.engines.chat.embeddings import embeddings_as_chat, embeddings_body
from minitoolai.engines.chat.failures import engine_error, read_error_body, upstream_failure
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.tokenizers import tokenizer_named
from minitoolai.httpclient.client import HttpClient, HttpError, HttpResponse
from minitoolai.httpclient.guarded import is_public_address

#: Always ask a streaming upstream for usage: without it there is no exact charge.
_STREAM_OPTIONS = {"include_usage": True}
_encode = msgspec.json.Encoder().encode


class UpstreamEngine:
    """One server with one API key. Ready if it has the key it needs."""

    plain_images = False
    speaks_messages = False
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
        total_timeout_s: float = 600.0,
    ) -> None:
        """Create an engine. `extra_headers` returns additional headers for each request, such as a trace context.

        `total_timeout_s` is the timeout of one response if its entry names none.
        """
        self.name = name
        self.label = EngineLabel.of(name, entry, base_url)
        self.complete_chunks = entry.complete_chunks
        self.bills_after_cancel = entry.bills_after_cancel
        self.sells_cache = True
        self.tokenizer: Tokenizer | None = tokenizer_named(entry.tokenizer) if entry.tokenizer else None
        self.vision = entry.vision
        self.forwards = frozenset(entry.forwards)
        self.first_token_timeout_s = entry.first_token_timeout_s
        self.total_timeout_s = entry.total_timeout_s
        self._read_timeout_s = entry.total_timeout_s or total_timeout_s
        self._entry = entry
        self._client = client
        self._has_key = bool(key)
        self._may_repeat = may_repeat
        self.concurrency = concurrency
        self._extra_headers = extra_headers
        url = (base_url or entry.base_url).rstrip("/")
        self._base = url
        #: Several machines; None: one, which the setting of an address replaces.
        self._addresses = AddressPool(entry.base_urls) if len(entry.base_urls) > 1 and not base_url else None
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
        if self.concurrency is not None:
            self.concurrency.check_capacity()

    def is_busy(self) -> bool:
        return self.concurrency is not None and self.concurrency.is_busy

    async def count_prompt(self, request: ChatRequest) -> int | None:
        return None

    async def count_messages(self, request: ChatRequest) -> int | None:
        return None

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    def open(self, request: ChatRequest, limit: int) -> Coroutine[Any, Any, UpstreamResponse]:
        if self.concurrency is None:
            return self._open_now(request, limit)
        return self._open_in_turn(self.concurrency, request, limit)

    async def _open_in_turn(self, concurrency: ConcurrencyLimit, request: ChatRequest, limit: int) -> UpstreamResponse:
        request.waits = True
        try:
            await concurrency.acquire(request.account_id, request.set_queue_place)
        finally:
            request.queue_place = None
        request.waits = False
        try:
            response = await self._open_now(request, limit)
        except BaseException:
            concurrency.release(request.account_id)
            raise
        response.on_close = partial(concurrency.release, request.account_id)
        return response

    def _open_now(self, request: ChatRequest, limit: int) -> Coroutine[Any, Any, UpstreamResponse]:
        if request.embed is not None:
            body = embeddings_body(request, self._entry)
            return self._post(self._embeddings_url, _encode(body), partial(EmbeddingResponse, request=request))
        if request.prompt is not None:
            body = completions_body(request, limit, self._entry)
            return self._post(self._completions_url, _encode(body), UpstreamResponse)
        return self._post(self._chat_url, _encode(chat_body(request, limit, self._entry)), UpstreamResponse)

    def open_chat(
        self, request: ChatRequest, limit: int, response_type: Callable[[HttpResponse, str], UpstreamResponse]
    ) -> Coroutine[Any, Any, UpstreamResponse]:
        """Open a chat, and read its response with this class."""
        return self._post(self._chat_url, _encode(chat_body(request, limit, self._entry)), response_type)

    async def _post(
        self,
        url: str,
        body: bytes,
        response_type: Callable[[HttpResponse, str], UpstreamResponse],
        headers: dict[str, str] | None = None,
    ) -> UpstreamResponse:
        if self._addresses is not None:
            return await self._post_to_best(self._addresses, url.removeprefix(self._base), body, response_type, headers)
        return await self._post_to(url, body, response_type, headers)

    async def _post_to_best(
        self,
        pool: AddressPool,
        path: str,
        body: bytes,
        response_type: Callable[[HttpResponse, str], UpstreamResponse],
        headers: dict[str, str] | None,
    ) -> UpstreamResponse:
        """Post to the best address. Try the next one only if the connection failed, because then nothing was sent."""
        if not pool:
            raise EngineUnavailable(f"{self.label} has no server now; retry in a moment", retry_after_s=2)
        *others, last = pool.order()
        for address in (*others, last):
            address.in_flight += 1
            try:
                sent = headers or self._headers
                if address.headers:
                    sent = {**sent, **address.headers}
                response = await self._post_to(address.url + path, body, response_type, sent)
            except BaseException as error:
                address.release()
                if isinstance(error, EngineUnavailable | EngineTimeout | EngineBroken):
                    address.failed()
                    if isinstance(error, EngineUnavailable) and address is not last:
                        continue
                raise
            address.succeeded()
            response.on_release = address.release
            return response
        raise AssertionError("the last address returned or raised")

    async def _post_to(
        self,
        url: str,
        body: bytes,
        response_type: Callable[[HttpResponse, str], UpstreamResponse],
        headers: dict[str, str] | None,
    ) -> UpstreamResponse:
        headers = headers or self._headers
        try:
            # The ticker of core/in_flight.py enforces the timeouts; this one is only a safety net.
            response = await self._client.request(
                "POST",
                url,
                headers=headers if self._extra_headers is None else {**headers, **self._extra_headers()},
                body=body,
                read_timeout_s=self._read_timeout_s,
                may_repeat=self._may_repeat,
            )
        except HttpError as error:
            raise engine_error(error, self.label) from error
        if not 200 <= response.status < 300:
            raise await self._failure(response)
        return response_type(response, self.label)

    async def _failure(self, response: HttpResponse) -> ServiceError:
        body = await read_error_body(response)
        return upstream_failure(response.status, response.headers.get("retry-after"), body, self.label)


class UpstreamResponse:
    """A response of an upstream, which it forwards unchanged. Translates HTTP failures into EngineError."""

    def __init__(self, response: HttpResponse, label: str) -> None:
        self._response = response
        self._label = label
        #: Called once by `close`: returns the slot that the response occupies.
        self.on_close: Callable[[], None] | None = None
        #: The same for the address that it came from, if there are several.
        self.on_release: Callable[[], None] | None = None
        #: Called once, when the first bytes have arrived or the response is closed.
        self.on_first_bytes: Callable[[], None] | None = None

    async def next_bytes(self) -> bytes:
        try:
            data = await self._response.next_bytes()
        except HttpError as error:
            raise engine_error(error, self._label) from error
        if self.on_first_bytes is not None:
            self._report_first_bytes()
        return data

    def read_nowait(self) -> bytes | None:
        try:
            data = self._response.read_nowait()
        except HttpError as error:
            raise engine_error(error, self._label) from error
        if self.on_first_bytes is not None and data is not None:
            self._report_first_bytes()
        return data

    def _report_first_bytes(self) -> None:
        on_first_bytes, self.on_first_bytes = self.on_first_bytes, None
        if on_first_bytes is not None:
            on_first_bytes()

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        self._response.set_callbacks(on_readable, on_chunk)
        return True

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except HttpError as error:
            raise engine_error(error, self._label) from error

    async def close(self) -> None:
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()
        on_release, self.on_release = self.on_release, None
        if on_release is not None:
            on_release()
        self._report_first_bytes()
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


# ── text completions ──────────────────────────────────────────────────────────────────────────────────────────


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


# ── embeddings ────────────────────────────────────────────────────────────────────────────────────────────────


class EmbeddingResponse(UpstreamResponse):
    """Embeddings, translated into a chat response with a single choice that holds the vectors."""

    def __init__(self, response: HttpResponse, label: str, request: ChatRequest) -> None:
        super().__init__(response, label)
        self._request = request

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        return False

    async def read(self) -> bytes:
        inputs = self._request.embed or ()
        return embeddings_as_chat(await super().read(), len(inputs), model=self._request.model)
