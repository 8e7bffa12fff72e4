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
from minitoolai.engines.concurrency import ConcurrencyLimit, SlottedAnswer
from minitoolai.engines.protocols import ChatAnswer
from minitoolai.httpclient.client import ConnectError, HttpClient, HttpError, HttpResponse, ReadTimeout

# (merged from text_completions) Plain text to be continued, by OpenAI-compatible servers that offer `/completions`.
# (merged from text_completions)
# (merged from text_completions) Their answers are turned into chat's own form at this border, so that one path serves, counts and charges both.

_encode = msgspec.json.Encoder().encode
_decode_completion = msgspec.json.Decoder().decode


def text_of(prompt: Any) -> str | list[int]:
    """The one prompt, where a list holds no other."""
    is_wrapped = isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int)
    text: str | list[int] = prompt[0] if is_wrapped else prompt
    return text


def text_body(request: ChatRequest, limit: int, model: str) -> dict[str, Any]:
    """What is sent to `/completions`: the caller's fields, the limit forced, the usage asked for."""
    body = {**request.fields, "model": model, "prompt": text_of(request.prompt), "max_tokens": limit}
    body["stream"] = request.stream
    body.pop("stream_options", None)
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    return body


class TextAnswer:
    """An answer under way, told as a chat."""

    def __init__(self, answer: ChatAnswer) -> None:
        self._answer = answer
        self._rest = b""

    async def next_bytes(self) -> bytes:
        while data := await self._answer.next_bytes():
            if events := self._as_chat(data):
                return events
        return self._last()

    def take(self) -> bytes | None:
        data = self._answer.take()
        if data is None:
            return None
        if not data:
            return self._last()
        # Nothing whole yet is nothing yet: empty bytes would be the end.
        return self._as_chat(data) or None

    def listen(self, listener: Callable[[], None] | None, sink: Callable[[bytes], None] | None = None) -> bool:
        # The engine's own bytes are not what the caller gets: all of them go through `take`.
        return self._answer.listen(listener)

    async def read(self) -> bytes:
        return chat_of_text(await self._answer.read())

    async def close(self) -> None:
        await self._answer.close()

    def _last(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest

    def _as_chat(self, data: bytes) -> bytes:
        data = (self._rest + data).replace(b"\r\n", b"\n")
        whole, found, self._rest = data.rpartition(b"\n\n")
        if not found:
            return b""
        return b"".join(_event(event) for event in whole.split(b"\n\n") if event)


def _event(event: bytes) -> bytes:
    if not event.startswith(b"data:") or event[5:].strip() == b"[DONE]":
        return event + b"\n\n"
    return b"data: " + chat_of_text(event[5:].strip()) + b"\n\n"


def chat_of_text(data: bytes) -> bytes:
    """A `text_completion`, whole or a piece of it, as a chat's; what is none stays as it is, for others to judge."""
    try:
        body = _decode_completion(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        return data
    for choice in body["choices"]:
        if isinstance(choice, dict) and "text" in choice:
            text = choice.pop("text")
            # A reader of streams looks at the delta, one of whole answers at the message.
            choice["delta"] = {"content": text}
            choice["message"] = {"role": "assistant", "content": text}
    return _encode(body)


# (merged from embeddings) Vectors of texts, by OpenAI-compatible servers that offer `/embeddings`.
# (merged from embeddings)
# (merged from embeddings) Their answers are turned into a chat's form at this border, so that one path serves, counts and charges both.


class _Embeddings(msgspec.Struct):
    data: list[msgspec.Raw]
    model: str = ""
    usage: dict[str, Any] | None = None


_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


class EmbeddingAnswer:
    """An answer under way, told as a chat whose one choice holds the vectors."""

    def __init__(self, answer: ChatAnswer) -> None:
        self._answer = answer

    async def next_bytes(self) -> bytes:
        return await self._answer.next_bytes()

    def take(self) -> bytes | None:
        return self._answer.take()

    def listen(self, listener: Callable[[], None] | None, sink: Callable[[bytes], None] | None = None) -> bool:
        return False

    async def read(self) -> bytes:
        return chat_of_embeddings(await self._answer.read())

    async def close(self) -> None:
        await self._answer.close()


def chat_of_embeddings(body: bytes) -> bytes:
    """EngineError where it holds no vectors."""
    try:
        found = _decode_embeddings(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"the engine sent something that is no embedding: {error}") from error
    if not found.data:
        raise EngineError("the engine sent no embedding")
    # A word for the count that stands in where an engine reports none.
    choice = {"index": 0, "message": {"role": "assistant", "content": "."}, "data": found.data}
    chat: dict[str, Any] = {"object": "chat.completion", "model": found.model, "choices": [choice]}
    if found.usage is not None:
        chat["usage"] = {"completion_tokens": 0, **found.usage}
    return _encode(chat)


#: What we ask of a streaming engine whatever the caller asked: without the usage there is no exact charge.
_STREAM_OPTIONS = {"include_usage": True}
_LARGEST_ERROR = 65_536


class UpstreamAnswer:
    """The bytes of one answer; foreign failures become EngineError here."""

    def __init__(self, answer: HttpResponse, engine: UpstreamEngine) -> None:
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

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        client: HttpClient,
        *,
        base_url: str = "",
        key: str = "",
        may_repeat: bool = False,
        slots: ConcurrencyLimit | None = None,
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

    def vision_unavailable_reason(self) -> str | None:
        return None

    def context_tokens(self) -> int | None:
        return None

    def unsupported_field(self, request: ChatRequest) -> str | None:
        if request.prompt is not None and not self._entry.completions:
            return "prompt"
        return next((name for name in self._entry.unsupported if request.fields.get(name) is not None), None)

    def check_capacity(self) -> None:
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

    async def _begin_in_turn(self, slots: ConcurrencyLimit, request: ChatRequest, limit: int) -> SlottedAnswer:
        request.waits = True
        await slots.take()
        request.waits = False
        try:
            return SlottedAnswer(await self._begin(request, limit), slots)
        except BaseException:
            slots.release()
            raise

    def _begin(self, request: ChatRequest, limit: int) -> Coroutine[Any, Any, ChatAnswer]:
        if request.embed is not None:
            return self._embed(request, request.embed)
        if request.prompt is not None:
            return self._continue(request, limit)
        return self._answer(self._url, _encode(upstream_body(request, limit, self._entry)))

    async def _embed(self, request: ChatRequest, texts: list[Any]) -> EmbeddingAnswer:
        body = {**request.fields, "model": self._entry.names.get(request.model, request.model), "input": texts}
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

    async def _failure(self, answer: HttpResponse) -> EngineError | ContextExceeded | Overloaded:
        try:
            body = await answer.read(_LARGEST_ERROR)
        except HttpError:
            body = b""
        finally:
            answer.close()
        return upstream_failure(answer.status, answer.headers.get("retry-after"), body, self.name)


def upstream_body(request: ChatRequest, limit: int, entry: EngineEntry) -> dict[str, Any]:
    """What is sent: every field of the caller's, and those that are ours to set."""
    body = dict(request.fields)
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
    if isinstance(error, ConnectError):
        return EngineError(f"{name} cannot be reached")
    if isinstance(error, ReadTimeout):
        return EngineTimeout(f"{name} went silent")
    return EngineBroken(f"{name} broke off its answer")
