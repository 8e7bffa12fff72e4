"""Tools for embedded models: put them into the prompt, and read the calls that the model writes.

llama.cpp's own support depends on the chat template of each model: it did not recognize that of Qwen2.5-Coder, and a
model without a place for tools in its template could not call any. Here every model gets them in the system message,
and `grammars.py` makes sure that what it writes can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from minitoolai.core.clock import random_text
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.llama.grammars import FIELDS, OPENERS, Tool, forced_name, text_of
from minitoolai.engines.chat.openai import UpstreamResponse
from minitoolai.httpclient.client import HttpResponse

Json = dict[str, Any]
_encode = msgspec.json.Encoder().encode

#: The words that Qwen's models were trained with, and a rule.
_PROMPT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>

{rule}"""
_DEFAULT_SYSTEM = "You are a helpful assistant."
_MAY = "If one of the functions can answer the query, call it. If none of them fits, answer in plain text."
_MUST = "You must call a function now."


def as_plain_chat(request: ChatRequest, tools: list[Tool], grammar: str | None) -> ChatRequest:
    """Return the chat as llama.cpp gets it: the tools in the prompt, and the grammar instead of fields."""
    fields = {key: value for key, value in request.fields.items() if key not in FIELDS}
    if grammar is not None:
        fields["grammar"] = grammar
    messages = with_tools(request.messages, tools, request.fields)
    return msgspec.structs.replace(request, messages=messages, fields=fields)


def with_tools(messages: list[Json], tools: list[Tool], fields: Json) -> list[Json]:
    """Return the messages with the tools in the system message, and with calls and results as text."""
    found = [_astext_of(message) for message in messages]
    if not tools:
        return _joined(found)
    name = forced_name(fields)
    rule = _MUST if fields.get("tool_choice") == "required" else _MAY
    if name is not None:
        rule = f"You must call the function {name} now."
    prompt = _PROMPT.format(tools="\n".join(tool.text for tool in tools), rule=rule)
    system = _DEFAULT_SYSTEM
    if found and found[0]["role"] in ("system", "developer"):
        system = text_of(found.pop(0).get("content"))
    return _joined([{"role": "system", "content": f"{system}\n\n{prompt}"}, *found])


def _astext_of(message: Json) -> Json:
    """Return a message without tool calls and results, which become text."""
    if message["role"] == "tool":
        content = f"<tool_response>\n{text_of(message.get('content'))}\n</tool_response>"
        return {"role": "user", "content": content, "is_result": True}
    calls = message.get("tool_calls")
    if not calls:
        return message
    parts = [text] if (text := text_of(message.get("content"))) else []
    opener, closer = next(iter(OPENERS.items()))
    for call in calls:
        function = call.get("function") or {}
        name, arguments = json.dumps(function.get("name")), function.get("arguments") or "{}"
        parts.append(f'{opener}{{"name": {name}, "arguments": {arguments}}}{closer}')
    return {"role": "assistant", "content": "\n".join(parts)}


def _joined(messages: list[Json]) -> list[Json]:
    """Return the messages with results that follow each other as one, because templates expect roles to alternate."""
    found: list[Json] = []
    was_result = False
    for message in messages:
        is_result = message.pop("is_result", False) if "is_result" in message else False
        if is_result and was_result:
            found[-1]["content"] += f"\n{message['content']}"
        else:
            found.append(message)
        was_result = is_result
    return found


# ── reading calls ─────────────────────────────────────────────────────────────────────────────────────────────

_OPENER = "|".join(map(re.escape, OPENERS))
_CLOSER = "|".join(map(re.escape, OPENERS.values()))
#: From the end of one call, if there was one, to the arguments of the next.
_HEAD = re.compile(rf'(?:\}}(?:{_CLOSER})\n)?(?:{_OPENER})\{{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')


