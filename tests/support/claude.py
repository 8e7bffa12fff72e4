"""Behaviours of a stand-in server with Anthropic's Messages API, and the strict types of Anthropic's own package."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter

from tests.support.upstream import Behaviour, Exchange

Json = dict[str, Any]

MODEL = "claude-standin-20260131"
WORDS = ("Saturn ", "has ", "the ", "most ", "moons. ")
#: What the stand-in reports for every prompt: tokens that no cache holds, read from one, and written to one.
INPUT, READ, WRITTEN = 16, 8_984, 1_000
#: A signature as long as real ones.
SIGNATURE = "EqQBCkYIARgCKkAx" * 8
_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


# ── the server ────────────────────────────────────────────────────────────────────────────────────────────


def usage(output: int, *, read: int = 0, written: int = 0, for_an_hour: int = 0) -> Json:
    """Return a usage with a prompt of `INPUT` tokens beside those that a cache holds."""
    return {
        "input_tokens": INPUT,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - for_an_hour,
            "ephemeral_1h_input_tokens": for_an_hour,
        },
        "output_tokens": output,
        "service_tier": "standard",
    }


def message(content: list[Json], *, reason: str = "end_turn", told: Json | None = None) -> Json:
    """Return a whole message."""
    return {
        "id": "msg_0a1b2c3d4e5f",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": told or usage(len(WORDS)),
    }


def events(content: list[Json], *, reason: str = "end_turn", told: Json | None = None) -> list[Json]:
    """Return the events of a stream with this content."""
    told = told or usage(len(WORDS))
    start = message([], told={**told, "output_tokens": 1}) | {"stop_reason": None}
    found: list[Json] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(content):
        empty, deltas = _pieces(block)
        found.append({"type": "content_block_start", "index": index, "content_block": empty})
        if index == 0:
            found.append({"type": "ping"})
        found += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        found.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": reason, "stop_sequence": None}
    found.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": told["output_tokens"]}})
    return [*found, {"type": "message_stop"}]


def _pieces(block: Json) -> tuple[Json, list[Json]]:
    """Return the block as it begins, and its deltas."""
    if block["type"] == "text":
        words = [word + " " for word in block["text"].split(" ")]
        words[-1] = words[-1][:-1]
        return {**block, "text": ""}, [{"type": "text_delta", "text": word} for word in words]
    if block["type"] == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
        return {**block, "thinking": "", "signature": ""}, deltas
    if block["type"] == "tool_use":
        text = json.dumps(block["input"])
        pieces = ["", text[:5], text[5:]] if block["input"] else [""]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block, []


def encode(event: Json) -> bytes:
    """Return one event as it is sent."""
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def answer(
    *content: Json, reason: str = "end_turn", told: Json | None = None, delay_s: float = 0.0, newline: str = "\n"
) -> Behaviour:
    """Respond with this content, by default the words, as a stream or one object, as requested."""
    blocks = list(content) or [{"type": "text", "text": "".join(WORDS)}]

    async def behave(exchange: Exchange) -> None:
        if exchange.path.endswith("/count_tokens"):
            exchange.answer(200, {"input_tokens": INPUT})
            return
        if not exchange.body.get("stream"):
            exchange.answer(200, message(blocks, reason=reason, told=told))
            return
        exchange.begin()
        for event in events(blocks, reason=reason, told=told):
            if delay_s:
                await asyncio.sleep(delay_s)
            exchange.write(encode(event).replace(b"\n", newline.encode()))
        exchange.end()

    return behave


def send(found: Sequence[Json | bytes], *, end: str = "end") -> Behaviour:
    """Send exactly these events, then `end` the stream, `close` the connection, or `hang`."""

    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        for event in found:
            exchange.write(event if isinstance(event, bytes) else encode(event))
        await asyncio.sleep(0.1)
        if end == "hang":
            await exchange.hang()
        elif end == "close":
            exchange.close()
        else:
            exchange.end()

    return behave


def refuse(status: int, kind: str, text: str = "no, thank you", **headers: str) -> Behaviour:
    """Respond with an error in Anthropic's format."""

    async def behave(exchange: Exchange) -> None:
        error = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}
        exchange.answer(status, error, **headers)

    return behave


# ── the judge ─────────────────────────────────────────────────────────────────────────────────────────────


def check_message(value: Any) -> Message:
    """Return a message that is valid for Anthropic's own package, strictly."""
    return Message.model_validate_json(json.dumps(value), strict=True)


def check_event(value: Any) -> Any:
    """Return an event of a stream that is valid for Anthropic's own package. Pings are not in its types."""
    return value if value == {"type": "ping"} else _EVENT.validate_json(json.dumps(value), strict=True)


def check_count(value: Any) -> int:
    """Return a count of tokens that is valid for Anthropic's own package."""
    return MessageTokensCount.model_validate_json(json.dumps(value), strict=True).input_tokens


def check_error(value: Any) -> tuple[str, str]:
    """Return type and message of an error that is valid for Anthropic's own package.

    One type is documented, but not in the package's union.
    """
    kind, text = value["error"]["type"], value["error"]["message"]
    known = "invalid_request_error" if kind == "request_too_large" else kind
    ErrorResponse.model_validate_json(json.dumps({**value, "error": {**value["error"], "type": known}}), strict=True)
    assert set(value) <= {"type", "error", "request_id"}
    assert set(value["error"]) == {"type", "message"}
    assert text
    return kind, text


def read_stream(text: str) -> list[Any]:
    """Return the events of a stream, each checked, and their order: blocks one after the other, the usage at the end.

    A stream that ends with an error may end anywhere.
    """
    found = []
    for block in text.split("\n\n")[:-1]:
        if block.startswith(":"):
            continue
        name, _, data = block.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] == "error":
            check_error(event)
        found.append(event if event["type"] == "error" else check_event(event))
    check_order([event if isinstance(event, dict) else event.model_dump() for event in found])
    return found


def check_order(found: list[Json]) -> None:
    """Check that events come in the documented order."""
    kinds = [event["type"] for event in found if event["type"] != "ping"]
    if kinds[0] == "error":
        assert len(kinds) == 1
        return
    assert kinds[0] == "message_start"
    index, is_open = 0, False
    for place, event in enumerate(event for event in found if event["type"] not in ("ping", "message_start")):
        kind = event["type"]
        if kind == "content_block_start":
            assert not is_open
            assert event["index"] == index
            is_open = True
        elif kind == "content_block_delta":
            assert is_open
            assert event["index"] == index
        elif kind == "content_block_stop":
            assert is_open
            assert event["index"] == index
            index, is_open = index + 1, False
        else:
            rest = kinds[1 + place :]
            assert rest in (["message_delta", "message_stop"], ["error"]), rest
            assert rest == ["error"] or not is_open
            return
    raise AssertionError("the stream has no end")


def outcome(found: list[Any]) -> list[Json]:
    """Return the content blocks that the events of a stream add up to."""
    blocks: list[Json] = []
    for event in found:
        if isinstance(event, dict):
            continue
        if event.type == "content_block_start":
            blocks.append(event.content_block.model_dump(exclude_none=True) | {"json": ""})
        elif event.type == "content_block_delta":
            _add(blocks[event.index], event.delta)
    for block in blocks:
        text = block.pop("json")
        if text:
            block["input"] = json.loads(text)
    return blocks


def _add(block: Json, delta: Any) -> None:
    if delta.type == "input_json_delta":
        block["json"] += delta.partial_json
        return
    field = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}[delta.type]
    block[field] += getattr(delta, field)
