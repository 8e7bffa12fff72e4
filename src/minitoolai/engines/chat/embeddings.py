"""Embeddings of OpenAI-compatible servers: the request body, and the response translated into chat form.

A response is believed only if it has exactly one vector for each input. Otherwise a caller would pay for vectors that
belong to other texts, so it is an error, and nothing is charged.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import ChatRequest

_encode = msgspec.json.Encoder().encode
#: Largest number in a vector: embeddings are 32-bit floats.
_LARGEST = 3.4028234663852886e38


def embeddings_body(request: ChatRequest, entry: EngineEntry) -> dict[str, Any]:
    """Return the body for `/embeddings`: the caller's fields and inputs."""
    return {**request.forwarded(entry.forwards), "model": entry.served_name(request.model), "input": request.embed}


class _Vector(msgspec.Struct):
    embedding: list[float] | str
    index: Any = None


class _Embeddings(msgspec.Struct):
    data: list[_Vector]
    model: Any = None
    usage: Any = None


_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


def embeddings_as_chat(body: bytes, inputs: int, *, model: str = "") -> bytes:
    """Translate the body of an embeddings response, with its vectors in the order of the inputs.

    `model` replaces a name that the engine left out. Raises EngineError unless there is one vector for each input.
    """
    try:
        embeddings = _decode_embeddings(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError("the engine sent an invalid embeddings response; nothing was charged") from error
    vectors = _in_order(embeddings.data, inputs)
    served = embeddings.model if isinstance(embeddings.model, str) and embeddings.model else model
    return vectors_as_chat(vectors, served, _prompt_tokens(embeddings.usage))


def vectors_as_chat(vectors: Sequence[list[float] | str], model: str, tokens: int | None) -> bytes:
    """Return a chat response that holds these vectors, with the tokens of the inputs if they are known."""
    # Content for the estimate that replaces a missing usage.
    choice = {"index": 0, "message": {"role": "assistant", "content": "."}, "data": vectors}
    chat: dict[str, Any] = {"object": "chat.completion", "model": model, "choices": [choice]}
    if tokens is not None:
        chat["usage"] = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    return _encode(chat)


def _in_order(data: Sequence[_Vector], inputs: int) -> list[list[float] | str]:
    """Return the vectors sorted by their index. Raises EngineError unless each input has exactly one."""
    if len(data) != inputs:
        raise EngineError(f"the engine sent {len(data)} embeddings for {inputs} inputs; nothing was charged")
    # A single vector can belong only to the single input.
    found = {0 if inputs == 1 and item.index is None else _index(item.index): item.embedding for item in data}
    if found.keys() != set(range(inputs)):
        raise EngineError("the engine sent embeddings whose indexes do not match the inputs; nothing was charged")
    vectors = [found[index] for index in range(inputs)]
    if not all(map(_is_vector, vectors)):
        raise EngineError("the engine sent an embedding that is no vector; nothing was charged")
    return vectors


def _index(value: Any) -> int | None:
    """Return the index as an integer; JSON has only one type of numbers, and some servers quote them."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    return int(value) if is_whole else None


def _is_vector(vector: list[float] | str) -> bool:
    """Return True for a non-empty list of 32-bit floats, or for the base64 text of one."""
    if isinstance(vector, list):
        return bool(vector) and min(vector) >= -_LARGEST and max(vector) <= _LARGEST
    try:
        raw = base64.b64decode(vector, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) > 0 and len(raw) % 4 == 0 and all(map(math.isfinite, struct.unpack(f"<{len(raw) // 4}f", raw)))


def _prompt_tokens(usage: Any) -> int | None:
    """Return the reported tokens of the inputs, or None if there is no usable number: then our own count applies."""
    if not isinstance(usage, dict):
        return None
    for name in ("prompt_tokens", "total_tokens"):
        tokens = usage.get(name)
        if isinstance(tokens, int | float) and not isinstance(tokens, bool) and 0 < tokens < 2**53:
            return int(tokens)
    return None
