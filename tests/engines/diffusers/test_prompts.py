"""Tests of prompt parsing, which matches AUTOMATIC1111: weights, brackets, BREAK, windows of 75 tokens."""

from __future__ import annotations

import time

import pytest

from minitoolai.engines.diffusers.prompts import PromptPart, Window, weighted_parts, windows

UP, DOWN = 1.1, 1 / 1.1
#: The parsed parts of each prompt.
PROMPTS = {
    "a red apple": [("a red apple", 1.0)],
    "": [("", 1.0)],
    "a (red:1.3) apple": [("a ", 1.0), ("red", 1.3), (" apple", 1.0)],
    "(red)": [("red", UP)],
    "((red))": [("red", UP * UP)],
    "[red]": [("red", DOWN)],
    "[[red]]": [("red", DOWN * DOWN)],
    "([red])": [("red", DOWN * UP)],
    "(a (b:2) c:1.5)": [("a ", 1.5), ("b", 3.0), (" c", 1.5)],
    r"a \(film\) \[x\] \\": [("a (film) [x] \\", 1.0)],
    "(a: 1.5 )": [("a", 1.5)],
    "(a:.5)(b:-1)(c:+2)": [("a", 0.5), ("b", -1.0), ("c", 2.0)],
    "(a red apple:99999)": [("a red apple", 3.0)],
    "((a:0.1):20)": [("a", 2.0)],
    f"(a:{'9' * 39})(b:-{'9' * 39})": [("a", 3.0), ("b", -3.0)],
    f"((a:0):{'9' * 400})": [("a", 0.0)],
    "(" * 30 + "a": [("a", 3.0)],
    "(a:b)": [("a:b", UP)],
    "a:1.5)": [("a:1.5)", 1.0)],
    "a) b]": [("a) b]", 1.0)],
    "(a [b": [("a ", UP), ("b", UP * DOWN)],
    "(red)(apple)": [("redapple", UP)],
    "(:1.5)": [("", 1.0)],
    "a BREAK b": [("a", 1.0), (None, 1.0), ("b", 1.0)],
    "aBREAKb BREAKS": [("aBREAKb BREAKS", 1.0)],
    "(a BREAK b:2)": [("a", 2.0), (None, 2.0), ("b", 2.0)],
    "a\nBREAK\nBREAK b": [("a", 1.0), (None, 1.0), (None, 1.0), ("b", 1.0)],
}


@pytest.mark.parametrize(("prompt", "parts"), PROMPTS.items(), ids=list(PROMPTS))
def test_a_prompt_is_parsed_into_weighted_parts(prompt: str, parts: list[tuple[str | None, float]]) -> None:
    read = weighted_parts(prompt)
    assert [part.text for part in read] == [text for text, _ in parts]
    assert [part.weight for part in read] == pytest.approx([weight for _, weight in parts])


@pytest.mark.parametrize("hostile", ["(", "[a", "((a:1.5", ":", "\\", "(a[b)c]", "(a BREAK "])
def test_a_prompt_of_brackets_only_is_parsed_quickly(hostile: str) -> None:
    # 8,000 characters is the longest accepted prompt. A quadratic parser took 7 s for it.
    since_s = time.process_time()
    assert all(isinstance(part, PromptPart) for part in weighted_parts(hostile * (8000 // len(hostile))))
    assert time.process_time() - since_s < 2


COMMA = 0


def letters(text: str) -> list[int]:
    """Return one token per letter; the comma is token 0."""
    return [COMMA if letter == "," else ord(letter) for letter in text]


def lengths(prompt: str) -> list[int]:
    return [len(window.tokens) for window in windows(prompt, letters, COMMA)]


def test_a_window_has_75_tokens_and_the_remainder_continues() -> None:
    assert lengths("") == [0]
    assert lengths("x" * 75) == [75]
    assert lengths("x" * 76) == [75, 1]
    assert lengths("x" * 200) == [75, 75, 50]


def test_a_phrase_near_the_end_of_a_window_moves_to_the_next_one() -> None:
    assert lengths("x" * 60 + "," + "y" * 20) == [61, 20]
    # A comma more than 20 tokens back is ignored.
    assert lengths("x" * 50 + "," + "y" * 40) == [75, 16]
    # A comma that does not fit starts the next window.
    assert lengths("x" * 75 + ",y") == [75, 2]


def test_break_ends_a_window() -> None:
    assert lengths("abc BREAK de") == [3, 2]
    assert lengths("BREAK") == [0]
    assert lengths("BREAK a") == [0, 1]


def test_weights_follow_their_tokens_across_windows() -> None:
    read = windows("x" * 70 + "(y:2)" + "(z:3)" * 10, letters, COMMA)
    assert read[0] == Window((120,) * 70 + (121,) + (122,) * 4, (1.0,) * 70 + (2.0,) + (3.0,) * 4)
    assert read[1] == Window((122,) * 6, (3.0,) * 6)
