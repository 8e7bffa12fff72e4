"""Translate a chat's chunks and completions to messages in Anthropic's format: content blocks, one after the other."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minitoolai.chat.stream.decoding import Json, decode_json, reasoning_of
from minitoolai.chat.stream.passthrough import messages_usage
from minitoolai.core.inference import Usage

_encode = msgspec.json.Encoder().encode
#: Finish reasons of a chat → stop reasons.
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
#: Index of a legacy `function_call`, of which there is only one and which has none.
_LEGACY_CALL = -1
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_-]")
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def stop_reason(finish_reason: str | None) -> str:
    """Return the stop reason for the finish reason of a chat."""
    return _STOP_REASONS.get(finish_reason or "stop", "end_turn")


def usage_object(usage: Usage) -> Json:
    """Return the usage of a whole message."""
    by_time = None
    if usage.cache_write_tokens:
        for_an_hour = usage.cache_write_1h_tokens
        by_time = {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - for_an_hour,
            "ephemeral_1h_input_tokens": for_an_hour,
        }
    return {**messages_usage(usage), "cache_creation": by_time, "server_tool_use": None, "service_tier": "standard"}


def message_object(name: str, model: str, content: list[Json], reason: str | None, usage: Usage) -> Json:
    """Return a message, finished or, without a reason, at its beginning."""
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage_object(usage),
    }


def content_of(message: Json, name: str, tool_names: dict[str, str]) -> list[Json]:
    """Return the content blocks for the message of a completion."""
    blocks: list[Json] = []
    if reasoning := reasoning_of(message):
        # Without a signature, so that no engine takes it for its own when the client sends it back.
        blocks.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    for field in ("content", "refusal"):
        if text := message.get(field):
            blocks.append({"type": "text", "text": text})
    calls = list(message.get("tool_calls") or ())
    if function := message.get("function_call"):
        calls.append({"id": None, "function": function})
    for call in calls:
        function = call["function"]
        called = tool_names.get(function["name"], function["name"])
        block = {"type": "tool_use", "id": tool_id(call.get("id"), name), "name": called}
        blocks.append({**block, "input": _input_of(function["arguments"])})
    return blocks


def tool_id(call_id: str | None, name: str) -> str:
    """Return the ID of a call as this format allows it. `name` is the message's, for a call without an ID."""
    return _NOT_IN_AN_ID.sub("_", call_id) if call_id else f"toolu_{name[4:]}"


