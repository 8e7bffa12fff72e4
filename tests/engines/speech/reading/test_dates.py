"""Rules that read dates, times, decades and spans."""

from __future__ import annotations

import pytest

from minitoolai.engines.speech.reading.dates import RULES
from tests.support.speech_rules import apply_rules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("On 2024-03-15 at noon", "On March fifteenth, twenty twenty-four at noon"),
        ("3/15/2024", "March fifteenth, twenty twenty-four"),
        ("15/3/2024", "March fifteenth, twenty twenty-four"),
        ("March 5, 1999", "March fifth, nineteen ninety-nine"),
        ("5 May 2001", "the fifth of May, two thousand one"),
        ("the 1st of June", "the first of June"),
    ],
)
def test_a_date_is_read_in_any_notation(text: str, words: str) -> None:
    assert apply_rules(RULES, text) == words


@pytest.mark.parametrize("text", ["2024-13-45", "31/31/2024", "25:61", "March 99"])
def test_what_is_no_date_and_no_time_stays(text: str) -> None:
    assert apply_rules(RULES, text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("at 3:05 pm", "at three oh five PM"),
        ("3:00", "three o'clock"),
        ("14:00", "fourteen hundred"),
        ("9:30-10:45", "nine thirty to ten forty-five"),
        ("John 3:16", "John three sixteen"),
        ("UTC+2", "UTC plus 2"),
    ],
)
def test_a_colon_separates_hours_or_verses(text: str, words: str) -> None:
    assert apply_rules(RULES, text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("in the 1990s", "in the nineteen nineties"),
        ("the '90s", "the nineties"),
        ("2000s", "two thousands"),
        ("1900s", "nineteen hundreds"),
        ("Mon-Fri", "Monday to Friday"),
        ("Jan-Mar", "January to March"),
        ("2019/20", "twenty nineteen twenty"),
    ],
)
def test_decades_and_spans(text: str, words: str) -> None:
    assert apply_rules(RULES, text) == words
