"""Any OpenAI-compatible server as an engine: the caller's body with the limit forced, its bytes handed on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
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
from minitoolai.engines.base import ChatAnswer
from minitoolai.engines.embeddings import EmbeddingAnswer
from minitoolai.engines.forwarding import forwarded
from minitoolai.engines.http import HttpAnswer, HttpClient, HttpError, Silent, Unreachable
from minitoolai.engines.slots import Slots, SlottedAnswer
from minitoolai.engines.text_completions import TextAnswer, text_body

_encode = msgspec.json.Encoder().encode
#: What we ask of a streaming engine whatever the caller asked: without the usage there is no exact charge.
_STREAM_OPTIONS = {"include_usage": True}
_LARGEST_ERROR = 65_536


class UpstreamAnswer:
    """The bytes of one answer; foreign failures become EngineError here."""

    def __init__(self, answer: HttpAnswer, engine: UpstreamEngine) -> None:
        self._answer = answer
        self._engine = engine

    async def next_bytes(self) -> bytes:
        try:
            return await self._answer.next_bytes()
        except HttpError as error:
            raise mapped(error, self._engine.name) from error

    def take(self) -> bytes | None:
        try:
            return self._answer.take()
        except HttpError as error:
            raise mapped(error, self._engine.name) from error

    def listen(self, listener: Callable[[], None] | None, sink: Callable[[bytes], None] | None = None) -> bool:
        self._answer.listen(listener, sink)
        return True

    async def read(self) -> bytes:
        try:
            return await self._answer.read()
        except HttpError as error:
            raise mapped(error, self._engine.name) from error

    async def close(self) -> None:
        self._answer.close()


class UpstreamEngine:
    """One server, one key. Ready when it has the key it needs."""

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
        slots: Slots | None = None,
        more: Callable[[], dict[str, str]] | None = None,
    ) -> None:
        """`more`: headers that each request gets besides, where somebody follows it to its end."""
        self.name = name
        self.complete_chunks = entry.complete_chunks
        self.bills_after_cancel = entry.bills_after_cancel
        self.vision = entry.vision
        self.fetches_images = entry.fetches_images
        self.first_token_timeout_s = entry.first_token_timeout_s
        self.total_timeout_s = entry.total_timeout_s
        self._entry = entry
        self._client = client
        self._has_key = bool(key)
        self._may_repeat = may_repeat
        self._slots = slots
        self._more = more
        self._url = (base_url or entry.base_url).rstrip("/") + "/chat/completions"
        self._text_url = self._url.removesuffix("/chat/completions") + "/completions"
        self._embed_url = self._url.removesuffix("/chat/completions") + "/embeddings"
        self._headers = {"content-type": "application/json", **entry.headers}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def why_not_ready(self) -> str | None:
        if self._entry.needs_key and not self._has_key:
            return f"no key: set MINITOOLAI_{self.name.upper()}_API_KEY"
        return None

    def why_blind(self) -> str | None:
        return None

    def context_tokens(self) -> int | None:
        return None

    def unsupported_field(self, request: ChatRequest) -> str | None:
        if request.prompt is not None and not self._entry.completions:
            return "prompt"
        return next((name for name in self._entry.unsupported if request.fields.get(name) is not None), None)

    def check_room(self) -> None:
        if self._slots is not None:
            self._slots.check()

    def is_busy(self) -> bool:
        return self._slots is not None and self._slots.is_busy

    async def count_prompt(self, request: ChatRequest) -> int | None:
        return None

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    def open(self, request: ChatRequest, limit: int) -> Coroutine[Any, Any, ChatAnswer]:
        if self._slots is None:
            return self._begin(request, limit)
        return self._begin_in_turn(self._slots, request, limit)

    async def _begin_in_turn(self, slots: Slots, request: ChatRequest, limit: int) -> SlottedAnswer:
        request.waits = True
        await slots.take()
        request.waits = False
        try:
            return SlottedAnswer(await self._begin(request, limit), slots)
        except BaseException:
            slots.give_back()
            raise

    def _begin(self, request: ChatRequest, limit: int) -> Coroutine[Any, Any, ChatAnswer]:
        if request.embed is not None:
            return self._embed(request, request.embed)
        if request.prompt is not None:
            return self._continue(request, limit)
        return self._answer(self._url, _encode(upstream_body(request, limit, self._entry)))

    async def _embed(self, request: ChatRequest, texts: list[Any]) -> EmbeddingAnswer:
        body = {
            **forwarded(request.fields),
            "model": self._entry.names.get(request.model, request.model),
            "input": texts,
        }
        return EmbeddingAnswer(await self._answer(self._embed_url, _encode(body)))

    async def _continue(self, request: ChatRequest, limit: int) -> TextAnswer:
        model = self._entry.names.get(request.model, request.model)
        return TextAnswer(await self._answer(self._text_url, _encode(text_body(request, limit, model))))

    async def _answer(self, url: str, body: bytes) -> UpstreamAnswer:
        try:
            # The ticker of services/underway.py owns the time-outs; this one is a net below it.
            answer = await self._client.request(
                "POST",
                url,
                headers=self._headers if self._more is None else {**self._headers, **self._more()},
                body=body,
                silence_s=self._entry.total_timeout_s or 600.0,
                may_repeat=self._may_repeat,
            )
        except HttpError as error:
            raise mapped(error, self.name) from error
        if answer.status != 200:
            raise await self._failure(answer)
        return UpstreamAnswer(answer, self)

    async def _failure(self, answer: HttpAnswer) -> EngineError | ContextExceeded | Overloaded:
        try:
            body = await answer.read(_LARGEST_ERROR)
        except HttpError:
            body = b""
        finally:
            answer.close()
        return upstream_failure(answer.status, answer.headers.get("retry-after"), body, self.name)


def upstream_body(request: ChatRequest, limit: int, entry: EngineEntry) -> dict[str, Any]:
    """What is sent: the caller's fields, except other names of the limit, and those that are ours to set."""
    body = forwarded(request.fields)
    body["model"] = entry.names.get(request.model, request.model)
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


