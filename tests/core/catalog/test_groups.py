"""The prices of a group are exact integers, rounded up, and the list prices stay as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.core.catalog.groups import scale_prices, scaled
from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.catalog.prices import Prices, Tier
from minitoolai.core.errors import CatalogError
from minitoolai.core.inference import Usage

CATALOG = """
[engines.fake]
kind = "fake"
model = "fake"

[chat.small]
input = "0.15"
output = "0.60"
cached_input = "0.075"
context = 1000
max_output = 100
engines = ["fake"]

[chat.large]
input = "2.5"
output = "10"
context = 1000
max_output = 100
engines = ["fake"]

[speech.tts]
price = "15.00"
max_characters = 1000
voice = "v"
voices = [{id = "v", engine = "fake", language = "*", licence = "-"}]

[image.sketch]
price = "0.0015"
engines = ["fake"]
prices = [{price = "0.003", size = "512x512"}]

[groups.partner]
factor = 0.9
models = { large = "0.8", tts = 1 }

[groups.guest]
factor = "1.333333"
"""


def test_every_price_is_multiplied_and_exceptions_have_factors_of_their_own() -> None:
    view = parse_catalog(CATALOG).of_group("partner")
    small, large = view.chat["small"].prices, view.chat["large"].prices
    assert (small.input, small.output, small.cached_input, small.is_plain) == (135_000, 540_000, 67_500, True)
    assert (large.input, large.output) == (2_000_000, 8_000_000)
    assert (view.speech["tts"].price, view.images["sketch"].price) == (15_000, 1_350_000)
    assert view.images["sketch"].price_of("512x512", "") == 2_700_000


def test_prices_round_up_to_the_unit() -> None:
    view = parse_catalog(CATALOG).of_group("guest")
    assert view.chat["small"].prices.input == 200_000
    assert view.speech["tts"].price == 20_000
    assert scaled(1, 1) == 1
    assert scaled(0, 900_000) == 0


@given(st.integers(0, 10**12), st.integers(1, 100_000_000))
def test_a_rounded_price_is_the_least_whole_one_that_is_not_too_low(price: int, factor: int) -> None:
    found = scaled(price, factor)
    assert (found - 1) * 1_000_000 < price * factor <= found * 1_000_000


def test_tiers_and_fees_are_multiplied_too() -> None:
    listed = Prices.of(1000, 2000, request=5, tiers=(Tier(10, Prices.of(3000, 4000, request=9)),))
    found = scale_prices(listed, 500_000)
    assert found == Prices.of(500, 1000, request=3, tiers=(Tier(10, Prices.of(1500, 2000, request=5)),))
    assert found.cost(Usage(20, 1)) == 33


@pytest.mark.parametrize("group", [None, "unknown"])
def test_without_a_group_or_with_one_that_is_gone_the_list_prices_apply(group: str | None) -> None:
    catalog = parse_catalog(CATALOG)
    assert catalog.of_group(group) is catalog
    assert catalog.chat["small"].prices.input == 150_000


def test_a_catalog_that_is_replaced_replaces_the_prices_of_its_groups() -> None:
    catalog = parse_catalog(CATALOG)
    catalog.replace(parse_catalog(CATALOG.replace("factor = 0.9", "factor = 0.5")))
    assert catalog.of_group("partner").chat["small"].prices.input == 75_000
    catalog.replace(parse_catalog(CATALOG.split("[groups.partner]", maxsplit=1)[0]))
    assert catalog.of_group("partner") is catalog


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    [
        ("factor = 0.9", "factor = 0", "0 is not a factor"),
        ("factor = 0.9", "factor = -1", "-1 is not a factor"),
        ("factor = 0.9", "factor = 0.12345678", "at most six decimals"),
        ("factor = 0.9", "factor = 101", "at most 100"),
        ("factor = 0.9", "factor = nan", "nan is not a factor"),
        ("factor = 0.9", "factor = 1e-7", "is not a factor"),
        ("factor = 0.9", "factors = 0.9", "there is no key factors"),
        ("large =", "huge =", "there is no model 'huge'"),
        ("[groups.partner]", "[groups.Partner]", "lower-case"),
    ],
)
def test_a_mistake_in_a_group_names_its_line_and_the_remedy(line: str, wrong: str, message: str) -> None:
    with pytest.raises(CatalogError, match=r"line \d+: \[groups") as error:
        parse_catalog(CATALOG.replace(line, wrong))
    assert message in str(error.value)
