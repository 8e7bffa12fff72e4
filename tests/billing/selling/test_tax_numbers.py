"""Tax numbers: right ones are normalized, malformed ones refused with what is wrong."""

from __future__ import annotations

import pytest

from minitoolai.billing.selling.tax_numbers import InvalidTaxNumber, normalize_tax_number


@pytest.mark.parametrize(
    ("country", "text", "stored"),
    [
        ("DE", "de 136 695 976", "DE136695976"),
        ("DE", "136695976", "DE136695976"),
        ("GR", "EL 094259216", "EL094259216"),
        ("FR", "FR 40 303 265 045", "FR40303265045"),
        ("BR", "16.727.230/0001-97", "16727230000197"),
        ("US", "12-3456789", "12-3456789"),
        ("DE", "  ", ""),
    ],
)
def test_a_right_number_is_stored_as_its_country_writes_it(country: str, text: str, stored: str) -> None:
    assert normalize_tax_number(country, text) == stored


@pytest.mark.parametrize(
    ("country", "text", "fault"),
    [
        ("DE", "DE13669597", "length"),
        ("DE", "DE136695977", "check_digit"),
        ("DE", "DE13669597X", "format"),
        ("FR", "FR41303265045", "check_digit"),
        ("TR", "1234567891", "check_digit"),
        ("BR", "16.727.230/0001-98", "check_digit"),
        ("US", "x" * 31, "length"),
        ("US", "1\u202e2", "length"),
    ],
)
def test_a_malformed_number_is_refused_with_its_fault(country: str, text: str, fault: str) -> None:
    with pytest.raises(InvalidTaxNumber) as refused:
        normalize_tax_number(country, text)
    assert refused.value.fault == fault
