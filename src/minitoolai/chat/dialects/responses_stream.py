"""Translate a chat's chunks to the events of a response: each output item is added, filled and closed in turn."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from minitoolai.chat.dialects.responses_request import ResponseEcho
from minitoolai.chat.dialects.responses_tools import ToolOrigin, called_item, custom_input
from minitoolai.chat.stream.decoding import reasoning_of

# ── objects: the response, its items, its usage ───────────────────────────────────────────────────────────

Json = dict[str, Any]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed"]

#: Finish reason of a chat → reason why the response is incomplete.
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_object(
    name: str,
    echo: ResponseEcho,
    *,
    created_s: int,
    model: str,
    status: Status,
    output: list[Json],
    usage: Json | None = None,
    finish_reason: str | None = None,
    error: Json | None = None,
) -> Json:
    """Return a response in its current state. `usage` is a chat's. Repeats the fields of the request."""
    request = echo.fields
    text = request.get("text") or {}
    reasoning = request.get("reasoning") or {}
    return {
        "id": name,
        "object": "response",
        "created_at": created_s,
        "status": status,
        "background": echo.is_background,
        "error": error,
        "incomplete_details": {"reason": _REASONS[finish_reason or ""]} if status == "incomplete" else None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "model": model,
        "output": output,
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "previous_response_id": request.get("previous_response_id"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": request.get("safety_identifier"),
        "prompt_cache_key": request.get("prompt_cache_key"),
        "service_tier": "default",
        "store": echo.is_stored,
        "temperature": request.get("temperature", 1.0),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": request.get("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in request.get("tools", ())],
        "top_logprobs": request.get("top_logprobs", 0),
        "top_p": request.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None if usage is None else usage_object(usage),
        "user": request.get("user"),
        "metadata": request.get("metadata", {}),
    }


def status_after(finish_reason: str | None) -> Status:
    """Return the status of a response with this finish reason."""
    return "incomplete" if finish_reason in _REASONS else "completed"


def usage_object(usage: Json) -> Json:
    """Convert a chat's usage to that of a response."""
    input_details = usage.get("prompt_tokens_details") or {}
    output_details = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": input_details.get("cached_tokens") or 0,
            "cache_write_tokens": input_details.get("cache_write_tokens") or 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": output_details.get("reasoning_tokens") or 0},
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
    }


def message_item(name: str, content: list[Json], status: Status) -> Json:
    """Return an output item with the model's text."""
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: list[Json]) -> Json:
    """Return a content part with text, and with logprobs if they were requested."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def refusal_part(text: str) -> Json:
    """Return a content part with the model's refusal."""
    return {"type": "refusal", "refusal": text}


def reasoning_item(name: str, text: str, status: Status) -> Json:
    """Return an output item with the model's reasoning."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": name, "type": "reasoning", "summary": [], "content": content, "status": status}


def call_item(name: str, call_id: str, function: str, arguments: str, status: Status) -> Json:
    """Return an output item with a call of one of the caller's functions."""
    return {
        "id": name,
        "type": "function_call",
        "call_id": call_id,
        "name": function,
        "arguments": arguments,
        "status": status,
    }


#: Index of a legacy `function_call`, of which there is only one and which has none.
LEGACY_CALL = -1


def made_call_id(name: str) -> str:
    """Return the ID of a legacy `function_call`, which has none."""
    return f"call_{name[5:]}"


def logprobs_list(logprobs: Json | None) -> list[Json]:
    """Convert a chat's logprobs to a flat list."""
    return [
        {
            "token": token["token"],
            "bytes": token.get("bytes") or [],
            "logprob": token["logprob"],
            "top_logprobs": [
                {"token": top["token"], "bytes": top.get("bytes") or [], "logprob": top["logprob"]}
                for top in token.get("top_logprobs") or ()
            ],
        }
        for token in (logprobs or {}).get("content") or ()
    ]


def without_bytes(logprobs: list[Json]) -> list[Json]:
    """Return the logprobs without the bytes, as they appear in events."""
    return [
        {
            "token": token["token"],
            "logprob": token["logprob"],
            "top_logprobs": [{"token": top["token"], "logprob": top["logprob"]} for top in token["top_logprobs"]],
        }
        for token in logprobs
    ]


def _tool(tool: Json) -> Json:
    if tool.get("type") != "function":
        return tool
    return {"type": "function", **{key: tool.get(key) for key in ("name", "description", "parameters", "strict")}}


# ── stream ────────────────────────────────────────────────────────────────────────────────────────────────

_encode = msgspec.json.Encoder().encode


