"""Translate the responses of Anthropic's Messages API into those of a chat: a stream event by event, or one object."""

from __future__ import annotations

import json
from typing import Any

import msgspec

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_DONE = b"data: [DONE]\n\n"
#: Stop reasons → finish reasons of a chat.
FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
#: Form of `reasoning_details`, as OpenRouter's clients know it.
_FORMAT = "anthropic-claude-v1"


def chat_usage(usage: Any) -> Json | None:
    """Return a usage in the form of a chat, or None if there is none. `prompt_tokens` includes what a cache holds."""
    if not isinstance(usage, dict):
        return None
    read, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    by_time = usage.get("cache_creation")
    prompt = _count(usage, "input_tokens") + read + written
    output = _count(usage, "output_tokens")
    details: Json = {"cached_tokens": read, "audio_tokens": 0, "cache_write_tokens": written}
    if isinstance(by_time, dict):
        details["cache_write_1h_tokens"] = _count(by_time, "ephemeral_1h_input_tokens")
    thought = usage.get("output_tokens_details")
    reasoning = _count(thought, "thinking_tokens") if isinstance(thought, dict) else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _count(fields: Json, name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def merge_counts(before: Json, now: Any) -> Json:
    """Return the usage so far: the counts of the last event, and those of earlier ones that it leaves out."""
    given = {name: value for name, value in now.items() if value is not None} if isinstance(now, dict) else {}
    return before | given


class MessagesToChat:
    """Translate one stream. `schema_tool`: the input of this tool is the text of the response."""

    def __init__(self, created_s: int, *, schema_tool: str | None = None) -> None:
        self._schema_tool = schema_tool
        self._incomplete = b""
        self._head: Json = {"id": "", "object": "chat.completion.chunk", "created": created_s, "model": ""}
        self._usage: Json = {}
        #: By index of an open block: its type, and the index of the tool call.
        self._blocks: dict[Any, tuple[str, int]] = {}
        self._has_input: set[int] = set()
        self._calls = 0

    def feed(self, data: bytes) -> bytes:
        """Return the chunks for the whole events so far. An event that cannot be read is returned as it is."""
        data = (self._incomplete + data).replace(b"\r\n", b"\n")
        block, _, self._incomplete = data.rpartition(b"\n\n")
        return b"".join([self._event(event) for event in block.split(b"\n\n") if event.strip()])

    def end(self) -> bytes:
        """Return the chunks for the remaining bytes when the stream has ended."""
        rest, self._incomplete = self._incomplete, b""
        if rest.lstrip().startswith((b"{", b"[")):
            return self._whole(rest)
        return self._event(rest) if rest.strip() else b""

    def _whole(self, body: bytes) -> bytes:
        """Return the chunk for a message, or an error, where a stream was requested."""
        try:
            message = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return body
        if not isinstance(message, dict) or message.get("type") != "message":
            return body
        completion = completion_of(message, self._head["created"], schema_tool=self._schema_tool)
        return _encode(completion) + b"\n"

    def _event(self, event: bytes) -> bytes:
        lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
        if not lines:
            return b"" if event.lstrip().startswith((b"event:", b":", b"id:", b"retry:")) else event + b"\n\n"
        data = b"\n".join(line[5:].removeprefix(b" ") for line in lines)
        try:
            fields = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b"data: " + data.replace(b"\n", b" ") + b"\n\n"
        if not isinstance(fields, dict):
            return b""
        kind = fields.get("type")
        if kind == "message_start":
            return self._start(fields.get("message"))
        if kind == "content_block_start":
            return self._block_start(fields.get("index"), fields.get("content_block"))
        if kind == "content_block_delta":
            return self._block_delta(fields.get("index"), fields.get("delta"))
        if kind == "content_block_stop":
            return self._block_stop(fields.get("index"))
        if kind == "message_delta":
            return self._message_delta(fields)
        if kind == "message_stop":
            return _DONE
        if kind == "error" or "error" in fields:
            return b"event: error\ndata: " + _encode(fields) + b"\n\n"
        # Ping, and events that came later than this program.
        return b""

    def _start(self, message: Any) -> bytes:
        message = message if isinstance(message, dict) else {}
        self._head |= {name: message[name] for name in ("id", "model") if isinstance(message.get(name), str)}
        self._usage = merge_counts(self._usage, message.get("usage"))
        # The usage so far, in case that the stream is cut off: it has the whole prompt.
        usage = self._chunk([], chat_usage(self._usage)) if self._usage else b""
        return self._delta({"role": "assistant", "content": ""}) + usage

    def _block_start(self, index: Any, block: Any) -> bytes:
        if not isinstance(block, dict):
            return b""
        kind = block.get("type")
        if kind == "tool_use" and block.get("name") == self._schema_tool:
            self._blocks[index] = "schema", 0
            return b""
        if kind == "tool_use":
            self._blocks[index] = "tool_use", self._calls
            self._calls += 1
            given = block.get("input")
            if given:
                self._has_input.add(index)
            call = {"index": self._calls - 1, "id": block.get("id"), "type": "function"}
            function = {"name": block.get("name"), "arguments": _encode(given).decode() if given else ""}
            return self._delta({"tool_calls": [{**call, "function": function}]})
        self._blocks[index] = str(kind), 0
        if kind == "redacted_thinking":
            detail = {"type": "reasoning.encrypted", "data": block.get("data"), "format": _FORMAT, "index": index}
            return self._delta({"reasoning_details": [detail]})
        if kind == "text" and block.get("text"):
            return self._delta({"content": block["text"]})
        return self._thought(index, block["thinking"]) if kind == "thinking" and block.get("thinking") else b""

    def _block_delta(self, index: Any, delta: Any) -> bytes:
        if not isinstance(delta, dict):
            return b""
        kind = delta.get("type")
        if kind == "text_delta":
            return self._delta({"content": delta.get("text")})
        if kind == "thinking_delta":
            return self._thought(index, delta.get("thinking"))
        if kind == "signature_delta":
            detail = {"type": "reasoning.text", "signature": delta.get("signature"), "format": _FORMAT, "index": index}
            return self._delta({"reasoning_details": [detail]})
        if kind != "input_json_delta" or not delta.get("partial_json"):
            return b""
        block, call = self._blocks.get(index, ("", 0))
        self._has_input.add(index)
        if block == "schema":
            return self._delta({"content": delta["partial_json"]})
        if block != "tool_use":
            return b""
        return self._delta({"tool_calls": [{"index": call, "function": {"arguments": delta["partial_json"]}}]})

    def _thought(self, index: Any, text: Any) -> bytes:
        detail = {"type": "reasoning.text", "text": text, "format": _FORMAT, "index": index}
        return self._delta({"reasoning_content": text, "reasoning_details": [detail]})

    def _block_stop(self, index: Any) -> bytes:
        kind, call = self._blocks.pop(index, ("", 0))
        if index in self._has_input or kind not in ("tool_use", "schema"):
            return b""
        if kind == "schema":
            return self._delta({"content": "{}"})
        return self._delta({"tool_calls": [{"index": call, "function": {"arguments": "{}"}}]})

    def _message_delta(self, fields: Json) -> bytes:
        self._usage = merge_counts(self._usage, fields.get("usage"))
        delta = fields.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        sent = self._delta({}, finish_reason(reason, has_calls=self._calls > 0)) if reason else b""
        return sent + self._chunk([], chat_usage(self._usage))

    def _delta(self, delta: Json, reason: str | None = None) -> bytes:
        return self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def _chunk(self, choices: list[Json], usage: Json | None = None) -> bytes:
        return b"data: " + _encode({**self._head, "choices": choices, "usage": usage}) + b"\n\n"


def finish_reason(reason: Any, *, has_calls: bool) -> Any:
    """Return the finish reason for a stop reason. The tool of a schema is no call."""
    if reason == "tool_use" and not has_calls:
        return "stop"
    return FINISH_REASONS.get(reason, reason) if isinstance(reason, str) else reason


def chat_body(body: bytes, created_s: int, *, schema_tool: str | None = None) -> bytes:
    """Return the completion for the body of a response. A body that is no message is returned as it is."""
    try:
        message = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    if not isinstance(message, dict) or message.get("type") != "message":
        return body
    return _encode(completion_of(message, created_s, schema_tool=schema_tool))


def completion_of(message: Json, created_s: int, *, schema_tool: str | None = None) -> Json:
    """Return the completion for a whole message."""
    texts: list[str] = []
    thoughts: list[str] = []
    details: list[Json] = []
    calls: list[Json] = []
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            texts.append(str(block.get("text") or ""))
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking") or ""))
            detail = {"text": thoughts[-1], "signature": block.get("signature"), "format": _FORMAT, "index": index}
            details.append({"type": "reasoning.text", **detail})
        elif kind == "redacted_thinking":
            detail = {"data": block.get("data"), "format": _FORMAT, "index": index}
            details.append({"type": "reasoning.encrypted", **detail})
        elif kind == "tool_use" and block.get("name") == schema_tool:
            texts.append(json.dumps(block.get("input") or {}, ensure_ascii=False))
        elif kind == "tool_use":
            function = {"name": block.get("name"), "arguments": _encode(block.get("input") or {}).decode()}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
    answer: Json = {"role": "assistant", "content": "".join(texts) or None, "refusal": None}
    if thoughts or details:
        answer |= {"reasoning_content": "".join(thoughts), "reasoning_details": details}
    if calls:
        answer["tool_calls"] = calls
    reason = finish_reason(message.get("stop_reason"), has_calls=bool(calls))
    return {
        "id": message.get("id"),
        "object": "chat.completion",
        "created": created_s,
        "model": message.get("model"),
        "choices": [{"index": 0, "message": answer, "logprobs": None, "finish_reason": reason}],
        "usage": chat_usage(message.get("usage")),
    }
