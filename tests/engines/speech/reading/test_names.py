"""Rules that read Roman numerals, houses, streets, states, versions and abbreviations."""

from __future__ import annotations

import pytest

from minitoolai.engines.speech.reading.names import NUMBERED, RULES
from tests.support.speech_rules import apply_rules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Henry VIII", "Henry the eighth"),
        ("World War II", "World War two"),
        ("Chapter IV", "Chapter four"),
        ("Part II of III", "Part two of three"),
        ("page xii", "page twelve"),
        ("the XIX century", "the nineteenth century"),
    ],
)
def test_roman_numerals_are_read_by_the_word_before_them(text: str, words: str) -> None:
    assert apply_rules(RULES, text) == words


@pytest.mark.parametrize("text", ["Then I left", "a mix of C and D", "Chapter I think", "Part A of B"])
def test_letters_that_are_no_numerals_stay(text: str) -> None:
    assert apply_rules(RULES, text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Main St", "Main Street"),
        ("Main St.", "Main Street."),
        ("St. Mary", "Saint Mary"),
        ("Dr. Who", "Doctor Who"),
        ("e.g. this", "for example this"),
    ],
)
def test_abbreviations_are_read_by_their_place(text: str, words: str) -> None:
    assert apply_rules(RULES, text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Python 3.12", "Python three point twelve"),
        ("Ubuntu 22.04", "Ubuntu twenty-two point zero four"),
        ("Boeing 747", "Boeing seven forty-seven"),
        ("T-10", "T minus 10"),
        ("call 911 now", "call nine one one now"),
        ("I-95 N", "I-95 North"),
    ],
)
def test_numbers_are_read_by_the_name_before_them(text: str, words: str) -> None:
    assert apply_rules(NUMBERED, text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("123 Main Street", "one twenty-three Main Street"),
        ("221B Baker Street", "two twenty-one B Baker Street"),
        ("500 Fifth Avenue", "five hundred Fifth Avenue"),
        ("1600 Pennsylvania Avenue", "sixteen hundred Pennsylvania Avenue"),
        ("1205 N Oak Road", "twelve oh five North Oak Road"),
    ],
)
def test_the_number_of_a_house_is_read_in_pairs(text: str, words: str) -> None:
    assert apply_rules(NUMBERED, text) == words
