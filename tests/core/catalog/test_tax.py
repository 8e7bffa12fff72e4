"""The table [tax]: rates by country, the tax that a total contains, and mistakes with their remedies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.catalog.tax import TaxRule
from minitoolai.core.errors import CatalogError

CENT = 10_000_000
SHOP = '[shop]\nname = "Acme AI"\ncompany = "Acme GmbH"\naddress = "Weg 1\\nBerlin"\ncountry = "DE"\n'
TAX = SHOP + '[tax]\nname = "USt."\nreverse_charge = true\nrates = { DE = "19", FR = "20", CH = "8.1" }\n'


def test_the_rate_is_that_of_the_buyers_country() -> None:
    tax = parse_catalog(TAX).tax
    assert [tax.rule("DE", country, "").rate for country in ("DE", "FR", "CH", "US", "")] == [1900, 2000, 810, 0, 1900]
    assert tax.rule("DE", "FR", "FR40303265045") == TaxRule("USt.", 0, True)
    # No reverse charge in the seller's own country, outside the EU, or without a number.
    assert not tax.rule("DE", "DE", "DE136695976").is_reverse_charge
    assert not tax.rule("DE", "CH", "CHE-107.787.577").is_reverse_charge
    assert not tax.rule("DE", "FR", "").is_reverse_charge


@pytest.mark.parametrize(
    ("total", "rate", "tax"),
    [(2000, 1900, 319), (2000, 2000, 333), (100, 810, 7), (1, 1900, 0), (3, 2000, 1), (10**6, 0, 0), (119, 1900, 19)],
)
def test_the_contained_tax_is_rounded_half_up_to_the_cent(total: int, rate: int, tax: int) -> None:
    assert TaxRule("VAT", rate).contained(total * CENT) == tax * CENT


@given(st.integers(0, 10**8), st.integers(0, 9999))
def test_the_tax_is_the_nearest_cent_and_grows_with_the_total(cents: int, rate: int) -> None:
    rule = TaxRule("VAT", rate)
    tax = rule.contained(cents * CENT) // CENT
    # Twice the distance to the exact tax is at most one cent.
    assert abs(2 * (tax * (10_000 + rate) - cents * rate)) <= 10_000 + rate
    assert 0 <= tax <= cents
    assert 0 <= rule.contained((cents + 1) * CENT) // CENT - tax <= 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TAX.replace('DE = "19"', 'Germany = "19"'), "line 9.*'Germany' is not a country"),
        (TAX.replace('"20"', '"20%"'), "'20%' is not a rate"),
        (TAX.replace('"20"', "20"), "write it in quotes"),
        (TAX.replace("rates", "rate"), "there is no key rate"),
        (TAX.replace('country = "DE"\n', "").replace('company = "Acme GmbH"\n', ""), "country of"),
        (TAX.replace('country = "DE"', 'country = "Germany"'), "two capital letters"),
        (SHOP.replace('address = "Weg 1\\nBerlin"\n', ""), "also need its address"),
        ('[tax]\ndefault = "19"\n', "names its seller"),
        (TAX.replace('"USt."', '""'), "one short word"),
    ],
)
def test_a_mistake_names_line_and_remedy(text: str, words: str) -> None:
    with pytest.raises(CatalogError, match=words):
        parse_catalog(text)
