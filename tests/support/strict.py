"""Check responses against the types of OpenAI's own Python package: right types, nothing missing, nothing unknown.

The package itself takes anything; here a field that its types do not know is a fault, unless it is listed as ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pydantic
from openai.types import Completion, CreateEmbeddingResponse, ErrorObject, ImagesResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob
from openai.types.responses import Response, ResponseStreamEvent

#: Fields of messages and deltas that other servers add, which are passed on: their clients know them.
PASSED_ON = {
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "annotations",
    "audio",
    "channel",
    "extra_content",
    "prefix",
    "provider_specific_fields",
    "token_id",
}
#: Fields that we add to OpenAI's, by the object that has them (docs/reference/http.md).
OURS: dict[type, set[str]] = {
    Model: {
        "ready",
        "demo",
        "note",
        "kind",
        "context_length",
        "max_output_tokens",
        "vision",
        "price",
        "max_characters",
        "sizes",
        "voice",
        "formats",
        "translates",
        "max_seconds",
    },
    ImagesResponse: {"model", "demo"},
    # llama.cpp also sends the ID of each token.
    ChatCompletionTokenLogprob: {"id"},
    TopLogprob: {"id"},
    ChoiceDelta: PASSED_ON,
    ChatCompletionMessage: PASSED_ON,
    # OpenAI's own service sends it, but its package does not know it yet.
    Response: {"store"},
}
_EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)


def check(kind: type[pydantic.BaseModel], data: Any) -> Any:
    """Parse the object as `kind`. AssertionError names what does not fit."""
    return _known(kind.model_validate_json(json.dumps(data), strict=True))


def check_event(data: Any) -> Any:
    """Check one event of a streamed response by its own type."""
    found = _EVENT.validate_json(json.dumps(data), strict=True)
    assert found.type == data["type"]
    return _known(found)


def _known(found: pydantic.BaseModel) -> Any:
    strangers = [path for path, name, owner in unknown(found) if name not in OURS.get(owner, ())]
    assert strangers == [], f"{type(found).__name__} does not know {strangers}"
    return found


def unknown(value: Any, path: str = "") -> Iterator[tuple[str, str, type]]:
    """Yield (path, name, type it was found in) of every field that no type knows."""
    if isinstance(value, pydantic.BaseModel):
        for name in value.model_extra or ():
            yield f"{path}.{name}", name, type(value)
        for name in type(value).model_fields:
            yield from unknown(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from unknown(item, f"{path}.{key}")


def check_completion(data: Any) -> ChatCompletion:
    """Check a plain chat response."""
    found: ChatCompletion = check(ChatCompletion, data)
    return found


def check_chunks(events: list[Any]) -> list[ChatCompletionChunk]:
    """Check a stream of a chat: chunks, then `[DONE]`."""
    assert events[-1] == "[DONE]"
    return [check(ChatCompletionChunk, event) for event in events[:-1]]


def check_texts(events: list[Any]) -> list[Completion]:
    """Check a stream of a completion; its chunks have no finish reason until the end."""
    assert events[-1] == "[DONE]"
    for event in events[:-1]:
        for choice in event["choices"]:
            # The package's type describes plain responses; its own streams carry null here.
            assert choice["finish_reason"] in (None, "stop", "length", "content_filter")
    return [check(Completion, _finished(event)) for event in events[:-1]]


def _finished(event: Any) -> Any:
    return {**event, "choices": [{**c, "finish_reason": c["finish_reason"] or "stop"} for c in event["choices"]]}


def check_error(data: Any) -> ErrorObject:
    """Check the body of an error response."""
    assert set(data) == {"error"}
    found: ErrorObject = check(ErrorObject, data["error"])
    return found


__all__ = [
    "Completion",
    "CreateEmbeddingResponse",
    "ImagesResponse",
    "Model",
    "Response",
    "check",
    "check_chunks",
    "check_completion",
    "check_error",
    "check_event",
    "check_texts",
]