def upstream_failure(
    status: int, retry_after: str | None, body: bytes, name: str
) -> EngineError | ContextExceeded | Overloaded:
    """An upstream's refusal as ours. Its message is passed on only where it speaks of the caller's request."""
    fault = _fault(body)
    message = str(fault.get("message") or body[:200].decode("utf-8", "replace") or "no reason given")[:1000]
    kind = f"{fault.get('type')} {fault.get('code')}"
    wait_s = int(retry_after) if retry_after and retry_after.isdigit() else None
    if "context" in kind and "exceed" in kind:
        return ContextExceeded(message, param="messages")
    if status == 429:
        return EngineRateLimited(f"{name} is at its limit: {message}", retry_after_s=wait_s or 5)
    if status in (400, 404, 413, 415, 422):
        param = fault.get("param")
        return EngineRefused(message, param=param if isinstance(param, str) else None)
    if status == 503:
        return Overloaded(f"{name} is overloaded; try again", retry_after_s=wait_s or 2)
    if status in (408, 504):
        return EngineTimeout(f"{name} timed out (status {status})")
    # 401 and 403 are about the operator's key: the caller can do nothing and need not know more.
    return EngineError(f"{name} failed with status {status}; nothing was charged")


def _fault(body: bytes) -> dict[str, Any]:
    try:
        fault = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    fault = fault.get("error", fault) if isinstance(fault, dict) else {}
    return fault if isinstance(fault, dict) else {"message": str(fault)}


def mapped(error: HttpError, name: str) -> EngineError:
    """A failed exchange as ours."""
    if isinstance(error, Unreachable):
        return EngineError(f"{name} cannot be reached")
    if isinstance(error, Silent):
        return EngineTimeout(f"{name} went silent")
    return EngineBroken(f"{name} broke off its answer")
