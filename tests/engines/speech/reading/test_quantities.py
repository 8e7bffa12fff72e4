"""Rules that read money, quantities with units, fractions and ratios."""

from __future__ import annotations

import pytest

from minitoolai.engines.speech.reading.quantities import RULES
from tests.support.speech_rules import apply_rules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$5", "five dollars"),
        ("$1", "one dollar"),
        ("$1.50", "one dollar and fifty cents"),
        ("$0.99", "ninety-nine cents"),
        ("$5 million", "five million dollars"),
        ("$3-5", "three to five dollars"),
        ("-$3", "minus three dollars"),
        ("20 €", "twenty euros"),
        ("£5/month", "five pounds per month"),
        ("5¢", "five cents"),
    ],
)
def test_money(text: str, words: str) -> None:
    assert apply_rules(RULES, text) == words


@pytest.mark.parametrize(
    ("text", "words"), [("a $5 bill", "a five dollar bill"), ("a 5 km run", "a five kilometer run")]
)
def test_before_a_noun_the_unit_is_singular(text: str, words: str) -> None:
    assert apply_rules(RULES, text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5 km", "five kilometers"),
        ("1 km", "one kilometer"),
        ("-3.5 °C", "minus three point five degrees Celsius"),
        ("10 x 20 cm", "ten by twenty centimeters"),
        ("30 km/h", "thirty kilometers per hour"),
        ("50%", "fifty percent"),
        ("6'2\"", "six feet two"),
        ("1h 5m", "one hour five minutes"),
        ("1e6", "one times ten to the power of six"),
        ("1920×1080", "nineteen twenty by ten eighty"),
    ],
)
def test_quantities(text: str, words: str) -> None:
    assert apply_rules(RULES, text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3/4", "three quarters"),
        ("2 1/2", "two and a half"),
        ("8/10", "eight out of ten"),
        ("7/100", "seven out of one hundred"),
        ("24/7", "twenty-four seven"),
    ],
)
def test_fractions_and_ratios(text: str, words: str) -> None:
    assert apply_rules(RULES, text) == words
