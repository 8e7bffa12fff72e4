"""Embeddings by a GGUF file: count the inputs, send them to llama.cpp in batches, and shorten the vectors on request.

A request may have 2,048 inputs. They are sent in small batches, so that llama.cpp works on those of other requests in
between, and the event loop never handles many vectors at once.
"""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from minitoolai.core.errors import ContextExceeded, EngineError, InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.embeddings import vectors_as_chat
from minitoolai.engines.chat.llama.engine import LlamaEngine

#: Inputs of one call of llama.cpp, and calls that count tokens at the same time.
BATCH = 16
COUNTS = 8
#: Tokens of all inputs of one request: what the bundled model reads in a few minutes.
MAX_TOKENS = 131_072


class LlamaEmbedder(LlamaEngine):
    """An embedding model in a llama.cpp child process."""

    #: Numbers in a vector, once they are known.
    _width = 0

    async def open(self, request: ChatRequest, limit: int) -> EmbeddedVectors:  # type: ignore[override]
        await self.concurrency.acquire(request.account_id)
        return EmbeddedVectors(self, request, partial(self.concurrency.release, request.account_id))

    async def count_prompt(self, request: ChatRequest) -> int:
        """Return the sum of all inputs, each of which must fit into the context. Checks `dimensions`, too."""
        inputs = request.embed or []
        if self._fetched is not None and (index := _first_tokens(inputs)) is not None:
            # Tokens of another tokenizer would become the vector of another text.
            raise InvalidRequest(
                f"input[{index}] is a list of tokens, but this model has a tokenizer of its own: send the text "
                "(LangChain: check_embedding_ctx_length=False)",
                param=f"input[{index}]",
            )
        dimensions = request.fields.get("dimensions")
        if dimensions is not None and dimensions > await self._find_width():
            raise InvalidRequest(
                f"dimensions is {dimensions}, but the vectors of this model have {self._width}; ask for at most that",
                param="dimensions",
            )
        total = 0
        for start in range(0, len(inputs), COUNTS):
            counts = await asyncio.gather(*map(self._count, inputs[start : start + COUNTS]))
            for index, tokens in enumerate(counts, start):
                if tokens > self._context:
                    raise ContextExceeded(
                        f"input[{index}] is {tokens} tokens, but this model reads at most {self._context} tokens of "
                        "one text: shorten it or send it in parts",
                        param=f"input[{index}]",
                    )
            total += sum(counts)
            if total > MAX_TOKENS:
                raise ContextExceeded(
                    f"the inputs have more than {MAX_TOKENS} tokens together, the most that this model reads in one "
                    "request; send them in several",
                    param="input",
                )
        return total

    async def embed(self, inputs: list[Any]) -> Vectors:
        """Return the vectors of a few inputs, as base64, and the tokens that they have."""
        body = {"model": self._served_model, "input": inputs, "encoding_format": "base64"}
        answer = await self._post("/v1/embeddings", body, timeout_s=300.0)
        try:
            vectors = msgspec.convert(answer, Vectors)
        except msgspec.ValidationError as error:
            raise EngineError(f"{self.label} sent an invalid embeddings response; nothing was charged") from error
        if [vector.index for vector in vectors.data] != list(range(len(inputs))):
            raise EngineError(f"{self.label} sent embeddings that do not match the inputs; nothing was charged")
        return vectors

    async def _find_width(self) -> int:
        if not self._width:
            await self._wait_until_ready()
            models = await self._request("GET", "/v1/models", b"")
            self._width = int(models["data"][0]["meta"]["n_embd"])
        return self._width


class _EncodedVector(msgspec.Struct):
    index: int
    embedding: str


class _TokenUsage(msgspec.Struct):
    prompt_tokens: int


class Vectors(msgspec.Struct):
    """The response of llama.cpp to a few inputs."""

    data: list[_EncodedVector]
    usage: _TokenUsage


class EmbeddedVectors:
    """The vectors of one request, as a chat response that is read in one piece."""

    def __init__(self, engine: LlamaEmbedder, request: ChatRequest, on_close: Callable[[], None]) -> None:
        self._engine = engine
        self._request = request
        self._on_close: Callable[[], None] | None = on_close

    async def read(self) -> bytes:
        """Return a chat response with the vectors. Raises EngineError, after which nothing is charged."""
        inputs = self._request.embed or []
        dimensions = self._request.fields.get("dimensions")
        found, tokens = list[list[float] | str](), 0
        for start in range(0, len(inputs), BATCH):
            vectors = await self._engine.embed(inputs[start : start + BATCH])
            found += [shortened(vector.embedding, dimensions) for vector in vectors.data]
            tokens += vectors.usage.prompt_tokens
        return vectors_as_chat(found, self._engine.served_model, tokens)

    async def next_bytes(self) -> bytes:
        return b""

    def read_nowait(self) -> bytes | None:
        return None

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        return False

    async def close(self) -> None:
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


def shortened(vector: str, dimensions: int | None) -> str:
    """Return the first numbers of a base64 vector, scaled to length 1. Raises EngineError for an impossible number."""
    raw = base64.b64decode(vector)
    numbers = struct.unpack(f"<{len(raw) // 4}f", raw)
    if not all(map(math.isfinite, numbers)):
        raise EngineError("the engine sent an embedding that is no vector; nothing was charged")
    if dimensions is None or dimensions >= len(numbers):
        return vector
    first = numbers[:dimensions]
    length = math.hypot(*first) or 1.0
    return base64.b64encode(struct.pack(f"<{dimensions}f", *(number / length for number in first))).decode()


def _first_tokens(inputs: list[Any]) -> int | None:
    return next((index for index, text in enumerate(inputs) if not isinstance(text, str)), None)
