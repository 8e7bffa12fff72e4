"""Tests of translating responses of Anthropic's API into those of a chat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.completion import normalize_completion
from minitoolai.chat.stream.normalizer import ChunkNormalizer
from minitoolai.core.counting import PromptCount
from minitoolai.core.errors import Overloaded
from minitoolai.engines.chat.anthropic.response import MessagesToChat, chat_body, chat_usage
from tests.support import claude
from tests.support.claude import INPUT, READ, SIGNATURE, WRITTEN
from tests.support.strict import check_completion

Json = dict[str, Any]
THOUGHT = {"type": "thinking", "thinking": "Which one?", "signature": SIGNATURE}
HIDDEN = {"type": "redacted_thinking", "data": "c2VjcmV0"}
TEXT = {"type": "text", "text": "Saturn has the most moons."}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a"}}
EMPTY = {"type": "tool_use", "id": "toolu_2", "name": "list", "input": {}}
CACHED = claude.usage(40, read=READ, written=WRITTEN, for_an_hour=400)


def run(raw: bytes, step: int = 10**6, schema_tool: str | None = None) -> tuple[list[Json], ChunkNormalizer]:
    """Return the chunks as they leave this server, from the translated ones."""
    translator = MessagesToChat(1_800_000_000, schema_tool=schema_tool)
    events = ChunkNormalizer(forwards=False, include_usage=True, name="chatcmpl-1", created_s=1, engine="up")
    sent = b""
    for at in range(0, len(raw), step):
        if chunks := translator.feed(raw[at : at + step]):
            sent += events.feed(chunks)
    if not events.done and events.error is None:
        sent += events.feed(rest) if (rest := translator.end()) else b""
        sent += events.end() if not events.done and events.error is None else b""
    return [json.loads(event[6:]) for event in sent.split(b"\n\n") if event], events


def stream(*content: Json, reason: str = "end_turn", told: Json | None = None) -> bytes:
    return b"".join([claude.encode(event) for event in claude.events(list(content), reason=reason, told=told)])


def said(chunks: list[Json], field: str) -> str:
    return "".join(choice["delta"].get(field) or "" for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("step", [1, 9, 200, 10**6])
def test_a_stream(step: int) -> None:
    chunks, events = run(stream(THOUGHT, HIDDEN, TEXT, CALL, EMPTY, reason="tool_use", told=CACHED), step)
    assert events.done
    assert said(chunks, "content") == TEXT["text"]
    assert said(chunks, "reasoning_content") == "Which one?"
    details = [d for chunk in chunks for c in chunk["choices"] for d in c["delta"].get("reasoning_details") or ()]
    assert [detail.get("signature") for detail in details if detail.get("signature")] == [SIGNATURE]
    assert details[-1]["data"] == "c2VjcmV0"
    calls = [
        call for chunk in chunks for choice in chunk["choices"] for call in choice["delta"].get("tool_calls") or ()
    ]
    assert [call["id"] for call in calls if call.get("id")] == ["toolu_1", "toolu_2"]
    arguments = ["", ""]
    for call in calls:
        arguments[call["index"]] += call["function"].get("arguments") or ""
    assert [json.loads(text) for text in arguments] == [{"path": "a"}, {}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    usage = events.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (INPUT + READ + WRITTEN, 40)
    assert (usage.cached_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens) == (READ, WRITTEN, 400)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("a_reason_of_tomorrow", "stop"),
    ],
)
def test_stop_reasons(reason: str, finish: str) -> None:
    assert run(stream(TEXT, reason=reason))[0][-1]["choices"][0]["finish_reason"] == finish
    whole = json.loads(chat_body(json.dumps(claude.message([TEXT], reason=reason)).encode(), 1))
    assert normalized(whole)["choices"][0]["finish_reason"] == finish


def normalized(completion: Json) -> Json:
    raw = json.dumps(completion).encode()
    found: Json = json.loads(
        normalize_completion(raw, forwards=False, name="gen-1", created_s=1, prompt=PromptCount(1), engine="up").body
    )
    return found


def test_a_whole_message() -> None:
    message = claude.message([THOUGHT, HIDDEN, TEXT, CALL], reason="tool_use", told=CACHED)
    found = normalized(json.loads(chat_body(json.dumps(message).encode(), 1_800_000_000)))
    answer = found["choices"][0]["message"]
    assert (answer["content"], answer["reasoning_content"]) == (TEXT["text"], "Which one?")
    assert [detail.get("signature") or detail.get("data") for detail in answer["reasoning_details"]] == [
        SIGNATURE,
        "c2VjcmV0",
    ]
    assert json.loads(answer["tool_calls"][0]["function"]["arguments"]) == {"path": "a"}
    details = found["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": READ, "audio_tokens": 0, "cache_write_tokens": WRITTEN}
    answer.pop("reasoning_details")
    answer.pop("reasoning_content")
    check_completion(found)


def test_the_input_of_the_schemas_tool_is_the_text() -> None:
    block = {"type": "tool_use", "id": "t", "name": "respond", "input": {"planet": "Saturn"}}
    chunks, _ = run(stream(block, reason="tool_use"), schema_tool="respond")
    assert json.loads(said(chunks, "content")) == {"planet": "Saturn"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    body = json.dumps(claude.message([block], reason="tool_use")).encode()
    choice = json.loads(chat_body(body, 1, schema_tool="respond"))["choices"][0]
    assert json.loads(choice["message"]["content"]) == {"planet": "Saturn"}
    assert choice["finish_reason"] == "stop"


def test_one_message_where_a_stream_was_requested() -> None:
    chunks, events = run(json.dumps(claude.message([TEXT, CALL], reason="tool_use")).encode())
    assert events.done
    assert said(chunks, "content") == TEXT["text"]


def test_errors_and_nonsense_are_left_to_the_normalizer() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    begin = stream(TEXT).partition(b"event: content_block_stop")[0]
    for raw in (claude.encode(error), begin + claude.encode(error), json.dumps(error).encode()):
        assert isinstance(run(raw)[1].error, Overloaded)
    for raw in (b"data: {nonsense\n\n", b"<html>", b"", begin, b"data: " + b"[" * 100_000 + b"\n\n"):
        assert run(raw)[1].error is not None
    assert chat_body(b"<html>", 1) == b"<html>"
    assert chat_body(b'{"type":"error"}', 1) == b'{"type":"error"}'


def test_events_of_wrong_types_are_skipped() -> None:
    odd = [
        {"type": "message_start", "message": None},
        {"type": "content_block_start", "index": None, "content_block": 5},
        {"type": "content_block_delta", "index": 0, "delta": "x"},
        {"type": "content_block_delta", "index": 9, "delta": {"type": "input_json_delta", "partial_json": "x"}},
        {"type": "content_block_stop"},
        {"type": "message_delta", "delta": None, "usage": []},
        {"type": "novelty"},
    ]
    raw = b"".join([claude.encode(event) for event in odd]) + b"data: 5\n\ndata: null\n\n" + stream(TEXT)
    chunks, events = run(raw)
    assert events.done
    assert said(chunks, "content") == TEXT["text"]


def test_usages() -> None:
    assert chat_usage(None) is None
    found = chat_usage({"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"thinking_tokens": 1}})
    assert found is not None
    assert (found["total_tokens"], found["completion_tokens_details"]) == (3, {"reasoning_tokens": 1})
    assert "cache_write_1h_tokens" not in found["prompt_tokens_details"]
