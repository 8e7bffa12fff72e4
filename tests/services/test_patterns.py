"""Events known by what they share need no parser, and are the same as if they had been parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.services.events import LESSONS
from tests.services.test_events import DONE, END, TEXT, USAGE_EVENT, choice, event, stream

WORDS = ["a", " b", "", "Grüße", "🪐", 'say "x"', "back\\", "\n\n", "data: [DONE]", '"usage": {', "é" * 300, "end\\\\"]
#: The same, as engines write them that send ASCII alone.
ASCII = [json.dumps(word)[1:-1] for word in (*WORDS, "雪国", "\x01", "a\tb", "\\u00e9")]


def told(word: str, key: str = "content", **head: Any) -> bytes:
    return event(choice({key: word}), **head)


def both_ways(events: list[bytes], **options: bool) -> tuple[int, bytes]:
    """How many events went the short way, and what was sent; the same as without that way, or the test fails."""
    short, plain = stream(**options), stream(**options)
    sent, known = [], 0
    for data in events:
        block = short.repeats(data)
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
def test_what_repeats_is_sent_as_if_it_had_been_parsed(mode: dict[str, bool]) -> None:
    words = [told(word) for word in WORDS * 3]
    known, _ = both_ways([told("first"), *words, END, USAGE_EVENT, DONE], **mode)
    assert known >= 18


@pytest.mark.parametrize("mode", MODES)
def test_escapes_count_as_the_bytes_that_they_stand_for(mode: dict[str, bool]) -> None:
    words = [told("TEXT").replace(b"TEXT", word.encode()) for word in ASCII * 3]
    known, _ = both_ways([told("first"), *words, END, DONE], **mode)
    assert known >= 36
    events = stream(**mode)
    for data in words:
        if events.repeats(data) is None:
            events.feed(data)
    assert events.size == 3 * sum(len(json.loads(f'"{word}"').encode()) for word in ASCII)


def test_half_an_emoji_in_each_of_two_events_counts_about_what_a_whole_one_does() -> None:
    events = stream()
    events.feed(told("a"))
    for half in (b"\\ud83e", b"\\ude90"):
        assert events.repeats(told("TEXT").replace(b"TEXT", half)) is not None
    assert events.size == 1 + len("🪐".encode())


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("mode", MODES)
def test_a_thought_and_then_an_answer_are_two_patterns(mode: dict[str, bool], key: str) -> None:
    thoughts = [told("hm", key) for _ in range(20)]
    known, _ = both_ways([*thoughts, *[told("so") for _ in range(20)], END, DONE], **mode)
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
        (0, None, "a"), (1, None, "b"), (0, "call_2", "c"), (0, None, "d"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "stranger",
    [
        told("x", model="other"),
        told("x").replace(b"null}]", b"null},{}]"),
        event(choice({"content": "x"}, "stop")),
        event(choice({"content": "x"}), {"prompt_tokens": 1, "completion_tokens": 1}),
        event([*choice({"content": "x"}), *choice({"content": "y"})]),
        told("x")[:-1],
        told("x") + told("y"),
        told("x") + DONE,
        b": ping\n\n",
        b'data: {"error":{"message":"full"}}\n\n',
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_an_event_that_differs_in_more_than_its_text_is_parsed(stranger: bytes, mode: dict[str, bool]) -> None:
    events = stream(**mode)
    for _ in range(3):
        events.feed(told("a"))
    assert events.repeats(told("b")) is not None
    assert events.repeats(stranger) is None


def test_a_raw_line_end_or_an_open_escape_in_the_text_is_no_text() -> None:
    events = stream()
    events.feed(told("a"))
    whole = told("TEXT")
    for text in (b"x\n\ndata: [DONE]\n\n", b"x\\", b'x","tool_calls":[{}],"a":"'):
        assert events.repeats(whole.replace(b"TEXT", text)) is None


def test_while_half_an_event_waits_nothing_goes_by_the_short_way() -> None:
    events = stream()
    events.feed(told("a"))
    assert events.feed(b"data: {") == b""
    assert events.repeats(told("b")) is None


def test_after_the_end_nothing_repeats() -> None:
    events = stream()
    events.feed(told("a") + DONE)
    assert events.repeats(told("b")) is None
    assert events.feed(told("b")) == b""


def test_events_that_never_repeat_cost_a_bounded_number_of_lessons() -> None:
    known, sent = both_ways([told("word", n=number) for number in range(3 * LESSONS)])
    assert known == 0
    assert len(sent.split(b"\n\n")) == 3 * LESSONS + 1


def test_the_order_of_blocks_large_and_small_is_kept() -> None:
    events = [TEXT, *[told(str(number)) for number in range(9)], told("x") + told("y"), told("z"), END, DONE]
    _, sent = both_ways(events)
    said = [json.loads(line[6:])["choices"][0]["delta"].get("content") for line in sent.split(b"\n\n") if line]
    assert said[5:] == [*"012345678", "x", "y", "z", None]
