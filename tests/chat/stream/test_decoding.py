"""Unit tests of chat/stream/decoding.py: every value is read for what can be understood of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from minitoolai.chat.stream.decoding import (
    FAILED,
    clean_json,
    clean_text,
    decode_json,
    has_half,
    index_or,
    read_event,
    read_finish_reason,
    read_received,
    read_usage,
    reasoning_of,
    text_of,
    thoughts_of,
    timestamp_or,
)
from minitoolai.core.inference import CompletionDetails, TokenDetails, Usage


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":NaN,"b":-Infinity,"c":1e999}', {"a": None, "b": None, "c": None}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":"caf\xe9"}', {"a": "caf\ufffd"}),
        (b'{"a":"x\ny"}', {"a": "x\ny"}),
        (b'{"a":"\\ud83d"}', {"a": "\ud83d"}),
        (b' {"a":"\\ud83d\\ude42"} \n', {"a": "🙂"}),
    ],
)
def test_json_is_read_leniently(text: bytes, value: Any) -> None:
    assert decode_json(text) == value


@pytest.mark.parametrize("text", [b"", b"{", b"ping", b"{} {}", b"\xff"])
def test_other_text_is_no_json(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode_json(text)


def test_what_is_encoded_is_valid_json() -> None:
    assert clean_json({"a": "\ud83d", "b": math.nan}) in (
        '{"a": "\ufffd", "b": NaN}'.encode(),
        '{"a":"\ufffd","b":null}'.encode(),
    )
    assert clean_text("a\ud83d\ude42\ud83db\ude42") == "a🙂\ufffdb\ufffd"


@pytest.mark.parametrize(
    ("text", "is_half"),
    [
        (rb"\ud83d\ude42", False),
        (rb"\uD83D\uDE42", False),
        (rb"a\ud83d", True),
        (rb"\ude42a", True),
        (rb"\ud83d\ud83d\ude42", True),
        (rb"\ud83d\u0041", True),
        (rb"\u00e9 plain", False),
        (rb"\ud7ff", False),
    ],
)
def test_half_a_surrogate_pair_is_found(text: bytes, is_half: bool) -> None:
    assert has_half(text) == is_half


@pytest.mark.parametrize(
    ("event", "name", "lines"),
    [
        (b"data: x", "", [b"x"]),
        (b"data:x\ndata:  y\ndata", "", [b"x", b" y", b""]),
        (b": comment\nevent: ping\nid: 1\nretry: 5\nother: z", "ping", []),
        (b"\xef\xbb\xbfdata: x", "", [b"x"]),
        (b'error: {"code":1}', "error", [b' {"code":1}']),
    ],
)
def test_an_event_is_read_line_by_line(event: bytes, name: str, lines: list[bytes]) -> None:
    assert read_event(event) == (name, lines)


def test_a_chunk_may_have_any_types() -> None:
    found = read_received(b'{"id":1,"choices":{"delta":{"content":"x"}},"usage":[]}')
    assert found is not None
    chunk, is_repaired, _ = found
    assert (chunk.id, chunk.usage, is_repaired) == (1, [], True)
    assert [bytes(choice.delta) for choice in chunk.choices or ()] == [b'{"content": "x"}']
    assert read_received(b"[1]") is None
    assert read_received(b"ping") is None
    with pytest.raises(ValueError, match=r".*"):
        read_received(b'{"id":')


@pytest.mark.parametrize(
    ("content", "text", "thoughts"),
    [
        ("x", "x", None),
        (None, None, None),
        (7, "7", None),
        (True, None, None),
        (["a", {"text": "b"}, {"type": "text", "text": "c"}, {"type": "output_text", "text": "d"}], "abcd", None),
        ([{"type": "image_url", "image_url": {"url": "x"}}], None, None),
        ({"parts": [{"text": "x"}]}, "x", None),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "x"}],
            "x",
            "hm",
        ),
        ([{"text": "hm", "thought": True}, {"text": "x"}], "x", "hm"),
    ],
)
def test_the_text_of_a_content_is_found(content: Any, text: str | None, thoughts: str | None) -> None:
    assert (text_of(content), thoughts_of(content)) == (text, thoughts)


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm", "reasoning_details": [{"text": "hm"}]},
        {"reasoning_content": "", "thinking": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "h"}, {"type": "reasoning.summary", "summary": "m"}]},
    ],
)
def test_reasoning_has_several_names(message: dict[str, Any]) -> None:
    assert reasoning_of(message) == "hm"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, None), ("", None), ("null", None), (False, None), ("stop", "stop"), ("eos", "stop"), ("STOP", "stop"),
        ("end_turn", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"), ("SAFETY", "content_filter"),
        ("sensitive", "content_filter"), ("error", FAILED), ("abort", FAILED), ({"type": "abort"}, FAILED),
        ({"type": "stop", "matched": 2}, "stop"), (True, "stop"), ("a new one", "stop"),
    ],
)  # fmt: skip
def test_finish_reasons_have_many_names(value: Any, reason: str | None) -> None:
    assert read_finish_reason(value) == reason


@pytest.mark.parametrize(
    ("value", "usage"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, Usage(3, 4, 7)),
        ({"prompt_tokens": "3", "completion_tokens": "4.0"}, Usage(3, 4)),
        ({"prompt_tokens": 3.0, "completion_tokens": 4.0, "prompt_tokens_details": []}, Usage(3, 4)),
        ({"prompt_tokens": 3, "total_tokens": 7}, Usage(3, 4, 7)),
        ({"completion_tokens": 4, "total_tokens": 7}, Usage(3, 4, 7)),
        ({"prompt_tokens": 3, "completion_tokens": None}, Usage(3, 0)),
        ({"input_tokens": 3, "output_tokens": 4}, Usage(3, 4)),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": "2"},
                "completion_tokens_details": {"reasoning_tokens": None},
                "total_tokens": None,
            },
            Usage(3, 4, 0, TokenDetails(2), CompletionDetails()),
        ),
        ({"prompt_tokens": "3", "completion_tokens": 4, "prompt_cache_hit_tokens": 2}, Usage(3, 4, 0, TokenDetails(2))),
    ],
)
def test_usage_is_read_from_any_form(value: Any, usage: Usage) -> None:
    assert read_usage(value) == usage


@pytest.mark.parametrize(
    "value",
    [None, {}, [], "x", 7, {"total_tokens": 7}, {"prompt_tokens": None, "completion_tokens": None},
     {"prompt_tokens": "many", "completion_tokens": "more"}, {"prompt_tokens": 1.5, "completion_tokens": True}],
)  # fmt: skip
def test_what_cannot_be_decoded_is_no_usage(value: Any) -> None:
    assert read_usage(value) is None


def test_numbers_have_defaults() -> None:
    assert [index_or(value, 9) for value in (0, "2", 2.0, None, -1, 1.5, True, [], 2**40)] == [
        0,
        2,
        2,
        9,
        9,
        9,
        9,
        9,
        9,
    ]
    assert [timestamp_or(value, 9) for value in (5, "5", 5.0, None, 0, -1, 5.5, "2024-01-01", [], 10**30)] == [
        5, 5, 5, 9, 9, 9, 9, 9, 9, 9,
    ]  # fmt: skip
