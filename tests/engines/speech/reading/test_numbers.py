"""English words for numbers of every kind."""

from __future__ import annotations

import pytest

from minitoolai.engines.speech.reading import numbers


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (1_234, "one thousand two hundred thirty-four"),
        (1_000_000, "one million"),
        (2_000_000_005, "two billion five"),
        (10**30, "one nonillion"),
    ],
)
def test_a_cardinal_names_every_group_that_is_not_zero(number: int, words: str) -> None:
    assert numbers.cardinal(number) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "first"), (2, "second"), (5, "fifth"), (9, "ninth"), (12, "twelfth"), (20, "twentieth"), (21, "twenty-first"),
     (100, "one hundredth"), (1003, "one thousand third")],
)  # fmt: skip
def test_an_ordinal_changes_the_last_word_only(number: int, words: str) -> None:
    assert numbers.ordinal(number) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(1905, "nineteen oh five"), (1900, "nineteen hundred"), (1999, "nineteen ninety-nine"), (2000, "two thousand"),
     (2005, "two thousand five"), (2024, "twenty twenty-four"), (476, "four hundred seventy-six"),
     (12_000, "twelve thousand")],
)  # fmt: skip
def test_a_year_is_read_in_two_halves_except_around_a_millennium(number: int, words: str) -> None:
    assert numbers.year(number) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [("1,250", "one thousand two hundred fifty"), ("0.50", "zero point five zero"), (".5", "point five"),
     ("007", "zero zero seven"), ("5.", "five"), ("0", "zero"), ("9" * 31, " ".join(["nine"] * 31))],
)  # fmt: skip
def test_an_amount_keeps_its_zeros(text: str, words: str) -> None:
    assert numbers.amount(text) == words


def test_a_sign_is_a_word() -> None:
    assert [numbers.signed(text) for text in ("-3", "+3", "3")] == ["minus three", "plus three", "three"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("737", "seven thirty-seven"), ("1080", "ten eighty"), ("1905", "nineteen oh five"), ("500", "five hundred"),
     ("2000", "two thousand"), ("1500", "fifteen hundred"), ("42", "forty-two"), ("0737", "zero seven three seven")],
)  # fmt: skip
def test_models_are_read_in_halves(text: str, words: str) -> None:
    assert numbers.halves(text) == words


def test_fractions_have_names() -> None:
    assert numbers.fraction(1, 2) == "one half"
    assert numbers.fraction(3, 2) == "three halves"
    assert numbers.fraction(3, 4) == "three quarters"
    assert numbers.fraction(1, 3) == "one third"
    assert numbers.fraction(2, 21) == "two twenty-firsts"


def test_the_plural_of_a_number() -> None:
    assert [numbers.plural(word) for word in ("ninety", "six", "two")] == ["nineties", "sixes", "twos"]


def test_a_code_is_spelled() -> None:
    assert numbers.spelled("4b-12") == "four B one two"
    assert numbers.digits("(030) 12") == "zero three zero one two"


@pytest.mark.parametrize(
    ("text", "value"),
    [("I", 1), ("IV", 4), ("XIV", 14), ("MCMXC", 1990), ("MMXXIV", 2024), ("IIII", 0), ("VX", 0), ("", 0), ("iv", 0)],
)
def test_a_roman_numeral_has_a_value_only_if_it_is_well_formed(text: str, value: int) -> None:
    assert numbers.roman(text) == value
