"""Dialect of `/v1/messages`, Anthropic's Messages API, and its count of tokens.

A request is translated to a chat, for any engine. If the engine speaks Anthropic's format itself, request and response
pass through instead.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.chat.dialects.completions import rename_fields
from minitoolai.chat.dialects.messages_request import parse_messages, passed_headers
from minitoolai.chat.dialects.messages_stream import MessageStream, content_of, message_object, stop_reason
from minitoolai.chat.endpoint import ChatEndpoint, DialectAdapter, DialectRun, refuse_method
from minitoolai.chat.run import ChatRun
from minitoolai.chat.service import ChatService
from minitoolai.chat.stream.chunks import DONE
from minitoolai.chat.stream.decoding import read_usage
from minitoolai.core.errors import ClientLeft, ContextExceeded, ServiceError
from minitoolai.core.inference import ChatRequest, MessagesForm, Usage
from minitoolai.http.asgi import JSON, Receive, Scope, Send, headers_by_name, respond, respond_error
from minitoolai.http.auth import authenticate
from minitoolai.http.bodies.bodies import BodyLimits, read_parsed
from minitoolai.http.errors import MESSAGES_PATHS, last_event
from minitoolai.http.request_context import REQUEST_CONTEXT

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
#: Field names of a chat → field names of this format.
_NAMES = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "thinking",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "user": "metadata.user_id",
}
#: How Anthropic's own message begins. Clients recognize it, and then summarize the conversation.
_TOO_LONG = "prompt is too long: "


class MessagesDialect:
    """Dialect of Anthropic's messages. One object for each request, because it holds the caller's headers."""

    path = MESSAGES_PATHS

    def __init__(self, headers: dict[str, str], *, is_count: bool = False) -> None:
        self._headers = headers
        self._is_count = is_count
        self._places: dict[str, str] = {}

    def parse(self, body: bytes) -> ChatRequest:
        request = parse_messages(body, self._headers, is_count=self._is_count)
        self._places = _form_of(request).places
        return request

    def adapt(self, run: ChatRun) -> DialectRun:
        return DialectAdapter(run, MessagesTranslator(run))

    def map_error(self, error: ServiceError) -> ServiceError:
        error = rename_fields(error, _NAMES)
        place = self._places.get(error.param or "")
        if place is not None:
            error.message = error.message.replace(error.param or "", place)
            error.param = place
        # Tools have no `function` object in this format, and the limit has another name.
        error.message = re.sub(r"(tools\[\d+\])\.function\.parameters", r"\1.input_schema", error.message)
        error.message = re.sub(r"(tools\[\d+\])\.function\.", r"\1.", error.message)
        error.message = error.message.replace("max_completion_tokens", "max_tokens").replace("image_url part", "image")
        # Clients replace Anthropic's text by their own. An agent's first prompt, where no summary helps, keeps ours.
        if isinstance(error, ContextExceeded) and not error.is_agents_first and not error.message.startswith(_TOO_LONG):
            error.message = _TOO_LONG + error.message
        return error

    def error_frame(self, adapted: DialectRun, error: ServiceError) -> bytes:
        return last_event(self.map_error(error), self.path)


def _form_of(request: ChatRequest) -> MessagesForm:
    form = request.messages_form
    assert form is not None
    return form


class MessagesTranslator:
    """Translate chat chunks and completions to messages and their events, unless they are in that format already."""

    def __init__(self, run: ChatRun) -> None:
        self._run = run
        self._name = f"msg_{run.name[4:]}"
        self._tool_names = _form_of(run.request).tool_names
        self._stream = MessageStream(self._name, run.request.model, self._tool_names, run.expected_prompt)

    def events(self, block: bytes) -> bytes:
        if self._run.passes_through:
            # If an engine of another kind takes over, it must not begin the message again.
            self._stream.has_begun = True
            return block
        return b"".join([self._stream.chunk(_data(event)) for event in block.split(b"\n\n") if event])

    def final_events(self, block: bytes) -> bytes:
        if self._run.passes_through:
            return block
        return self._stream.final_events(_usage(_data(block.removesuffix(DONE))))

    def completion(self, body: bytes) -> bytes:
        if self._run.passes_through:
            return body
        completion = _decode(body)
        (choice,) = completion["choices"][:1]
        content = content_of(choice["message"], self._name, self._tool_names)
        reason = stop_reason(choice.get("finish_reason"))
        return _encode(message_object(self._name, completion["model"], content, reason, _usage(completion)))


def _data(event: bytes) -> Any:
    return _decode(event.strip().removeprefix(b"data:"))


def _usage(fields: dict[str, Any]) -> Usage:
    usage = read_usage(fields["usage"])
    assert usage is not None
    return usage


# ── endpoints ─────────────────────────────────────────────────────────────────────────────────────────────


class MessagesEndpoint:
    """ASGI app for POST to `/v1/messages`."""

    def __init__(self, chats: ChatService, keys: KeyVerifier, limits: BodyLimits) -> None:
        self._chats = chats
        self._keys = keys
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _add_request_id(scope)
        dialect = MessagesDialect(passed_headers(headers_by_name(scope)))
        await ChatEndpoint(self._chats, self._keys, dialect, self.limits)(scope, receive, send)


class CountTokensEndpoint:
    """ASGI app for POST to `/v1/messages/count_tokens`. Counting is free of charge."""

    def __init__(self, chats: ChatService, keys: KeyVerifier, limits: BodyLimits) -> None:
        self._chats = chats
        self._keys = keys
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _add_request_id(scope)
        dialect = MessagesDialect(passed_headers(headers_by_name(scope)), is_count=True)
        try:
            if scope["method"] != "POST":
                await refuse_method(scope, send, dialect.path)
                return
            caller = await authenticate(scope, self._keys)
            request = await read_parsed(dialect.parse, scope, receive, self.limits)
            tokens = await self._chats.count_tokens(caller, request)
        except ClientLeft:
            return
        except ServiceError as error:
            await respond_error(send, dialect.map_error(error), [], dialect.path)
            return
        await respond(send, 200, _encode({"input_tokens": tokens}), [JSON])


def _add_request_id(scope: Scope) -> None:
    """Add the request ID under the name that Anthropic's libraries read."""
    context = scope.get(REQUEST_CONTEXT)
    if context is not None:
        context.add([(b"request-id", context.request_id().encode())])
