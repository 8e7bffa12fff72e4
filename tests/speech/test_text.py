"""Unit tests of splitting a text into sentences."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.speech.text import FIRST_LONGEST, LONGEST, sentences
from tests.support.pace import TimeLimit


def split(text: str) -> list[str]:
    return [sentence for sentence, _ in sentences(text)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four… Five.", 5),
        ("He said “stop.” She did not.", 2),
        ("It ended (at last.) We went home.", 2),
        ("A heading\nand a line", 2),
        ("Two\n\nparagraphs here", 2),
        ("Where? There.", 2),
        ("He waited... Nobody came.", 2),
        ("He said no. Then he left.", 2),
        ("She works at Acme Inc. He does not.", 2),
        ("We sat in the sun. It was warm.", 2),
        ("你好。今天天气很好！真的？", 3),
    ],
)
def test_sentences_end_where_a_reader_would_pause(text: str, count: int) -> None:
    assert len(split(text)) == count, split(text)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $3.50 and 1,234,567.89 yen, or 3.14159 of anything.",
        "Dr. Smith met Mrs. Jones and Prof. Lee at St. James.",
        "J. R. R. Tolkien wrote it in the U.S. or the U.K. perhaps.",
        "Use a fruit, e.g. an apple, i.e. something sweet.",
        "See No. 5, Fig. 3 and pp. 12 on Jan. 5 please.",
        "Bread, milk, etc. are sold here.",
        "She works at Acme Inc. in Boston.",
        "He waited... and waited.",
        "Meet me at 5 p.m. on Monday.",
        "Version 2.0.1 is at example.com/a.b?c=d today.",
        "1. Wash the rice",
        "Smith vs. Jones was heard at 9.30 a.m. yesterday.",
    ],
)
def test_numbers_abbreviations_and_initials_stay_whole(text: str) -> None:
    assert split(text) == [text]


def test_the_first_piece_is_short_and_breaks_at_a_clause() -> None:
    text = "When the committee met in the spring, nobody had read the report, " + "and so it went on, " * 20
    first = split(text)[0]
    assert len(first) <= FIRST_LONGEST
    assert first.endswith(",")


@pytest.mark.parametrize("unit", ["word ", "x", "号", "clause, ", "long-winded; "])
def test_a_long_sentence_is_split_at_clauses(unit: str) -> None:
    text = unit * 1000
    pieces = split(text)
    assert max(map(len, pieces)) <= LONGEST
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    if " " in unit:
        assert {word for piece in pieces for word in piece.split()} == {unit.strip()}


@given(st.text(alphabet="aB1 .,!?…\n\t\"'()é世。😀$%", max_size=2000))
def test_no_text_is_lost_or_repeated_and_every_end_advances(text: str) -> None:
    pieces = list(sentences(text))
    ends = [end for _, end in pieces]
    assert ends == sorted(set(ends))
    for (sentence, end), start in zip(pieces, [0, *ends], strict=False):
        assert sentence == text[start:end].strip() != ""
    assert text[ends[-1] if ends else 0 :].strip() == ""


def test_the_first_sentence_does_not_wait_for_the_end_of_a_long_text() -> None:
    text = "A sentence of some length, which is one of many. " * 20_000
    limit, started_s = TimeLimit(20.0), time.process_time()
    head = list(itertools.islice(sentences(text), 3))
    # Splitting the whole text takes 0.2 s.
    assert limit.permits((time.process_time() - started_s) * 1000), limit
    assert len(head) == 3
