"""Dialect of `/v1/responses`. Internally a chat. Responses are stored for a time, unless the request says otherwise."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec

from minitoolai.chat.dialects import responses_stream as objects
from minitoolai.chat.dialects.completions import rename_fields
from minitoolai.chat.dialects.responses_request import NAMES, ResponseEcho, parse_response
from minitoolai.chat.dialects.responses_stream import Json, ResponseStream, response_object, status_after
from minitoolai.chat.dialects.responses_tools import called_item
from minitoolai.chat.endpoint import DialectAdapter, DialectRun, OpenAIErrors
from minitoolai.chat.run import ChatRun
from minitoolai.chat.stored.items import parse_response_name, response_name
from minitoolai.chat.stored.store import ResponseStore
from minitoolai.chat.stored.vault import StoredRequest
from minitoolai.chat.stream.chunks import DONE
from minitoolai.chat.stream.decoding import reasoning_of
from minitoolai.core.clock import Clock, created_ms
from minitoolai.core.errors import ContextExceeded, EngineRateLimited, InvalidRequest, ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.storage.tables.responses import NewResponse

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class ResponsesDialect(OpenAIErrors):
    """OpenAI's responses. Those of the background are in chat/stored/background.py."""

    def __init__(self, clock: Clock, store: ResponseStore) -> None:
        self._clock = clock
        self._store = store

    def parse(self, body: bytes) -> ChatRequest:
        return parse_response(body, keeps=self._store.keeps)

    def adapt(self, run: ChatRun) -> DialectRun:
        translator = self.translator(run)
        if translator.echo.is_stored:
            return StoringAdapter(run, translator, self._store)
        return DialectAdapter(run, translator)

    def translator(self, run: ChatRun) -> ResponsesTranslator:
        """Return the translator of the run's output."""
        now_ms = created_ms(run.hold_id) if run.request.form.is_background else self._clock.now_ms()
        return ResponsesTranslator(response_name(run.hold_id), run.request, now_ms // 1000)

    def map_error(self, error: ServiceError) -> ServiceError:
        error = rename_fields(error, NAMES)
        # Tools have no `function` object in this format.
        error.param = re.sub(r"^(tool\w+(?:\[\d+\])?)\.function\.", r"\1.", error.param) if error.param else None
        if isinstance(error, ContextExceeded) and error.is_agents_first:
            error.code = InvalidRequest.code
        return error

    def error_frame(self, adapted: DialectRun, error: ServiceError) -> bytes:
        assert isinstance(adapted, DialectAdapter)
        assert isinstance(adapted.translator, ResponsesTranslator)
        return adapted.translator.stream.failure(error.message, error_code(error))


def error_code(error: ServiceError) -> str:
    """Return OpenAI's code for the error of a response that has begun."""
    if isinstance(error, EngineRateLimited):
        return "rate_limit_exceeded"
    return "server_error" if error.is_fault else "invalid_prompt"


class ResponsesTranslator:
    """Translate chat chunks and completions to responses and their events."""

    def __init__(self, name: str, request: ChatRequest, created_s: int) -> None:
        self._name = name
        self.echo: ResponseEcho = request.form
        #: When a background response was queued; an engine's own time is later.
        self.created_s = created_s if self.echo.is_background else None
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
            self.echo,
            created_s=self.created_s or completion["created"],
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
            logprobs = objects.logprobs_list(choice.get("logprobs")) if self.echo.logprobs else []
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
            items.append(called_item(item, self.echo.origins))
        return items


class StoringAdapter(DialectAdapter):
    """Run that stores its response in the turn in which it queues its charge: see chat/stored/store.py."""

    translator: ResponsesTranslator

    def __init__(self, run: ChatRun, translator: ResponsesTranslator, store: ResponseStore) -> None:
        super().__init__(run, translator)
        self.store = store
        self._final: bytes | None = None
        self._body = b""

    async def read_whole(self) -> bytes:
        self._body = await super().read_whole()
        return self._body

    async def charge(self, *, within_s: float) -> None:
        row = await self.seal()
        # Both are queued before anything is awaited, and the response is written first.
        stored = self.store.submit(row)
        await self.run.charge(within_s=within_s)
        async with asyncio.timeout(within_s):
            await stored

    async def response(self) -> bytes:
        """Return the object of the complete response. The usage is final from here on."""
        await self.run.count_output()
        if not self.run.request.stream:
            return self._body
        self.final_events()
        assert self.translator.stream.whole is not None
        return _encode(self.translator.stream.whole)

    async def seal(self) -> NewResponse:
        """Return the row of the complete response."""
        run, fields = self.run, self.translator.echo.fields
        previous = fields.get("previous_response_id")
        return await self.store.seal(
            run.reservation.account_id,
            run.hold_id,
            run.request.model,
            StoredRequest(fields["input"]),
            await self.response(),
            None if previous is None else parse_response_name(previous),
        )

    def final_events(self) -> bytes:
        if self._final is None:
            self._final = super().final_events()
        return self._final


def _data(event: bytes) -> Any:
    return _decode(event.strip().removeprefix(b"data:"))
