"""Pass responses in Anthropic's format through to callers who sent their request in it.

Nothing is translated, but everything is read: the text is counted, the usage is checked and charged, errors are
reported as this server's own, and the end is held back until the charge is durable.
"""

from __future__ import annotations

from typing import Any

import msgspec

from minitoolai.chat.completion import NormalizedCompletion
from minitoolai.chat.stream.chunks import Chunk
from minitoolai.chat.stream.decoding import BOM, Json, decode_json, read_event, read_usage, text_or
from minitoolai.chat.stream.normalizer import LARGEST_EVENT, ChunkNormalizer
from minitoolai.core.catalog.suppliers import EngineLabel
from minitoolai.core.counting import (
    Judgement,
    PromptCount,
    estimate_output_tokens,
    is_believed,
    is_plausible,
    judge_usage,
    least_output,
)
from minitoolai.core.errors import EngineBroken, EngineError
from minitoolai.core.inference import Usage
from minitoolai.engines.chat.anthropic.response import chat_usage, merge_counts
from minitoolai.engines.chat.failures import failure_in_answer, find_fault

#: Fields of a message in Anthropic's format. Others may tell who the supplier is.
_MESSAGE_FIELDS = frozenset(
    ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "stop_details", "usage", "container")
    + ("context_management", "diagnostics")
)
_encode = msgspec.json.Encoder().encode
#: Fields of a block or a delta with text that the model generated.
_TEXTS = ("text", "thinking", "partial_json", "name", "data")
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class MessagesPassthrough(ChunkNormalizer):
    """Return the events of a stream as they were received, and collect its usage, its end and errors."""

    __slots__ = ("_has_content", "_held", "_is_new", "_told")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: Another engine began the stream, so its first event is not sent again.
        self._is_new = self._head is None
        self._has_content = False
        #: The events that are sent once the charge is durable.
        self._held: list[tuple[bytes, Json]] = []
        #: All counts that the engine has reported.
        self._told: Json = {}

    @property
    def has_spoken(self) -> bool:
        return self._has_content

    def match_template(self, data: bytes) -> bytes | None:
        return None

    def feed(self, data: bytes) -> bytes:
        data = self._incomplete + data
        if b"\r" in data:
            # A carriage return at the end may be half a line end.
            whole = data.removesuffix(b"\r")
            data = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + data[len(whole) :]
        block, separator, self._incomplete = data.rpartition(b"\n\n")
        if len(self._incomplete) > LARGEST_EVENT:
            self._fail(EngineError(f"{self._engine} sent an event of more than {LARGEST_EVENT} bytes"))
        if not separator:
            return b""
        return b"".join([self._pass(event) for event in block.split(b"\n\n") if event.strip()])

    def end(self) -> bytes:
        rest, self._incomplete = self._incomplete, b""
        sent = b""
        if self._head is None and rest.removeprefix(BOM).lstrip()[:1] in (b"{", b"["):
            sent = self._pass_whole(rest)
        elif rest.strip():
            sent = b"".join([self._pass(event) for event in rest.split(b"\n\n") if event.strip()])
        if self.done or self.error is not None:
            return sent
        if self._finished:
            self.done = True
        elif self._head is None:
            self._fail(EngineError(f"{self._engine} sent no answer"))
        else:
            self._fail(EngineBroken(f"{self._engine} closed the stream early; the output sent so far is charged"))
        return sent

    def final_events(self, usage: Usage) -> bytes:
        """Return the last events, with the usage that was charged."""
        sent = [event for event, _ in self._held]
        if self._held and usage != self.usage:
            _, fields = self._held[-1]
            fields = {**fields, "usage": {**(fields.get("usage") or {}), **messages_usage(usage)}}
            sent[-1] = b"event: message_delta\ndata: " + _encode(fields)
        return b"".join([event + b"\n\n" for event in sent]) + _STOP

    # ── events ────────────────────────────────────────────────────────────────────────────────────────────

    def _pass(self, event: bytes) -> bytes:
        """Return what to send for an event: itself, or nothing if it is held back."""
        if self.done or self.error is not None:
            return b""
        name, lines = read_event(event)
        if not lines:
            return b""
        try:
            fields = decode_json(b"\n".join(lines))
        except (ValueError, RecursionError):
            self._fail(EngineError(f"{self._engine} sent an invalid event"))
            return b""
        if not isinstance(fields, dict):
            return b""
        kind = fields.get("type") or name
        if kind == "error" or "error" in fields:
            fault = find_fault(fields, is_error=True)
            assert fault is not None
            self._fail(failure_in_answer(fault, self._engine))
            return b""
        if kind == "message_start":
            return self._start(fields, event)
        if kind == "message_delta":
            self._message_delta(fields, event)
            return b""
        if kind == "message_stop":
            self.done = True
            return b""
        if not kind:
            return b""
        if kind in ("content_block_start", "content_block_delta"):
            self._has_content = True
            self._count_text(fields.get("content_block") or fields.get("delta"))
        return event + b"\n\n"

    def _start(self, fields: Json, event: bytes) -> bytes:
        message = fields.get("message")
        message = message if isinstance(message, dict) else {}
        self.served_model = text_or(message.get("model"), self._model)
        shown = shown_message(message, self._name, self._model, self._engine)
        if shown is not message:
            event = b"event: message_start\ndata: " + _encode({**fields, "message": shown})
        if self._head is None:
            model = text_or(shown.get("model"), self._model)
            self._head = Chunk(id=text_or(shown.get("id"), self._name), created=self._created_s, model=model)
        self._report_counts(message.get("usage"))
        return event + b"\n\n" if self._is_new else b""

    def _message_delta(self, fields: Json, event: bytes) -> None:
        self._held.append((event, fields))
        delta = fields.get("delta")
        if isinstance(delta, dict) and delta.get("stop_reason"):
            self._finished.add(0)
        self._report_counts(fields.get("usage"))

    def _report_counts(self, usage: Any) -> None:
        self._told = merge_counts(self._told, usage)
        found = read_usage(chat_usage(self._told))
        if found is not None:
            self.report(found)

    def _count_text(self, piece: Any) -> None:
        size = text_bytes(piece)
        self.size += size
        self.pieces += size != 0

    def _pass_whole(self, body: bytes) -> bytes:
        """Return the events for one message where a stream was requested. Fails for an error."""
        try:
            message = decode_json(body)
        except (ValueError, RecursionError):
            self._fail(EngineError(f"{self._engine} sent an invalid answer"))
            return b""
        if not isinstance(message, dict) or message.get("type") != "message":
            fault = find_fault(message, is_error=True)
            assert fault is not None
            self._fail(failure_in_answer(fault, self._engine))
            return b""
        return b"".join([self._pass(event) for event in events_of(message)])