def _input_of(arguments: str) -> Json:
    """Return the arguments as an object. A call that was cut off, and so has no valid arguments, has an empty one."""
    try:
        value = decode_json(arguments.encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class _ToolUse:
    """A tool call of the stream. Its pieces wait while another block is open."""

    def __init__(self, call_id: str, function: str) -> None:
        self.call_id = call_id
        self.function = function
        self.arguments = ""
        self.waiting = ""


class MessageStream:
    """State of one streamed message: turns chunks into events. Only one content block is open at a time."""

    def __init__(self, name: str, model: str, tool_names: dict[str, str], prompt_tokens: int) -> None:
        self._name = name
        self._model = model
        self._tool_names = tool_names
        self._prompt_tokens = prompt_tokens
        #: True once `message_start` was sent, by this stream or as an event of an engine that passed through.
        self.has_begun = False
        #: Index of the block that is open, or the next one; and the type of the open block.
        self._index = 0
        self._open = ""
        self._calls: dict[int, _ToolUse] = {}
        self._open_call: _ToolUse | None = None
        #: Calls that have begun while the open one was incomplete, in order.
        self._queue: list[_ToolUse] = []
        self._finish_reason: str | None = None

    def chunk(self, chunk: Json) -> bytes:
        """Return the events for one chunk."""
        if not self.has_begun:
            self._model = chunk["model"]
        events = [self.beginning()]
        for choice in chunk["choices"]:
            self._add_delta(choice.get("delta") or {}, events)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return b"".join(events)

    def beginning(self) -> bytes:
        """Return the first two events on the first call, then nothing. The prompt's tokens are those counted so far."""
        if self.has_begun:
            return b""
        self.has_begun = True
        start = message_object(self._name, self._model, [], None, Usage(self._prompt_tokens, 0))
        return _event("message_start", message=start) + PING

    def final_events(self, usage: Usage) -> bytes:
        """Close all blocks, and return the last events with the usage that was charged."""
        events = [self.beginning()]
        self._close(events)
        delta = {"stop_reason": stop_reason(self._finish_reason), "stop_sequence": None}
        events += [_event("message_delta", delta=delta, usage=messages_usage(usage)), _STOP]
        return b"".join(events)

    # ── blocks ────────────────────────────────────────────────────────────────────────────────────────────

    def _add_delta(self, delta: Json, events: list[bytes]) -> None:
        if reasoning := reasoning_of(delta):
            self._open_block("thinking", {"thinking": "", "signature": ""}, events)
            events.append(self._delta(b"thinking_delta", b"thinking", reasoning))
        for field in ("content", "refusal"):
            if text := delta.get(field):
                self._open_block("text", {"text": ""}, events)
                events.append(self._delta(b"text_delta", b"text", text))
        for call in delta.get("tool_calls") or ():
            self._add_call(call.get("index", 0), call.get("id"), call.get("function") or {}, events)
        if function := delta.get("function_call"):
            self._add_call(_LEGACY_CALL, None, function, events)

    def _open_block(self, kind: str, fields: Json, events: list[bytes]) -> None:
        """Open a block with text, unless it is open."""
        if self._open != kind:
            self._close(events)
            self._start(kind, fields, events)

    def _start(self, kind: str, fields: Json, events: list[bytes]) -> None:
        self._open = kind
        events.append(_event("content_block_start", index=self._index, content_block={"type": kind, **fields}))

    def _delta(self, kind: bytes, field: bytes, text: str) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}'
            b"\n\n" % (self._index, kind, field, _encode(text))
        )

    def _stop_block(self, events: list[bytes]) -> None:
        if self._open == "thinking":
            events.append(self._delta(b"signature_delta", b"signature", ""))
        events.append(_event("content_block_stop", index=self._index))
        self._index += 1
        self._open, self._open_call = "", None

    def _close(self, events: list[bytes]) -> None:
        """Close the open block, and send and close the calls that wait for it."""
        if self._open:
            self._stop_block(events)
        while self._queue:
            self._start_call(self._queue.pop(0), events)
            self._stop_block(events)

    # ── tool calls ────────────────────────────────────────────────────────────────────────────────────────

    def _add_call(self, index: int, call_id: str | None, function: Json, events: list[bytes]) -> None:
        """Add a piece of a call. While the open call is incomplete, pieces of others wait."""
        call = self._calls.get(index)
        if call is None:
            call = self._calls[index] = _ToolUse(tool_id(call_id, self._name), function.get("name") or "")
            self._queue.append(call)
        piece = function.get("arguments") or ""
        call.arguments += piece
        if call is self._open_call:
            if piece:
                events.append(self._delta(b"input_json_delta", b"partial_json", piece))
        else:
            call.waiting += piece
        if self._open_call is None and self._open:
            self._stop_block(events)
        while self._queue and (self._open_call is None or _is_complete(self._open_call.arguments)):
            if self._open:
                self._stop_block(events)
            self._start_call(self._queue.pop(0), events)

    def _start_call(self, call: _ToolUse, events: list[bytes]) -> None:
        name = self._tool_names.get(call.function, call.function)
        self._start("tool_use", {"id": call.call_id, "name": name, "input": {}}, events)
        self._open_call = call
        if call.waiting:
            events.append(self._delta(b"input_json_delta", b"partial_json", call.waiting))
            call.waiting = ""


def _is_complete(arguments: str) -> bool:
    """Return True if these are all arguments of a call: another object cannot follow."""
    try:
        msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **fields}) + b"\n\n"
