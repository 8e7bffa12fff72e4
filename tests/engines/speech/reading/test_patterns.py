"""Patterns of words and numbers take the longest that fits, and nothing inside another word."""

from __future__ import annotations

import re

import pytest

from minitoolai.engines.speech.reading.patterns import MAGNITUDE, NUM, SIGN, any_of, magnitude


def test_the_longest_word_is_tried_first_and_its_characters_are_literal() -> None:
    pattern = re.compile(any_of(["a.", "a.m.", "am"]))
    assert pattern.findall("9 a.m. a. am ab") == ["a.m.", "a.", "am"]


@pytest.mark.parametrize(("text", "found"), [("1,234.5", "1,234.5"), ("12,34", "12"), (".5", ".5"), ("1,2345", "1")])
def test_commas_separate_thousands_only(text: str, found: str) -> None:
    match = re.match(NUM, text)
    assert match is not None
    assert match[0] == found


@pytest.mark.parametrize(("text", "found"), [("-5", "-5"), ("a-5", "5"), ("3-5", "5"), (" +5", "+5"), ("x5", None)])
def test_a_sign_stands_before_a_number_not_between_two(text: str, found: str | None) -> None:
    match = re.search(rf"{SIGN}5", text)
    assert (match[0] if match else None) == found


def test_a_magnitude_is_a_word_of_its_own() -> None:
    assert magnitude(None) == ""
    match, other = re.match(rf"5{MAGNITUDE}", "5 bn"), re.match(rf"5{MAGNITUDE}", "5 bnx")
    assert match is not None
    assert other is not None
    assert magnitude(match[1]) == " billion"
    assert other[1] is None
