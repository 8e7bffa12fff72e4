"""Tests of the events of a message: one content block at a time, in order, however the chunks of the chat come."""

from __future__ import annotations

from typing import Any

from minitoolai.chat.dialects.messages_stream import MessageStream, content_of, stop_reason, tool_id, usage_object
from minitoolai.core.inference import TokenDetails, Usage
from tests.support.claude import outcome, read_stream

Json = dict[str, Any]
HEAD = {"model": "m", "created": 1}


def stream(*deltas: Json, finish: str = "stop", names: dict[str, str] | None = None) -> list[Any]:
    found = MessageStream("msg_1", "asked", names or {}, 7)
    sent = b""
    for delta in deltas:
        sent += found.chunk({**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    sent += found.chunk({**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    sent += found.final_events(Usage(10, 5, 15, TokenDetails(4, cache_write_tokens=3)))
    return read_stream(sent.decode())


def call(index: int, arguments: str = "", *, name: str | None = None) -> Json:
    function: Json = {"arguments": arguments}
    piece: Json = {"index": index, "function": function}
    if name:
        function["name"] = name
        piece |= {"id": f"call_{index}", "type": "function"}
    return {"tool_calls": [piece]}


def kinds(found: list[Any]) -> list[str]:
    return [event["type"] if isinstance(event, dict) else event.type for event in found]


def test_text() -> None:
    found = stream({"role": "assistant", "content": ""}, {"content": "Hal"}, {"content": "lo"})
    assert kinds(found) == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = found[0].message
    assert (start.id, start.model, start.usage.input_tokens, start.stop_reason) == ("msg_1", "m", 7, None)
    usage = found[-2].usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (3, 4, 3)
    assert (usage.output_tokens, found[-2].delta.stop_reason) == (5, "end_turn")


def test_thinking_text_and_calls_follow_each_other() -> None:
    found = stream(
        {"reasoning_content": "hm"},
        {"content": "I read."},
        call(0, name="read"),
        call(0, '{"path"'),
        call(0, ':"a"}'),
        call(1, '{"path":"b"}', name="read"),
        finish="tool_calls",
    )
    assert outcome(found) == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "I read."},
        {"type": "tool_use", "id": "call_0", "name": "read", "input": {"path": "a"}},
        {"type": "tool_use", "id": "call_1", "name": "read", "input": {"path": "b"}},
    ]
    assert found[-2].delta.stop_reason == "tool_use"


def test_calls_whose_pieces_are_mixed_are_sorted() -> None:
    found = stream(
        call(0, '{"a"', name="f"),
        call(1, '{"b"', name="g"),
        call(0, ":1}"),
        call(1, ":2}"),
        finish="tool_calls",
    )
    assert [block["input"] for block in outcome(found)] == [{"a": 1}, {"b": 2}]


def test_calls_without_arguments_and_calls_that_never_end() -> None:
    found = stream(call(0, name="f"), call(1, name="g"), call(1, "{}"), finish="tool_calls")
    assert [(block["name"], block["input"]) for block in outcome(found)] == [("f", {}), ("g", {})]
    text = "".join(
        event.delta.partial_json
        for event in stream(call(0, '{"a": "cut of', name="f"), finish="length")
        if not isinstance(event, dict) and event.type == "content_block_delta"
    )
    assert text == '{"a": "cut of'


def test_text_after_a_call_begins_a_new_block() -> None:
    found = stream(call(0, "{}", name="f"), {"content": "Done."})
    assert [block["type"] for block in outcome(found)] == ["tool_use", "text"]


def test_a_legacy_call_and_a_refusal() -> None:
    found = stream({"function_call": {"name": "f", "arguments": '{"a":1}'}}, finish="function_call")
    assert outcome(found) == [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}]
    found = stream({"refusal": "No."}, finish="content_filter")
    assert outcome(found) == [{"type": "text", "text": "No."}]
    assert found[-2].delta.stop_reason == "refusal"


def test_names_and_ids_are_those_of_the_caller() -> None:
    found = stream(call(0, "{}", name="short"), names={"short": "a_long_name"})
    assert outcome(found)[0]["name"] == "a_long_name"
    assert tool_id("functions.bash:0", "msg_1") == "functions_bash_0"


def test_an_empty_answer_is_a_whole_message() -> None:
    assert kinds(stream()) == ["message_start", "ping", "message_delta", "message_stop"]


def test_a_stream_that_another_engine_began_is_not_begun_again() -> None:
    found = MessageStream("msg_1", "asked", {}, 7)
    found.has_begun = True
    assert b"message_start" not in found.chunk({**HEAD, "choices": [{"index": 0, "delta": {"content": "x"}}]})


def test_the_content_of_a_whole_message() -> None:
    message = {
        "reasoning": "hm",
        "content": "Hi",
        "tool_calls": [
            {"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"id": "d", "function": {"name": "f", "arguments": '{"a":'}},
        ],
    }
    blocks = content_of(message, "msg_1", {"f": "long"})
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert [(block["name"], block["input"]) for block in blocks[2:]] == [("long", {"a": 1}), ("long", {})]


def test_every_finish_reason_has_a_stop_reason() -> None:
    found = [
        stop_reason(reason) for reason in ("stop", "length", "tool_calls", "function_call", "content_filter", None)
    ]
    assert found == ["end_turn", "max_tokens", "tool_use", "tool_use", "refusal", "end_turn"]


def test_writes_to_a_cache_are_told_by_their_time() -> None:
    details = TokenDetails(8984, cache_write_tokens=1000, cache_write_1h_tokens=400)
    usage = usage_object(Usage(10_000, 5, 0, details))
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (16, 8984)
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 600, "ephemeral_1h_input_tokens": 400}
