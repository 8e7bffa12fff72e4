"""CBOR: the examples of RFC 8949, and data that is refused."""

from __future__ import annotations

from typing import Any

import pytest

from minitoolai.core.cbor import Tagged, Wide, decode, encode


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, "00"), (23, "17"), (24, "1818"), (1000, "1903e8"), (1_000_000, "1a000f4240"), (2**40, "1b0000010000000000"),
        (-1, "20"), (-1000, "3903e7"), (b"\1\2", "420102"), ("\u00fc", "62c3bc"), ([1, [2]], "82018102"),
        ({"a": 1}, "a1616101"), (None, "f6"), (True, "f5"), (False, "f4"),
    ],
)  # fmt: skip
def test_values_are_encoded_as_the_rfc_shows(value: Any, data: str) -> None:
    assert encode(value).hex() == data
    assert decode(bytes.fromhex(data)) == value


def test_tags_wide_integers_indefinite_lengths_and_floats() -> None:
    decoded = decode(encode(Tagged(18, [b"x"])))
    assert (decoded.tag, decoded.value) == (18, [b"x"])
    assert encode(Wide(5)).hex() == "1a00000005"
    assert decode(bytes.fromhex("9f0102ff")) == [1, 2]
    assert decode(bytes.fromhex("bf6161f5ff")) == {"a": True}
    assert decode(bytes.fromhex("5f41014102ff")) == b"\1\2"
    assert decode(bytes.fromhex("f93c00")) == 1.0


@pytest.mark.parametrize("data", ["", "18", "62c3", "8201", "a161", "ff", "9f01", "1c", "81" * 100, "9affffffff"])
def test_invalid_data_is_a_value_error(data: str) -> None:
    with pytest.raises(ValueError, match="CBOR"):
        decode(bytes.fromhex(data))


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="complex"):
        encode(1j)
    with pytest.raises(ValueError, match="too large"):
        encode(2**64)