class CallReader:
    """Read a response that the grammar allows, piece by piece, as deltas with text or with parts of tool calls."""

    def __init__(self, openers: Iterable[str] = OPENERS) -> None:
        self._openers = [opener or "{" for opener in openers]
        self._held = ""
        self._state = "start"
        self._depth = 0
        self._in_string = self._is_escaped = False
        #: Number of calls.
        self.calls = 0

    @property
    def is_incomplete(self) -> bool:
        """Return True if a call has begun and its arguments have not ended."""
        return self._state == "arguments" or (self._state == "head" and not self.calls)

    def feed(self, piece: str) -> list[Json]:
        """Return the deltas for this piece, which may be none."""
        self._held += piece
        deltas: list[Json] = []
        while self._held and self._step(deltas):
            pass
        return deltas

    def end(self) -> list[Json]:
        """Return the text that was held back because it could have become a call."""
        held, self._held = self._held, ""
        return [{"content": held}] if held and self._state == "start" else []

    def _step(self, deltas: list[Json]) -> bool:
        """Handle the held text; return True if something may follow."""
        if self._state == "start":
            if any(self._held.startswith(opener) for opener in self._openers):
                self._state = "head"
                return True
            if any(opener.startswith(self._held) for opener in self._openers):
                return False
            self._state = "text"
        if self._state == "text":
            deltas.append({"content": self._held})
            self._held = ""
            return False
        if self._state == "head":
            found = _HEAD.match(self._held)
            if found is None:
                return False
            self._held = self._held[found.end() :]
            function = {"name": json.loads(found[1]), "arguments": ""}
            call_id = "call_" + random_text(24)
            deltas.append(
                {"tool_calls": [{"index": self.calls, "id": call_id, "type": "function", "function": function}]}
            )
            self.calls += 1
            self._state = "arguments"
            return True
        end = self._end_of_arguments()
        arguments = self._held[:end]
        self._held = self._held[end:]
        deltas.append({"tool_calls": [{"index": self.calls - 1, "function": {"arguments": arguments}}]})
        if self._depth == 0:
            self._state = "head"
        return True

    def _end_of_arguments(self) -> int:
        """Return the position after the end of the object, or the length of the held text."""
        for at, letter in enumerate(self._held):
            if self._is_escaped:
                self._is_escaped = False
            elif self._in_string:
                self._is_escaped = letter == "\\"
                self._in_string = letter != '"'
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1
        return len(self._held)


class ToolResponse(UpstreamResponse):
    """A response of llama.cpp in which calls that are written as text become tool calls."""

    def __init__(self, response: HttpResponse, name: str, openers: Iterable[str] = OPENERS) -> None:
        super().__init__(response, name)
        self._openers = openers
        self._reader = CallReader(openers)
        self._unfinished = b""

    def set_callbacks(self, on_readable: Any, on_chunk: Any = None) -> bool:
        return False

    def read_nowait(self) -> bytes | None:
        return None

    async def next_bytes(self) -> bytes:
        while data := await super().next_bytes():
            *events, self._unfinished = (self._unfinished + data).split(b"\n\n")
            if block := b"".join(map(self._event, events)):
                return block
        unfinished, self._unfinished = self._unfinished, b""
        return unfinished

    async def read(self) -> bytes:
        completion = msgspec.json.decode(await super().read())
        for choice in completion.get("choices") or []:
            reader, message = CallReader(self._openers), choice.get("message") or {}
            deltas = reader.feed(message.get("content") or "") + reader.end()
            message["content"] = "".join(delta.get("content", "") for delta in deltas) or None
            if reader.calls:
                message["tool_calls"] = _whole_calls(deltas)
            elif message["content"] is None:
                message["content"] = ""
            choice["finish_reason"] = _finish_reason(reader, choice.get("finish_reason"))
        return _encode(completion)

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data: {"):
            return event + b"\n\n"
        chunk = msgspec.json.decode(event[6:])
        if not chunk.get("choices"):
            return event + b"\n\n"
        choice = chunk["choices"][0]
        delta = choice.get("delta") or {}
        text = delta.pop("content", None)
        deltas = self._reader.feed(text) if text else []
        if choice.get("finish_reason"):
            deltas += self._reader.end()
            choice["finish_reason"] = _finish_reason(self._reader, choice["finish_reason"])
        elif not deltas and "role" not in delta:
            return b""
        if not deltas:
            return b"data: " + _encode(chunk) + b"\n\n"
        reason, block = choice["finish_reason"], b""
        for number, found in enumerate(deltas, 1):
            # The fields of the event belong to its first delta, the reason to its last.
            choice["delta"] = delta | found
            choice["finish_reason"] = reason if number == len(deltas) else None
            block += b"data: " + _encode(chunk) + b"\n\n"
            delta = {}
            choice.pop("logprobs", None)
        return block


def _whole_calls(deltas: list[Json]) -> list[Json]:
    calls: list[Json] = []
    for delta in deltas:
        for part in delta.get("tool_calls", []):
            if "id" in part:
                calls.append({key: part[key] for key in ("id", "type", "function")})
            else:
                calls[-1]["function"]["arguments"] += part["function"]["arguments"]
    return calls


def _finish_reason(reader: CallReader, reason: Any) -> Any:
    if reason != "stop":
        return reason
    if reader.is_incomplete:
        # A stop sequence of the caller cut the call.
        return "length"
    return "tool_calls" if reader.calls else reason
