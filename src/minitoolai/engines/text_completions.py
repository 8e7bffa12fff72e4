"""Plain text to be continued, by OpenAI-compatible servers that offer `/completions`.

Their answers are turned into chat's own form at this border, so that one path serves, counts and charges both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from minitoolai.core.inference import ChatRequest
from minitoolai.engines.base import ChatAnswer
from minitoolai.engines.forwarding import forwarded

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def text_of(prompt: Any) -> str | list[int]:
    """The one prompt, where a list holds no other."""
    is_wrapped = isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int)
    text: str | list[int] = prompt[0] if is_wrapped else prompt
    return text


def text_body(request: ChatRequest, limit: int, model: str) -> dict[str, Any]:
    """What is sent to `/completions`: the caller's fields, the limit forced under one name, the usage asked for."""
    body = {**forwarded(request.fields), "model": model, "prompt": text_of(request.prompt), "max_tokens": limit}
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
        body = _decode(data)
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
