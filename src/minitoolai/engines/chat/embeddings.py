"""Vectors of texts, by OpenAI-compatible servers that offer `/embeddings`.

Their answers are turned into a chat's form at this border, so that one path serves, counts and charges both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from minitoolai.core.errors import EngineError
from minitoolai.engines.protocols import ChatAnswer

_encode = msgspec.json.Encoder().encode


class _Embeddings(msgspec.Struct):
    data: list[msgspec.Raw]
    model: str = ""
    usage: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Embeddings).decode


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
        found = _decode(body)
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
