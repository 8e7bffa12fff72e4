"""Servers with Anthropic's Messages API as chat engines.

A request that was sent in this format passes through as it is, and so does its response. All others are translated
into it, and their responses back into those of a chat, so that one code path serves, counts and charges all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.anthropic.request import (
    SCHEMA_TOOL,
    messages_body,
    native_body,
    unsupported_field,
    uses_schema_tool,
)
from minitoolai.engines.chat.anthropic.response import MessagesToChat, chat_body
from minitoolai.engines.chat.openai import UpstreamEngine, UpstreamResponse
from minitoolai.httpclient.client import HttpClient, HttpResponse

#: The version of the API that a request has unless its caller says otherwise.
VERSION = "2023-06-01"
#: Fields of `/v1/messages` that `/v1/messages/count_tokens` does not have.
_NOT_COUNTED = ("max_tokens", "stream", "temperature", "top_p", "top_k", "stop_sequences", "metadata", "service_tier")
_CLOCK = SystemClock()
_encode = msgspec.json.Encoder().encode


class AnthropicEngine(UpstreamEngine):
    """One server with one API key. Ready if it has the key it needs."""

    speaks_messages = True

    def __init__(
        self, name: str, entry: EngineEntry, client: HttpClient, *, base_url: str = "", key: str = "", **options: Any
    ) -> None:
        super().__init__(name, entry, client, base_url=base_url, key=key, **options)
        url = (base_url or entry.base_url).rstrip("/")
        self._messages_url = f"{url}/messages"
        headers = {"content-type": "application/json", "anthropic-version": VERSION, **entry.headers}
        self._headers = {**headers, "x-api-key": key} if key else headers

    def unsupported_field(self, request: ChatRequest) -> str | None:
        if request.messages_form is not None:
            return None
        field = next((name for name in self._entry.unsupported if name in request.fields), None)
        return field or unsupported_field(request, self._entry)

    async def count_messages(self, request: ChatRequest) -> int | None:
        """Return the number of prompt tokens of a Messages request, as the server counts them."""
        form = request.messages_form
        assert form is not None
        body = native_body(request, form, 1, self._entry)
        body = {name: value for name, value in body.items() if name not in _NOT_COUNTED}
        response = await self._post(
            f"{self._messages_url}/count_tokens", _encode(body), UpstreamResponse, {**self._headers, **form.headers}
        )
        try:
            counted = msgspec.json.decode(await response.read())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineError(f"{self.label} sent an invalid count of tokens") from error
        finally:
            await response.close()
        tokens = counted.get("input_tokens") if isinstance(counted, dict) else None
        if not isinstance(tokens, int):
            raise EngineError(f"{self.label} sent no count of tokens")
        return tokens

    def _open_now(self, request: ChatRequest, limit: int) -> Coroutine[Any, Any, UpstreamResponse]:
        form = request.messages_form
        if form is not None:
            body = native_body(request, form, limit, self._entry)
            return self._post(self._messages_url, _encode(body), UpstreamResponse, {**self._headers, **form.headers})
        schema_tool = SCHEMA_TOOL if uses_schema_tool(request, self._entry) else None
        body = messages_body(request, limit, self._entry)
        translated: Callable[[HttpResponse, str], UpstreamResponse] = partial(
            TranslatedResponse, schema_tool=schema_tool
        )
        return self._post(self._messages_url, _encode(body), translated)


class TranslatedResponse(UpstreamResponse):
    """A response that is translated into that of a chat."""

    def __init__(self, response: HttpResponse, label: str, schema_tool: str | None) -> None:
        super().__init__(response, label)
        self._schema_tool = schema_tool
        self._events = MessagesToChat(_CLOCK.now_ms() // 1000, schema_tool=schema_tool)

    async def next_bytes(self) -> bytes:
        while data := await super().next_bytes():
            if chunks := self._events.feed(data):
                return chunks
        return self._events.end()

    def read_nowait(self) -> bytes | None:
        while data := super().read_nowait():
            if chunks := self._events.feed(data):
                return chunks
        return self._events.end() if data == b"" else None

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        # Chunks are translated first, so they cannot be passed on directly.
        self._response.set_callbacks(on_readable)
        return True

    async def read(self) -> bytes:
        return chat_body(await super().read(), _CLOCK.now_ms() // 1000, schema_tool=self._schema_tool)
