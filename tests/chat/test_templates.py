"""Unit tests of chunk templates: events that match a template are sent as if they had been parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.templates import MAX_TEMPLATE_PARSES
from tests.chat.stream.test_normalizer import DONE, END, TEXT, USAGE_EVENT, choice, event, stream

WORDS = ["a", " b", "", "Grüße", "🪐", 'say "x"', "back\\", "\n\n", "data: [DONE]", '"usage": {', "é" * 300, "end\\\\"]
#: The words as engines write them that send only ASCII.
ASCII = [json.dumps(word)[1:-1] for word in (*WORDS, "雪国", "\x01", "a\tb", "\\u00e9")]


def text_chunk(word: str, key: str = "content", **head: Any) -> bytes:
    return event(choice({key: word}), **head)


def said(sent: bytes) -> str:
    lines = [line for line in sent.split(b"\n\n") if line]
    return "".join(json.loads(line[6:])["choices"][0]["delta"].get("content") or "" for line in lines)


def both_ways(events: list[bytes], **options: bool) -> tuple[int, bytes]:
    """Return how many events matched the template, and the bytes sent. Check that parsing each event sends the same."""
    short, plain = stream(**options), stream(**options)
    sent, known = [], 0
    for data in events:
        block = short.match_template(data)
        known += block is not None
        sent.append(short.feed(data) if block is None else block)
        assert sent[-1] == plain.feed(data)
        assert (short.pieces, short.size, short.usage, short.done, short.error) == (
            plain.pieces, plain.size, plain.usage, plain.done, plain.error,
        )  # fmt: skip
    return known, b"".join(sent)


MODES = [
    {"forwards": True, "include_usage": True},
    {"forwards": True, "include_usage": False},
    {"forwards": False, "include_usage": True},
]


@pytest.mark.parametrize("mode", MODES)
def test_a_chunk_that_matches_the_template_is_sent_as_if_it_had_been_parsed(mode: dict[str, bool]) -> None:
    words = [text_chunk(word) for word in WORDS * 3]
    known, _ = both_ways([text_chunk("first"), *words, END, USAGE_EVENT, DONE], **mode)
    assert known >= 18


@pytest.mark.parametrize("mode", MODES)
def test_escapes_count_as_the_bytes_that_they_stand_for(mode: dict[str, bool]) -> None:
    words = [text_chunk("TEXT").replace(b"TEXT", word.encode()) for word in ASCII * 3]
    known, _ = both_ways([text_chunk("first"), *words, END, DONE], **mode)
    assert known >= 36
    events = stream(**mode)
    for data in words:
        if events.match_template(data) is None:
            events.feed(data)
    assert events.size == 3 * sum(len(json.loads(f'"{word}"').encode()) for word in ASCII)


@pytest.mark.parametrize("mode", MODES)
def test_an_emoji_split_over_two_events_becomes_one_character(mode: dict[str, bool]) -> None:
    events = stream(**mode)
    sent = events.feed(text_chunk("a"))
    for half in (b"\\ud83e", b"\\uDE90"):
        assert events.match_template(text_chunk("TEXT").replace(b"TEXT", half)) is None
        sent += events.feed(text_chunk("TEXT").replace(b"TEXT", half))
    assert events.match_template(text_chunk("b")) is not None
    assert said(sent) == "a🪐"
    assert events.size == 2 + len("🪐".encode())


@pytest.mark.parametrize("mode", MODES)
def test_bytes_that_are_not_utf8_never_match_the_template(mode: dict[str, bool]) -> None:
    events = stream(**mode)
    events.feed(text_chunk("a"))
    broken = text_chunk("TEXT").replace(b"TEXT", b"caf\xe9")
    assert events.match_template(broken) is None
    assert said(events.feed(broken)) == said(events.feed(broken + broken))[:4] == "caf\ufffd"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("mode", MODES)
def test_reasoning_and_content_use_two_templates(mode: dict[str, bool], key: str) -> None:
    thoughts = [text_chunk("hm", key) for _ in range(20)]
    known, _ = both_ways([*thoughts, *[text_chunk("so") for _ in range(20)], END, DONE], **mode)
    assert known == 38


@pytest.mark.parametrize("mode", MODES)
def test_pieces_of_a_calls_arguments_repeat_as_text_does(mode: dict[str, bool]) -> None:
    def piece(text: str, index: int = 0, **more: Any) -> bytes:
        return event(choice({"tool_calls": [{"index": index, **more, "function": {"arguments": text}}]}))

    first = piece("", id="call_1", type="function")
    known, _ = both_ways([first, *[piece(word) for word in WORDS * 3], piece("a", 1), piece("b"), END, DONE], **mode)
    assert known >= 18
    _, sent = both_ways([piece("a"), piece("b", 1), piece("c", id="call_2"), piece("d")], **mode)
    calls = [json.loads(line[6:])["choices"][0]["delta"]["tool_calls"][0] for line in sent.split(b"\n\n") if line]
    assert [(call["index"], call.get("id"), call["function"]["arguments"]) for call in calls] == [
        (0, "call_ours_0", "a"), (1, "call_ours_1", "b"), (0, "call_ours_0", "c"), (0, None, "d"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "stranger",
    [
        text_chunk("x", model="other"),
        text_chunk("x").replace(b"null}]", b"null},{}]"),
        event(choice({"content": "x"}, "stop")),
        event(choice({"content": "x"}), {"prompt_tokens": 1, "completion_tokens": 1}),
        event([*choice({"content": "x"}), *choice({"content": "y"})]),
        text_chunk("x")[:-1],
        text_chunk("x") + text_chunk("y"),
        text_chunk("x") + DONE,
        b": ping\n\n",
        b'data: {"error":{"message":"full"}}\n\n',
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_an_event_that_differs_in_more_than_its_text_is_parsed(stranger: bytes, mode: dict[str, bool]) -> None:
    events = stream(**mode)
    for _ in range(3):
        events.feed(text_chunk("a"))
    assert events.match_template(text_chunk("b")) is not None
    assert events.match_template(stranger) is None


def test_a_raw_line_end_or_an_open_escape_in_the_text_never_matches_the_template() -> None:
    events = stream()
    events.feed(text_chunk("a"))
    whole = text_chunk("TEXT")
    for text in (b"x\n\ndata: [DONE]\n\n", b"x\\", b'x","tool_calls":[{}],"a":"'):
        assert events.match_template(whole.replace(b"TEXT", text)) is None


def test_nothing_matches_the_template_while_half_an_event_is_buffered() -> None:
    events = stream()
    events.feed(text_chunk("a"))
    assert events.feed(b"data: {") == b""
    assert events.match_template(text_chunk("b")) is None


def test_after_the_end_nothing_repeats() -> None:
    events = stream()
    events.feed(text_chunk("a") + DONE)
    assert events.match_template(text_chunk("b")) is None
    assert events.feed(text_chunk("b")) == b""


def test_only_a_bounded_number_of_events_is_parsed_to_learn_a_template() -> None:
    known, sent = both_ways([text_chunk("word", n=number) for number in range(3 * MAX_TEMPLATE_PARSES)])
    assert known == 0
    assert len(sent.split(b"\n\n")) == 3 * MAX_TEMPLATE_PARSES + 1


def test_the_order_of_blocks_large_and_small_is_kept() -> None:
    events = [
        TEXT,
        *[text_chunk(str(number)) for number in range(9)],
        text_chunk("x") + text_chunk("y"),
        text_chunk("z"),
        END,
        DONE,
    ]
    _, sent = both_ways(events)
    said = [json.loads(line[6:])["choices"][0]["delta"].get("content") for line in sent.split(b"\n\n") if line]
    assert said[5:] == [*"012345678", "x", "y", "z", None]
