"""Tests of reading numbers, units and symbols aloud, by the phonemes of the embedded voice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.engines.speech.reading.numbers import amount, cardinal, fraction, ordinal, roman, year
from minitoolai.engines.speech.reading.spoken_text import speakable
from tests.support.pace import TimeLimit

LINES = Path(__file__).with_name("spoken.txt").read_text(encoding="utf-8").splitlines()
CASES = [tuple(line.split(" => ")) for line in LINES if line and not line.startswith("# ")]


@pytest.fixture(scope="module")
def phonemes() -> Any:
    from hibari.g2p import G2P

    return G2P()


def test_there_are_two_hundred_cases() -> None:
    assert len(CASES) >= 200


def test_every_case_has_the_phonemes_of_its_sentence(phonemes: Any) -> None:
    wrong = [
        (written, speakable(written), spoken)
        for written, spoken in CASES
        if phonemes(speakable(written)) != phonemes(spoken)
    ]
    assert wrong == []


def test_what_is_spoken_already_stays_as_it_is() -> None:
    changed = [(spoken, speakable(spoken)) for _, spoken in CASES if any(map(str.isdigit, speakable(spoken)))]
    assert changed == []


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (cardinal(0), "zero"),
        (cardinal(21), "twenty-one"),
        (cardinal(1_000_001), "one million one"),
        (cardinal(12_345), "twelve thousand three hundred forty-five"),
        (ordinal(12), "twelfth"),
        (ordinal(20), "twentieth"),
        (ordinal(101), "one hundred first"),
        (ordinal(1_000), "one thousandth"),
        (year(1905), "nineteen oh five"),
        (year(1900), "nineteen hundred"),
        (year(2005), "two thousand five"),
        (year(2026), "twenty twenty-six"),
        (amount("1,250.50"), "one thousand two hundred fifty point five zero"),
        (amount("007"), "zero zero seven"),
        (fraction(3, 4), "three quarters"),
    ],
)
def test_number_words(made: str, expected: str) -> None:
    assert made == expected


def test_roman_numerals() -> None:
    assert [roman(text) for text in ("IV", "XIX", "MCMXCIV", "IIII", "", "VX")] == [4, 19, 1994, 0, 0, 0]


@given(st.text(alphabet="0123456789.,:/-–+%$€°'\" ()#@^×=abIVXkm½²\n", max_size=60))
def test_no_text_fails_or_keeps_a_digit(text: str) -> None:
    assert not any(character.isdigit() for character in speakable(text))


@given(st.text(max_size=100))
def test_any_characters_are_accepted(text: str) -> None:
    speakable(text)


@pytest.mark.parametrize(
    "unit", ["1", "1,", "1.", "1-", "1 ", "$", "$1", "#", "a.", "I ", "1/", "10:", "x", "(", "+1", "a@"]
)
def test_any_sentence_takes_little_time(unit: str) -> None:
    limit, started_s = TimeLimit(100.0), time.process_time()
    speakable((unit * 400)[:400])
    assert limit.permits((time.process_time() - started_s) * 1000), limit