def shown_message(message: Json, own_name: str, asked: str, engine: str) -> Json:
    """Return a message with the ID and the model that customers see: itself, if it has those already."""
    if not isinstance(engine, EngineLabel):
        return message
    served, number = text_or(message.get("model"), asked), text_or(message.get("id"), "")
    shown = engine.shown_model(asked, served)
    own = engine.shown_id(number, f"msg_{own_name.removeprefix('chatcmpl-')}")
    if (shown, own) == (served, number) and (not engine.is_upstream or message.keys() <= _MESSAGE_FIELDS):
        return message
    return {name: value for name, value in message.items() if name in _MESSAGE_FIELDS} | {"id": own, "model": shown}


def text_bytes(piece: Any) -> int:
    """Return the bytes of generated text in a content block or a delta."""
    if not isinstance(piece, dict):
        return 0
    size = sum(len(piece[name].encode("utf-8", "replace")) for name in _TEXTS if isinstance(piece.get(name), str))
    return size + (len(_encode(piece["input"])) if piece.get("input") else 0)


def messages_usage(usage: Usage) -> Json:
    """Return the counts of a usage in Anthropic's format: `input_tokens` without those that a cache holds."""
    read, written = usage.cached_tokens, usage.cache_write_tokens
    return {
        "input_tokens": max(0, usage.prompt_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
    }


def events_of(message: Json) -> list[bytes]:
    """Return the events of a stream that adds up to this message, each without the empty line after it."""
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    start = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    events: list[Json] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(blocks):
        events += _events_of_block(index, block if isinstance(block, dict) else {})
    delta = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    events.append({"type": "message_delta", "delta": delta, "usage": message.get("usage") or {"output_tokens": 0}})
    events.append({"type": "message_stop"})
    return [b"event: " + event["type"].encode() + b"\ndata: " + _encode(event) for event in events]


def _events_of_block(index: int, block: Json) -> list[Json]:
    kind = block.get("type")
    deltas: list[Json] = []
    if kind == "text":
        deltas = [{"type": "text_delta", "text": block.get("text")}]
        block = {**block, "text": ""}
    elif kind == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": block.get("thinking")},
            {"type": "signature_delta", "signature": block.get("signature")},
        ]
        block = {**block, "thinking": "", "signature": ""}
    elif kind in ("tool_use", "server_tool_use"):
        deltas = [{"type": "input_json_delta", "partial_json": _encode(block.get("input") or {}).decode()}]
        block = {**block, "input": {}}
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def check_message(
    body: bytes, *, prompt: PromptCount, max_output: int, model: str, engine: str, name: str = ""
) -> NormalizedCompletion:
    """Return a whole message as it was received, with its judged usage. Raises the failure that it reports instead."""
    try:
        message = decode_json(body)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{engine} sent an invalid message") from error
    if not isinstance(message, dict) or message.get("type") != "message" or message.get("error"):
        fault = find_fault(message, is_error=True)
        assert fault is not None
        raise failure_in_answer(fault, engine)
    content = message.get("content")
    if not isinstance(content, list):
        raise EngineError(f"{engine} sent a message without content")
    sizes = [text_bytes(block) for block in content]
    pieces, size = len(sizes) - sizes.count(0), sum(sizes)
    reported = read_usage(chat_usage(message.get("usage")))
    least = least_output(pieces, size)
    served = text_or(message.get("model"), model)
    shown = shown_message(message, name, model, engine)
    if shown is not message:
        message, body = shown, _encode(shown)
    if reported is not None and is_believed(reported, prompt, least, max_output):
        return NormalizedCompletion(body, Judgement(reported, False), served, size)
    was_absurd = reported is not None and not is_plausible(reported)
    judgement = judge_usage(
        None if was_absurd else reported,
        prompt=prompt,
        tokens=min(max_output, estimate_output_tokens(pieces, size)),
        has_begun=pieces > 0,
        least=least,
        most=max_output,
        was_absurd=was_absurd,
    )
    if judgement.usage != reported:
        usage = message.get("usage")
        told = usage if isinstance(usage, dict) else {}
        body = _encode({**message, "usage": {**told, **messages_usage(judgement.usage)}})
    return NormalizedCompletion(body, judgement, served, size)
