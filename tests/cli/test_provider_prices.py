"""The list of prices is read in the terms of the catalog, as of now, rounded up."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from minitoolai.cli.provider_prices import ENGINES, ProviderModel, changes, chat_models, format_price
from minitoolai.core.errors import InvalidRequest


@pytest.mark.parametrize("provider", ENGINES)
def test_every_provider_has_models_with_both_prices(provider: str) -> None:
    models = chat_models(provider)
    assert models
    assert all({"input", "output"} <= model.prices.keys() for model in models)
    assert all(row.keys() == model.prices.keys() for model in models for row in model.tiers.values())


def test_models_that_do_not_chat_are_left_out() -> None:
    names = {model.name for model in chat_models("openai")}
    assert {"gpt-4o", "gpt-5", "o3"} <= names
    assert not names & {"whisper-1", "tts-1", "text-embedding-3-small", "gpt-4o-realtime-preview", "moderation"}


def test_a_tier_has_the_prices_of_a_long_prompt() -> None:
    [model] = chat_models("anthropic", only="claude-haiku-5-5")
    assert list(model.tiers) == [100_000]
    assert Decimal(model.tiers[100_000]["input"]) > Decimal(model.prices["input"])


def test_a_price_that_changes_at_a_date_is_that_of_the_date() -> None:
    [before] = chat_models("openai", only="o3", now=datetime(2025, 5, 1, tzinfo=UTC))
    [after] = chat_models("openai", only="o3", now=datetime(2025, 8, 1, tzinfo=UTC))
    assert (before.prices["input"], after.prices["input"]) == ("10.00", "2.00")


@pytest.mark.parametrize(
    ("price", "text"),
    [("3", "3.00"), ("0.075", "0.075"), ("0.0375", "0.0375"), ("0.00000001", "0.000001"), ("1.2345671", "1.234568")],
)
def test_prices_are_written_with_two_to_six_decimals_rounded_up(price: str, text: str) -> None:
    assert format_price(Decimal(price)) == text


def test_a_markup_applies_to_every_bucket_and_tier() -> None:
    model = ProviderModel(
        "m", 1000, {"input": "1", "cached_input": "0.1"}, {500: {"input": "2", "cached_input": "0.2"}}
    )
    assert model.times(Decimal("1.5")) == ProviderModel(
        "m", 1000, {"input": "1.50", "cached_input": "0.15"}, {500: {"input": "3.00", "cached_input": "0.30"}}
    )


def test_equal_prices_in_other_words_are_no_change() -> None:
    assert list(changes({"input": "3"}, {"input": "3.00"})) == []
    assert list(changes({"input": "3"}, {"input": "2", "output": "4"})) == ["input 3 → 2", "output none → 4"]


def test_without_the_package_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    with pytest.raises(InvalidRequest, match=r'pip install "minitoolai\[prices\]"'):
        chat_models("openai")
