"""Unit tests of chat/stream/deltas.py: tool calls keep index, ID and arguments, and halves of characters are joined."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.stream.deltas import Repair, repair_logprobs, repair_text_logprobs


def repaired(*deltas: Any, choice: int = 0) -> list[dict[str, Any]]:
    repair = Repair("chatcmpl-x")
    return [repair.delta(json.dumps(delta).encode(), choice)[0] for delta in deltas]


def pieces(*calls: list[dict[str, Any]], choice: int = 0) -> list[tuple[int, str | None, str | None]]:
    """Return (index, ID, arguments) of every piece, for deltas with these calls."""
    deltas = repaired(*[{"tool_calls": piece} for piece in calls], choice=choice)
    return [
        (call["index"], call.get("id"), call["function"].get("arguments"))
        for delta in deltas
        for call in delta["tool_calls"]
    ]


def call(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {**more, "function": {key: value for key, value in function.items() if value is not None}}


def test_without_an_index_calls_are_told_apart_by_id_else_by_order() -> None:
    assert pieces([call("f", "{}", id="a")], [call("g", "", id="b")], [call(None, "{}", id="b")]) == [
        (0, "a", "{}"), (1, "b", ""), (1, "b", "{}"),
    ]  # fmt: skip
    assert pieces([call("f", "")], [call(None, "{")], [call(None, "}")]) == [
        (0, "call_x_0", ""), (0, None, "{"), (0, None, "}"),
    ]  # fmt: skip
    assert pieces([call("f", ""), call("g", "")], [call(None, "1"), call(None, "2")]) == [
        (0, "call_x_0", ""), (1, "call_x_1", ""), (0, None, "1"), (1, None, "2"),
    ]  # fmt: skip


def test_one_index_for_several_calls_is_not_believed() -> None:
    first, second, rest = call("f", "{}", index=0, id="a"), call("g", "{}", index=0, id="b"), call(None, "x", index=0)
    assert pieces([first], [second], [rest]) == [(0, "a", "{}"), (1, "b", "{}"), (1, None, "x")]


def test_an_index_that_does_not_begin_at_zero_is_replaced() -> None:
    assert pieces([call("f", "", index=3, id="a")], [call(None, "{}", index=3)]) == [(0, "a", ""), (0, None, "{}")]


def test_a_missing_id_is_made_and_stays() -> None:
    assert pieces([call("f", "", index=0)], [call(None, "{}", index=0, id="late")]) == [
        (0, "call_x_0", ""), (0, "call_x_0", "{}"),
    ]  # fmt: skip
    assert pieces([call("f", "", index=0)], choice=2) == [(0, "call_x_2_0", "")]
    assert pieces([call("f", "", index=0, id=7)]) == [(0, "7", "")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"x": 1}, '{"x":1}'), ([1], "[1]"), (7, "7"), ("{}", "{}"), (None, "")],
)
def test_arguments_are_a_text(arguments: Any, text: str) -> None:
    assert pieces([{"function": {"name": "f", "arguments": arguments}}]) == [(0, "call_x_0", text)]


def test_a_name_that_is_repeated_is_sent_once() -> None:
    deltas = repaired(*[{"tool_calls": [call("f", piece, index=0, id="a")]} for piece in ("{", "}")])
    assert [delta["tool_calls"][0]["function"] for delta in deltas] == [
        {"name": "f", "arguments": "{"}, {"arguments": "}"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "piece",
    [
        {"name": "f", "arguments": {"x": 1}},
        {"type": "custom", "custom": {"name": "f", "input": '{"x":1}'}},
        {"function": {"name": "f", "parameters": {"x": 1}}},
        {"index": None, "id": "", "type": None, "function": {"name": "f", "arguments": '{"x":1}'}},
    ],
)
def test_other_forms_of_calls_are_read(piece: dict[str, Any]) -> None:
    (found,) = repaired({"tool_calls": [piece]})[0]["tool_calls"]
    assert (found["type"], found["function"]) == ("function", {"name": "f", "arguments": '{"x":1}'})


def test_halves_of_a_character_are_joined_field_by_field() -> None:
    first, second = repaired(
        {"content": "a\ud83d", "reasoning": "b\ud83d", "tool_calls": [call("f", "c\ud83d", index=0, id="i")]},
        {"content": "\ude42d", "reasoning": "\ude43", "tool_calls": [call(None, "\ude44", index=0)]},
    )
    assert (first["content"], first["reasoning"], first["tool_calls"][0]["function"]["arguments"]) == ("a", "b", "c")
    assert (second["content"], second["reasoning"]) == ("🙂d", "🙃")
    assert second["tool_calls"][0]["function"]["arguments"] == "🙄"


def test_a_half_without_the_other_becomes_a_replacement_character() -> None:
    repair = Repair("chatcmpl-x")
    assert repair.delta(rb'{"content":"a\ud83d"}', 0)[0] == {"content": "a"}
    assert repair.awaits_half
    assert repair.delta_of_rest(repair.rest(0), {}) == {"content": "\ufffd"}
    assert repair.message(rb'{"content":"a\ud83d"}', 0) == {"role": "assistant", "content": "a\ufffd"}
    assert not repair.awaits_half


@pytest.mark.parametrize("delta", [{"content": "x"}, {"role": "assistant", "content": ""}, {"refusal": "no"}, {}])
def test_a_documented_delta_is_left_as_it_is(delta: dict[str, Any]) -> None:
    assert Repair("x").delta(json.dumps(delta).encode(), 0) == (delta, False)


def test_roles_and_texts_get_their_types() -> None:
    assert repaired({"role": "model", "content": ["a", "b"]}, {"role": None, "content": 5}, "text", None) == [
        {"role": "assistant", "content": "ab"}, {"content": "5"}, {"content": "text"}, {},
    ]  # fmt: skip


def test_logprobs_get_their_form() -> None:
    good = b'{"content":[{"token":"a","logprob":-1,"bytes":null,"top_logprobs":[]}]}'
    assert repair_logprobs(good) is good
    token = {"token": "a", "logprob": -9999.0, "bytes": None, "top_logprobs": []}
    for odd in ('{"content":[{"token":"a","logprob":null}]}', '{"tokens":["a"],"token_logprobs":[null]}'):
        assert json.loads(repair_logprobs(odd.encode())) == {"content": [token], "refusal": None}
    for nothing in (b"null", b"7", b"[]", b"{}", b'{"content":null}'):
        assert repair_logprobs(nothing) == b"null"
    legacy = b'{"tokens":["a"],"token_logprobs":[null],"text_offset":[0]}'
    assert repair_text_logprobs(legacy) is legacy
    assert repair_text_logprobs(b'"x"') == b"null"
