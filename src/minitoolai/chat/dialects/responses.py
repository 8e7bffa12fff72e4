"""Dialect of `/v1/responses`. Internally a chat. Responses are not stored, so a conversation cannot refer to one."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minitoolai.chat.chunks import DONE
from minitoolai.chat.decoding import reasoning_of
from minitoolai.chat.dialects import responses_stream as objects
from minitoolai.chat.dialects.completions import rename_fields
from minitoolai.chat.dialects.responses_request import NAMES, ResponseEcho, parse_response
from minitoolai.chat.dialects.responses_stream import Json, ResponseStream, response_object, status_after
from minitoolai.chat.dialects.responses_tools import called_item
from minitoolai.chat.endpoint import DialectAdapter, DialectRun, OpenAIErrors
from minitoolai.chat.run import ChatRun
from minitoolai.core.clock import Clock
from minitoolai.core.errors import EngineRateLimited, ServiceError
from minitoolai.core.inference import ChatRequest

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class ResponsesDialect(OpenAIErrors):
    """OpenAI's responses, generated synchronously and not stored."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def parse(self, body: bytes) -> ChatRequest:
        return parse_response(body)

    def adapt(self, run: ChatRun) -> DialectRun:
        return DialectAdapter(
            run, ResponsesTranslator(f"resp_{run.name[4:]}", run.request, self._clock.now_ms() // 1000)
        )

    def map_error(self, error: ServiceError) -> ServiceError:
        error = rename_fields(error, NAMES)
        # Tools have no `function` object in this format.
        error.param = re.sub(r"^(tool\w+(?:\[\d+\])?)\.function\.", r"\1.", error.param) if error.param else None
        return error

    def error_frame(self, adapted: DialectRun, error: ServiceError) -> bytes:
        assert isinstance(adapted, DialectAdapter)
        assert isinstance(adapted.translator, ResponsesTranslator)
        code = "rate_limit_exceeded" if isinstance(error, EngineRateLimited) else "server_error"
        return adapted.translator.stream.failure(error.message, code)


class ResponsesTranslator:
    """Translate chat chunks and completions to responses and their events."""

    def __init__(self, name: str, request: ChatRequest, created_s: int) -> None:
        self._name = name
        self._echo: ResponseEcho = request.form
        self.stream = ResponseStream(name, request.form, created_s, request.model)

    def events(self, block: bytes) -> bytes:
        return b"".join(self.stream.chunk(_data(event)) for event in block.split(b"\n\n") if event)

    def final_events(self, block: bytes) -> bytes:
        return self.stream.final_events(_data(block.removesuffix(DONE))["usage"])

    def completion(self, body: bytes) -> bytes:
        completion = _decode(body)
        (choice,) = completion["choices"][:1]
        status = status_after(choice.get("finish_reason"))
        response = response_object(
            self._name,
            self._echo,
            created_s=completion["created"],
            model=completion["model"],
            status=status,
            output=self._items(choice),
            usage=completion["usage"],
            finish_reason=choice.get("finish_reason"),
        )
        return _encode(response)

    def _items(self, choice: Json) -> list[Json]:
        status = status_after(choice.get("finish_reason"))
        message, suffix = choice["message"], self._name[5:]
        items: list[Json] = []
        if reasoning := reasoning_of(message):
            items.append(objects.reasoning_item(f"rs_{suffix}_0", reasoning, "completed"))
        parts: list[Json] = []
        if text := message.get("content"):
            logprobs = objects.logprobs_list(choice.get("logprobs")) if self._echo.logprobs else []
            parts.append(objects.text_part(text, logprobs))
        if refusal := message.get("refusal"):
            parts.append(objects.refusal_part(refusal))
        if parts:
            items.append(objects.message_item(f"msg_{suffix}_{len(items)}", parts, status))
        calls = list(message.get("tool_calls") or ())
        if function_call := message.get("function_call"):
            calls.append({"id": objects.made_call_id(self._name), "function": function_call})
        for call in calls:
            name, function = f"fc_{suffix}_{len(items)}", call["function"]
            item = objects.call_item(name, call["id"], function["name"], function["arguments"], status)
            items.append(called_item(item, self._echo.origins))
        return items


def _data(event: bytes) -> Any:
    return _decode(event.strip().removeprefix(b"data:"))
