"""A chat's chunks, retold as the events of a response: each item opened, filled, and closed in turn."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from minitoolai.chat.dialects.responses_request import ResponseEcho

# (merged from responses_objects) The objects that `/v1/responses` speaks of: the response, its items, its usage.

Json = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete", "failed"]

#: Chat's reason to stop, where an answer is not complete.
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
    """One response as it stands. `usage` is a chat's; the rest of the request is repeated as it was understood."""
    asked = echo.fields
    text = asked.get("text") or {}
    reasoning = asked.get("reasoning") or {}
    return {
        "id": name,
        "object": "response",
        "created_at": created_s,
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": {"reason": _REASONS[finish_reason or ""]} if status == "incomplete" else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": model,
        "output": output,
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": asked.get("safety_identifier"),
        "prompt_cache_key": asked.get("prompt_cache_key"),
        "service_tier": "default",
        "store": False,
        "temperature": asked.get("temperature", 1.0),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in asked.get("tools", ())],
        "top_logprobs": asked.get("top_logprobs", 0),
        "top_p": asked.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None if usage is None else usage_object(usage),
        "user": asked.get("user"),
        "metadata": asked.get("metadata", {}),
    }


def status_after(finish_reason: str | None) -> Status:
    """Whether an answer that ended so is complete."""
    return "incomplete" if finish_reason in _REASONS else "completed"


def usage_object(usage: Json) -> Json:
    """A chat's usage in the words of responses."""
    read = usage.get("prompt_tokens_details") or {}
    written = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": read.get("cached_tokens") or 0,
            "cache_write_tokens": read.get("cache_write_tokens") or 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0},
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
    }


def message_item(name: str, content: list[Json], status: Status) -> Json:
    """What the model says."""
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: list[Json]) -> Json:
    """Text, with the certainty of its tokens where that was asked for."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def refusal_part(text: str) -> Json:
    """Why the model says nothing else."""
    return {"type": "refusal", "refusal": text}


def reasoning_item(name: str, text: str, status: Status) -> Json:
    """What the model thinks, where its engine tells."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": name, "type": "reasoning", "summary": [], "content": content, "status": status}


def call_item(name: str, call_id: str, function: str, arguments: str, status: Status) -> Json:
    """A call of one of the caller's functions."""
    return {
        "id": name,
        "type": "function_call",
        "call_id": call_id,
        "name": function,
        "arguments": arguments,
        "status": status,
    }


def logprobs_list(logprobs: Json | None) -> list[Json]:
    """A chat's logprobs, as a flat list."""
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


def bare(logprobs: list[Json]) -> list[Json]:
    """The same as events tell it: without the bytes."""
    return [
        {
            "token": token["token"],
            "logprob": token["logprob"],
            "top_logprobs": [{"token": top["token"], "logprob": top["logprob"]} for top in token["top_logprobs"]],
        }
        for token in logprobs
    ]


def _tool(tool: Json) -> Json:
    return {"type": "function", **{key: tool.get(key) for key in ("name", "description", "parameters", "strict")}}


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class _Message:
    """What the model says: parts of text and refusal."""

    def __init__(self, name: str, place: int) -> None:
        self.name = name
        self.place = place
        self.parts: list[Json] = []

    def item(self, status: Status) -> Json:
        return message_item(self.name, self.parts, status)


class _Thought:
    """What the model thinks."""

    def __init__(self, name: str, place: int) -> None:
        self.name = name
        self.place = place
        self.text = ""

    def item(self, status: Status) -> Json:
        return reasoning_item(self.name, self.text, status)


class _Call:
    """A function that the model calls."""

    def __init__(self, name: str, place: int, call_id: str, function: str) -> None:
        self.name = name
        self.place = place
        self.call_id = call_id
        self.function = function
        self.arguments = ""

    def item(self, status: Status) -> Json:
        return call_item(self.name, self.call_id, self.function, self.arguments, status)


