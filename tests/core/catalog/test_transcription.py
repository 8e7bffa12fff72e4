"""The price of transcription is written per minute and charged per second, to the nano-dollar."""

from __future__ import annotations

import msgspec
import pytest

from minitoolai.core.catalog.transcription import TranscriptionEntry, price_per_second


@pytest.mark.parametrize(
    ("per_minute", "per_second"), [("0.006", 100_000), ("0", 0), ("0.00000006", 1), ("0.6", 10_000_000)]
)
def test_a_price_per_minute_becomes_nano_dollars_per_second(per_minute: str, per_second: int) -> None:
    assert price_per_second(per_minute) == per_second


@pytest.mark.parametrize("per_minute", ["1", "0.001", "0.00000001"])
def test_a_price_must_be_whole_per_second(per_minute: str) -> None:
    with pytest.raises(ValueError, match="not a whole number of nano-dollars per second"):
        price_per_second(per_minute)


@pytest.mark.parametrize("price", ["1.01", "-0.006", "NaN", "Infinity"])
def test_a_price_is_between_nothing_and_a_dollar(price: str) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1 dollar"):
        price_per_second(price)


@pytest.mark.parametrize("price", ["much", "", "0,006"])
def test_a_word_is_no_price(price: str) -> None:
    with pytest.raises(ValueError, match=r"is not a price; write it like 0\.006"):
        price_per_second(price)


@pytest.mark.parametrize("change", [{"max_seconds": 0}, {"max_seconds": 86_401}, {"formats": ["doc"]}, {"prize": "1"}])
def test_an_entry_is_checked(change: dict[str, object]) -> None:
    entry = {"price": "0.006", "engines": ["ear"]}
    assert msgspec.convert(entry, TranscriptionEntry).max_seconds == 14_400
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(entry | change, TranscriptionEntry)