class _Message:
    """Output item with the model's text: parts of text and refusal."""

    def __init__(self, name: str, place: int) -> None:
        self.name = name
        self.place = place
        self.parts: list[Json] = []

    def item(self, status: Status) -> Json:
        return message_item(self.name, self.parts, status)


class _Reasoning:
    """Output item with the model's reasoning."""

    def __init__(self, name: str, place: int) -> None:
        self.name = name
        self.place = place
        self.text = ""

    def item(self, status: Status) -> Json:
        return reasoning_item(self.name, self.text, status)


class _Call:
    """Output item with a function call."""

    def __init__(self, name: str, place: int, call_id: str, function: str) -> None:
        self.name = name
        self.place = place
        self.call_id = call_id
        self.function = function
        self.arguments = ""
        #: The tools that the chat's functions stand for.
        self.origins: dict[str, ToolOrigin] = {}

    @property
    def is_custom(self) -> bool:
        return self.function in self.origins and self.origins[self.function].is_custom

    def item(self, status: Status) -> Json:
        item = call_item(self.name, self.call_id, self.function, self.arguments, status)
        return called_item(item, self.origins)


class ResponseStream:
    """State of one streamed response: turns chunks into events."""

    def __init__(self, name: str, echo: ResponseEcho, created_s: int, model: str) -> None:
        self._name = name
        self._echo = echo
        self._created_s = created_s
        self._model = model
        self._count = 0
        self._has_begun = False
        self._items: list[_Message | _Reasoning | _Call] = []
        #: The open message or reasoning item. Calls stay open to the end, because they may be interleaved.
        self._open: _Message | _Reasoning | None = None
        self._calls: dict[int, _Call] = {}
        self._finish_reason: str | None = None
        #: The response as its last event has it.
        self.whole: Json | None = None

    # ── translation ───────────────────────────────────────────────────────────────────────────────────────

    def chunk(self, chunk: Json) -> bytes:
        """Return the events for one chunk."""
        if not self._has_begun:
            self._created_s, self._model = chunk["created"], chunk["model"]
        events = self.beginning()
        for choice in chunk["choices"]:
            events += self._delta(choice.get("delta") or {}, choice.get("logprobs"))
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return events

    def beginning(self) -> bytes:
        """Return the first two events on the first call, then nothing."""
        if self._has_begun:
            return b""
        self._has_begun = True
        now = self._response("in_progress", [])
        return self._event("response.created", response=now) + self._event("response.in_progress", response=now)

    def final_events(self, usage: Json) -> bytes:
        """Close all open items, and return the last event: the whole response. `usage` is a chat's."""
        status = status_after(self._finish_reason)
        events = self.beginning() + self._close(status)
        for call in self._calls.values():
            events += self._arguments_done(call)
            events += self._item_done(call, "completed" if status == "completed" else "incomplete")
        self.whole = whole = self._response(status, self._output(status), usage=usage)
        return events + self._event(f"response.{status}", response=whole)

    def _arguments_done(self, call: _Call) -> bytes:
        at = {"item_id": call.name, "output_index": call.place}
        if not call.is_custom:
            return self._event("response.function_call_arguments.done", **at, arguments=call.arguments)
        text = custom_input(call.arguments)
        delta = self._event("response.custom_tool_call_input.delta", **at, delta=text) if text else b""
        return delta + self._event("response.custom_tool_call_input.done", **at, input=text)

    def failure(self, message: str, code: str) -> bytes:
        """Return the last event of a stream that failed after it began."""
        error = {"code": code, "message": message}
        failed = self._response("failed", self._output("incomplete"), error=error)
        return self.beginning() + self._event("response.failed", response=failed)

    # ── items ─────────────────────────────────────────────────────────────────────────────────────────────

    def _delta(self, delta: Json, logprobs: Any) -> bytes:
        events = b""
        if reasoning := reasoning_of(delta):
            events += self._add_reasoning(reasoning)
        if text := delta.get("content"):
            events += self._add_text(str(text), logprobs_list(logprobs) if self._echo.logprobs else [])
        if refusal := delta.get("refusal"):
            events += self._add_refusal(str(refusal))
        for call in delta.get("tool_calls") or ():
            events += self._add_call(call)
        if function_call := delta.get("function_call"):
            events += self._add_call({"index": LEGACY_CALL, "function": function_call})
        return events

    def _add_text(self, text: str, logprobs: list[Json]) -> bytes:
        message, events = self._message("output_text")
        part = message.parts[-1]
        part["text"] += text
        part["logprobs"] += logprobs
        return events + self._event(
            "response.output_text.delta", **self._part_position(message), delta=text, logprobs=without_bytes(logprobs)
        )

    def _add_refusal(self, text: str) -> bytes:
        message, events = self._message("refusal")
        message.parts[-1]["refusal"] += text
        return events + self._event("response.refusal.delta", **self._part_position(message), delta=text)

    def _add_reasoning(self, text: str) -> bytes:
        events, reasoning = b"", self._open
        if not isinstance(reasoning, _Reasoning):
            events = self._close("completed")
            self._open = reasoning = _Reasoning(self._new_name("rs"), len(self._items))
            self._items.append(reasoning)
            events += self._item_added(reasoning)
        reasoning.text += text
        at = {"item_id": reasoning.name, "output_index": reasoning.place, "content_index": 0}
        return events + self._event("response.reasoning_text.delta", **at, delta=text)

    def _add_call(self, call: Json) -> bytes:
        events, index, function = b"", call.get("index", 0), call.get("function") or {}
        if index not in self._calls:
            events = self._close("completed")
            call_id = call.get("id") or made_call_id(self._name)
            new_call = _Call(self._new_name("fc"), len(self._items), call_id, function.get("name") or "")
            self._calls[index] = new_call
            self._items.append(new_call)
            new_call.origins = self._echo.origins
            events += self._item_added(new_call)
        open_call, piece = self._calls[index], function.get("arguments") or ""
        open_call.function = open_call.function or function.get("name") or ""
        if not piece:
            return events
        open_call.arguments += piece
        if open_call.is_custom:
            # The input is a string inside of the arguments: send it as a whole at the end.
            return events
        at = {"item_id": open_call.name, "output_index": open_call.place}
        return events + self._event("response.function_call_arguments.delta", **at, delta=piece)

    def _message(self, kind: str) -> tuple[_Message, bytes]:
        """Return the open message with an open part of this type, and the events that opened them."""
        events, message = b"", self._open
        if not isinstance(message, _Message):
            events = self._close("completed")
            self._open = message = _Message(self._new_name("msg"), len(self._items))
            self._items.append(message)
            events += self._item_added(message)
        if not message.parts or message.parts[-1]["type"] != kind:
            events += self._part_done(message)
            message.parts.append(text_part("", []) if kind == "output_text" else refusal_part(""))
            events += self._event("response.content_part.added", **self._part_position(message), part=message.parts[-1])
        return message, events

    def _close(self, status: Status) -> bytes:
        """Close the open message or reasoning item, if any."""
        item, self._open = self._open, None
        if item is None:
            return b""
        if isinstance(item, _Message):
            return self._part_done(item) + self._item_done(item, status)
        at = {"item_id": item.name, "output_index": item.place, "content_index": 0}
        return self._event("response.reasoning_text.done", **at, text=item.text) + self._item_done(item, status)

    def _part_done(self, message: _Message) -> bytes:
        if not message.parts:
            return b""
        part, at = message.parts[-1], self._part_position(message)
        if part["type"] == "output_text":
            logprobs = without_bytes(part["logprobs"])
            events = self._event("response.output_text.done", **at, text=part["text"], logprobs=logprobs)
        else:
            events = self._event("response.refusal.done", **at, refusal=part["refusal"])
        return events + self._event("response.content_part.done", **at, part=part)

    # ── events ─────────────────────────────────────────────────────────────────────────────────────────────

    def _new_name(self, kind: str) -> str:
        return f"{kind}_{self._name[5:]}_{len(self._items)}"

    def _part_position(self, message: _Message) -> Json:
        return {"item_id": message.name, "output_index": message.place, "content_index": len(message.parts) - 1}

    def _item_added(self, item: _Message | _Reasoning | _Call) -> bytes:
        now = item.item("in_progress")
        return self._event("response.output_item.added", output_index=item.place, item=now)

    def _item_done(self, item: _Message | _Reasoning | _Call, status: Status) -> bytes:
        return self._event("response.output_item.done", output_index=item.place, item=item.item(status))

    def _output(self, status: Status) -> list[Json]:
        """Return all items. Only the last one can be incomplete."""
        last = len(self._items) - 1
        return [item.item(status if item.place == last else "completed") for item in self._items]

    def _response(self, status: Status, output: list[Json], **more: Any) -> Json:
        return response_object(
            self._name,
            self._echo,
            created_s=self._created_s,
            model=self._model,
            status=status,
            output=output,
            finish_reason=self._finish_reason,
            **more,
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._count += 1
        data = _encode({"type": kind, "sequence_number": self._count - 1, **fields})
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
