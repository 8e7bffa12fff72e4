"""Money between text and nano-dollars: exact, or refused with a sentence."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.core.money import (
    LARGEST_NANO,
    format_dollars,
    format_pico,
    parse_dollars,
    price_per_character,
    price_per_request,
    price_per_unit,
)


@given(st.integers(1, LARGEST_NANO))
def test_every_amount_survives_the_way_to_text_and_back(nano: int) -> None:
    assert parse_dollars(format_dollars(nano)) == nano


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("5", 5 * 10**9),
        ("5.00", 5 * 10**9),
        ("$5.00", 5 * 10**9),
        (" 0.15 ", 150_000_000),
        ("0.000000001", 1),
        ("0.1000000000000000000000000000000000000000", 100_000_000),
        ("1000000000", LARGEST_NANO),
    ],
)
def test_plain_amounts_are_read_exactly(text: str, nano: int) -> None:
    assert parse_dollars(text) == nano


@pytest.mark.parametrize(
    "text", ["", "$", "abc", "1,000", "1e3", "1e999999", "5_0", "٥", "NaN", "inf", "+5", "$$5", "5.", "--1"]
)
def test_what_is_no_plain_number_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an amount in dollars; write it like 5\.00"):
        parse_dollars(text)


@pytest.mark.parametrize("text", ["0", "0.00", "-1", "$-0.5"])
def test_nothing_and_less_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be more than zero"):
        parse_dollars(text)


@pytest.mark.parametrize("text", ["0.0000000001", "5.0000000000000000000000000000000001"])
def test_fractions_of_a_nano_dollar_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nine decimal places"):
        parse_dollars(text)


@pytest.mark.parametrize("text", ["1000000000.000000001", "999999999999999"])
def test_amounts_that_could_overflow_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"more than the largest amount, \$1,000,000,000"):
        parse_dollars(text)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0.000000000"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (4_998_500_000, "4.998500000"),
        (-(10**10), "-10.000000000"),
    ],
)
def test_amounts_are_written_with_nine_places(nano: int, text: str) -> None:
    assert format_dollars(nano) == text


@given(st.integers(-(2**63), 2**63))
def test_what_is_written_is_the_amount_to_the_last_digit(nano: int) -> None:
    assert Decimal(format_dollars(nano)).scaleb(9) == nano


@pytest.mark.parametrize(
    ("dollars", "pico"),
    [
        ("0.15", 150_000), ("0.60", 600_000), ("10.00", 10_000_000), ("0.001", 1000), ("0.0375", 37_500),
        ("0.0825", 82_500), ("0.000001", 1), ("0", 0), ("1000000", 10**12),
    ],
)  # fmt: skip
def test_a_listed_price_is_a_whole_number_of_pico_dollars_per_token(dollars: str, pico: int) -> None:
    assert price_per_unit(dollars) == pico


def test_speech_is_priced_in_whole_nano_dollars_per_character() -> None:
    assert price_per_character("15.00") == 15_000
    with pytest.raises(ValueError, match="nano-dollars"):
        price_per_character("15.0005")


def test_a_fee_is_in_dollars_per_request() -> None:
    assert price_per_request("0.001") == 10**9
    with pytest.raises(ValueError, match="nano-dollar"):
        price_per_request("0.0000000001")


def test_pico_dollars_are_written_with_twelve_places() -> None:
    assert format_pico(37_500) == "0.000000037500"
    assert format_pico(2 * 10**12 + 1) == "2.000000000001"


@pytest.mark.parametrize(
    "dollars", ["0.0000001", "0.15000000000000000000000000000000001", "-1", "NaN", "1e3", "", "1000000.001"]
)
def test_a_price_that_is_not_whole_or_not_sane_is_refused(dollars: str) -> None:
    with pytest.raises(ValueError, match=r"pico-dollars|write it like"):
        price_per_unit(dollars)