class ResponseStream:
    """Feed it chunks and send what it returns. One for each response."""

    def __init__(self, name: str, echo: ResponseEcho, created_s: int, model: str) -> None:
        self._name = name
        self._echo = echo
        self._created_s = created_s
        self._model = model
        self._count = 0
        self._has_begun = False
        self._items: list[_Message | _Thought | _Call] = []
        #: The message or thought that is being written; calls stay open to the end, for they may be interleaved.
        self._open: _Message | _Thought | None = None
        self._calls: dict[int, _Call] = {}
        self._finish_reason: str | None = None

    # ── from a chat ───────────────────────────────────────────────────────────────────────────────────────

    def chunk(self, chunk: Json) -> bytes:
        """The events that one chunk makes."""
        if not self._has_begun:
            self._created_s, self._model = chunk["created"], chunk["model"]
        told = self.beginning()
        for choice in chunk["choices"]:
            told += self._delta(choice.get("delta") or {}, choice.get("logprobs"))
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return told

    def beginning(self) -> bytes:
        """The first two events, once."""
        if self._has_begun:
            return b""
        self._has_begun = True
        now = self._response("in_progress", [])
        return self._event("response.created", response=now) + self._event("response.in_progress", response=now)

    def final_events(self, usage: Json) -> bytes:
        """Whatever is open is closed; then the response as a whole, with its usage (a chat's)."""
        status = status_after(self._finish_reason)
        told = self.beginning() + self._close(status)
        for call in self._calls.values():
            arguments = {"item_id": call.name, "output_index": call.place, "arguments": call.arguments}
            told += self._event("response.function_call_arguments.done", **arguments)
            told += self._item_done(call, "completed" if status == "completed" else "incomplete")
        whole = self._response(status, self._written(status), usage=usage)
        return told + self._event(f"response.{status}", response=whole)

    def failure(self, message: str, code: str) -> bytes:
        """The last event where something went wrong after the beginning."""
        error = {"code": code, "message": message}
        failed = self._response("failed", self._written("incomplete"), error=error)
        return self.beginning() + self._event("response.failed", response=failed)

    # ── items ─────────────────────────────────────────────────────────────────────────────────────────────

    def _delta(self, delta: Json, logprobs: Any) -> bytes:
        told = b""
        if thought := delta.get("reasoning_content"):
            told += self._think(str(thought))
        if text := delta.get("content"):
            told += self._say(str(text), logprobs_list(logprobs) if self._echo.logprobs else [])
        if refusal := delta.get("refusal"):
            told += self._refuse(str(refusal))
        for call in delta.get("tool_calls") or ():
            told += self._call(call)
        return told

    def _say(self, text: str, logprobs: list[Json]) -> bytes:
        message, told = self._message("output_text")
        part = message.parts[-1]
        part["text"] += text
        part["logprobs"] += logprobs
        return told + self._event(
            "response.output_text.delta", **self._at(message), delta=text, logprobs=bare(logprobs)
        )

    def _refuse(self, text: str) -> bytes:
        message, told = self._message("refusal")
        message.parts[-1]["refusal"] += text
        return told + self._event("response.refusal.delta", **self._at(message), delta=text)

    def _think(self, text: str) -> bytes:
        told, thought = b"", self._open
        if not isinstance(thought, _Thought):
            told = self._close("completed")
            self._open = thought = _Thought(self._named("rs"), len(self._items))
            self._items.append(thought)
            told += self._item_added(thought)
        thought.text += text
        at = {"item_id": thought.name, "output_index": thought.place, "content_index": 0}
        return told + self._event("response.reasoning_text.delta", **at, delta=text)

    def _call(self, call: Json) -> bytes:
        told, index, function = b"", call.get("index", 0), call.get("function") or {}
        if index not in self._calls:
            told = self._close("completed")
            call_id = call.get("id") or f"call_{self._name[5:]}_{index}"
            made = _Call(self._named("fc"), len(self._items), call_id, function.get("name") or "")
            self._calls[index] = made
            self._items.append(made)
            told += self._item_added(made)
        found, piece = self._calls[index], function.get("arguments") or ""
        if not piece:
            return told
        found.arguments += piece
        at = {"item_id": found.name, "output_index": found.place}
        return told + self._event("response.function_call_arguments.delta", **at, delta=piece)

    def _message(self, kind: str) -> tuple[_Message, bytes]:
        """The open message with an open part of this kind, and what had to be said to open them."""
        told, message = b"", self._open
        if not isinstance(message, _Message):
            told = self._close("completed")
            self._open = message = _Message(self._named("msg"), len(self._items))
            self._items.append(message)
            told += self._item_added(message)
        if not message.parts or message.parts[-1]["type"] != kind:
            told += self._part_done(message)
            message.parts.append(text_part("", []) if kind == "output_text" else refusal_part(""))
            told += self._event("response.content_part.added", **self._at(message), part=message.parts[-1])
        return message, told

    def _close(self, status: Status) -> bytes:
        """End what is being written."""
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
        part, at = message.parts[-1], self._at(message)
        if part["type"] == "output_text":
            certain = bare(part["logprobs"])
            told = self._event("response.output_text.done", **at, text=part["text"], logprobs=certain)
        else:
            told = self._event("response.refusal.done", **at, refusal=part["refusal"])
        return told + self._event("response.content_part.done", **at, part=part)

    # ── words ─────────────────────────────────────────────────────────────────────────────────────────────

    def _named(self, kind: str) -> str:
        return f"{kind}_{self._name[5:]}_{len(self._items)}"

    def _at(self, message: _Message) -> Json:
        return {"item_id": message.name, "output_index": message.place, "content_index": len(message.parts) - 1}

    def _item_added(self, item: _Message | _Thought | _Call) -> bytes:
        now = item.item("in_progress")
        return self._event("response.output_item.added", output_index=item.place, item=now)

    def _item_done(self, item: _Message | _Thought | _Call, status: Status) -> bytes:
        return self._event("response.output_item.done", output_index=item.place, item=item.item(status))

    def _written(self, status: Status) -> list[Json]:
        """Every item; only the last one can be cut short."""
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
