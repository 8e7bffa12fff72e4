"""Tests of the text that is kept of streams, to be counted with a tokenizer."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from minitoolai.chat.recording import MOST_KEPT, RecordingNormalizer
from tests.support import manners
from tests.support.outside_auditor import Texts, add_delta


def event(deltas: list[tuple[int, dict[str, Any]]], *, ascii_only: bool, spaced: bool) -> bytes:
    chunk = manners.chunk({})
    chunk["choices"] = [{**chunk["choices"][0], "index": index, "delta": delta} for index, delta in deltas]
    marks = None if spaced else (",", ":")
    return b"data: " + json.dumps(chunk, ensure_ascii=ascii_only, separators=marks).encode() + b"\n\n"


def recorded(blocks: list[bytes], *, forwards: bool, choices: int = 1) -> RecordingNormalizer:
    """Return the normalizer after these reads, each offered to the template first, as a run does."""
    events = RecordingNormalizer(forwards=forwards, include_usage=True, name="chatcmpl-1", created_s=1, choices=choices)
    for block in blocks:
        if events.match_template(block) is None:
            events.feed(block)
    return events


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize("spaced", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_text_of_every_choice_and_field_is_kept(forwards: bool, spaced: bool, seed: int) -> None:
    draw = random.Random(seed)
    words = ["word ", "Grüße ", "雪", "😀", 'a "quote" ', "back\\slash ", "line\n", "", "</b>", "tab\t"]
    fields = ["content"] * 4 + ["reasoning_content", "reasoning"]
    choices = draw.choice((1, 1, 2))
    deltas = [(draw.randrange(choices), {draw.choice(fields): draw.choice(words)}) for _ in range(300)]
    if seed % 2:
        deltas = [(0, {"content": draw.choice(words)}) for _ in range(300)]
    expected: Texts = {}
    for index, delta in deltas:
        add_delta(expected, index, delta)
    raw = [event([one], ascii_only=draw.random() < 0.5, spaced=spaced) for one in deltas]
    blocks, at = [], 0
    while at < len(raw):
        count = draw.choice((1, 1, 1, 2, 5))
        blocks.append(b"".join(raw[at : at + count]))
        at += count
    events = recorded(blocks, forwards=forwards, choices=choices)
    assert sorted(events.texts()) == sorted(text for text in expected.values() if text)
    assert events.size == sum(len(text.encode()) for text in expected.values())


def test_no_more_than_a_limit_is_kept() -> None:
    piece = event([(0, {"content": "word " * 200})], ascii_only=True, spaced=False)
    events = recorded([piece] * 1000, forwards=True)
    assert events.size == 1_000_000
    assert MOST_KEPT <= sum(map(len, events.texts())) <= MOST_KEPT + 1000
