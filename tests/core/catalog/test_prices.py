"""Prices by bucket: each token is charged once, at its own price, and never above the hold."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from minitoolai.billing.charging import chat_bound
from minitoolai.chat.stream.decoding import read_usage
from minitoolai.core.catalog.catalog import ChatModel
from minitoolai.core.catalog.prices import INPUT_BUCKETS, OUTPUT_BUCKETS, PricedUnits, Prices, Tier, decode_parts
from minitoolai.core.inference import CompletionDetails, TokenDetails, Usage

#: Claude Sonnet's prices: $3, $0.30, $3.75, $6 and $15 per million tokens.
SONNET = Prices.of(3_000_000, 15_000_000, cached_input=300_000, cache_write=3_750_000, cache_write_1h=6_000_000)
PRICE, COUNT = st.integers(0, 10**8), st.integers(0, 10**6)
BUCKETS = st.fixed_dictionaries({}, optional=dict.fromkeys((*INPUT_BUCKETS[1:], *OUTPUT_BUCKETS[1:]), PRICE))


@st.composite
def prices(draw: st.DrawFn) -> Prices:
    """Prices with some buckets, some tiers, and perhaps a fee."""
    above = draw(st.lists(st.integers(1, 10**6), max_size=3, unique=True).map(sorted))
    tiers = tuple(
        Tier(start, Prices.of(draw(PRICE), draw(PRICE), request=draw(PRICE), **draw(BUCKETS))) for start in above
    )
    return Prices.of(draw(PRICE), draw(PRICE), request=draw(PRICE), tiers=tiers, **draw(BUCKETS))


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usages whose details may contradict each other and their sums."""
    read = TokenDetails(draw(st.none() | COUNT), draw(COUNT), *draw(st.tuples(*[st.just(UNSET) | COUNT] * 3)))
    written = CompletionDetails(draw(COUNT), draw(COUNT))
    return Usage(draw(COUNT), draw(COUNT), 0, draw(st.none() | st.just(read)), draw(st.none() | st.just(written)))


@given(prices(), usages())
def test_every_token_is_in_one_bucket_and_the_cost_is_their_sum_rounded_up(prices: Prices, usage: Usage) -> None:
    parts = [part for part in prices.split(usage) if part.bucket != "request"]
    assert sum(part.units for part in parts if part.bucket in INPUT_BUCKETS) == usage.prompt_tokens
    assert sum(part.units for part in parts if part.bucket in OUTPUT_BUCKETS) == usage.completion_tokens
    assert all(part.units > 0 for part in parts)
    exact = sum(Fraction(part.units * part.price, 1000) for part in prices.split(usage))
    assert prices.cost(usage) == ceil(exact)


@given(prices(), usages(), COUNT, COUNT, st.integers(1, 4))
def test_no_usage_within_its_limits_costs_more_than_its_hold(
    prices: Prices, usage: Usage, more_prompt: int, more_output: int, choices: int
) -> None:
    model = ChatModel("m", prices, 10**9, 10**9, ("fake",), None)
    limit = -(-(usage.completion_tokens + more_output) // choices)
    bound = chat_bound(model, prompt_tokens=usage.prompt_tokens + more_prompt, limit=limit, choices=choices)
    assert prices.cost(usage) <= bound.base + bound.unit * bound.units


@given(prices(), usages())
def test_the_stored_split_is_enough_to_repeat_the_calculation(prices: Prices, usage: Usage) -> None:
    cost, stored = prices.charge(usage)
    assert cost == prices.cost(usage)
    if stored is None:
        parts = [
            PricedUnits("", usage.prompt_tokens, prices.input),
            PricedUnits("", usage.completion_tokens, prices.output),
        ]
        assert prices.input_nano * 1000 == prices.input
        assert prices.output_nano * 1000 == prices.output
    else:
        parts = decode_parts(stored)
    assert ceil(Fraction(sum(part.units * part.price for part in parts), 1000)) == prices.cost(usage)


def test_nothing_used_costs_nothing_even_with_a_fee() -> None:
    prices = Prices.of(1000, 1000, request=10**9)
    assert prices.cost(Usage(0, 0)) == 0
    assert prices.cost(Usage(1, 0)) == 1 + 10**6


def test_a_price_below_a_nano_dollar_is_rounded_once_per_request() -> None:
    prices = Prices.of(37_500, 82_500)
    assert prices.cost(Usage(1, 0)) == 38
    assert prices.cost(Usage(1000, 0)) == 37_500
    assert prices.cost(Usage(1, 1)) == 120
    assert decode_parts(prices.charge(Usage(2, 0))[1] or "") == [PricedUnits("input", 2, 37_500)]


def test_a_tier_prices_the_whole_request_by_the_length_of_its_prompt() -> None:
    prices = Prices.of(1000, 2000, tiers=(Tier(200_000, Prices.of(2000, 3000)), Tier(400_000, Prices.of(5000, 6000))))
    assert prices.cost(Usage(200_000, 10)) == 200_000 + 20
    assert prices.cost(Usage(200_001, 10)) == 400_002 + 30
    assert prices.cost(Usage(400_001, 10)) == 2_000_005 + 60


ANTHROPIC = {"input_tokens": 16, "cache_read_input_tokens": 8984, "cache_creation_input_tokens": 1000}
OPENROUTER = {"prompt_tokens": 10_000, "prompt_tokens_details": {"cached_tokens": 8984, "cache_write_tokens": 1000}}
RENAMED = {"prompt_tokens": 16, "cache_read_input_tokens": 8984, "cache_creation_input_tokens": 1000}


@pytest.mark.parametrize(
    "reported",
    [
        ANTHROPIC | {"output_tokens": 50},
        OPENROUTER | {"completion_tokens": 50},
        RENAMED | {"completion_tokens": 50},
        {
            "prompt_tokens": 10_000, "completion_tokens": 50, "total_tokens": 10_050,
            "cache_read_input_tokens": 8984, "cache_creation_input_tokens": 1000,
        },
    ],
    ids=["Anthropic", "OpenRouter", "a proxy that renames", "LiteLLM"],
)  # fmt: skip
def test_cache_reads_and_writes_cost_their_own_prices(reported: dict[str, object]) -> None:
    usage = read_usage(reported)
    assert usage is not None
    assert SONNET.split(usage) == [
        PricedUnits("cached_input", 8984, 300_000),
        PricedUnits("cache_write", 1000, 3_750_000),
        PricedUnits("input", 16, 3_000_000),
        PricedUnits("output", 50, 15_000_000),
    ]
    assert SONNET.cost(usage) == 16 * 3000 + 8984 * 300 + 1000 * 3750 + 50 * 15_000


@pytest.mark.parametrize(
    "reported",
    [
        {"prompt_tokens": 10_000, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 9984}},
        {"input_tokens": 10_000, "output_tokens": 50, "input_tokens_details": {"cached_tokens": 9984}},
        {"input_tokens": 16, "output_tokens": 50, "cache_read_input_tokens": 9984, "cache_creation_input_tokens": 0},
        {
            "prompt_tokens": 10_000, "completion_tokens": 50,
            "prompt_cache_hit_tokens": 9984, "prompt_cache_miss_tokens": 16,
        },
        {
            "prompt_tokens": 10_000, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 0},
            "prompt_cache_hit_tokens": 9984,
        },
        {
            "promptTokenCount": 10_000, "cachedContentTokenCount": 9984, "candidatesTokenCount": 40,
            "thoughtsTokenCount": 10, "totalTokenCount": 10_050,
        },
        {"inputTokens": 16, "outputTokens": 50, "cacheReadInputTokens": 9984, "totalTokens": 10_050},
    ],
    ids=["OpenAI", "Responses", "Anthropic", "DeepSeek", "a proxy of DeepSeek", "Gemini", "Bedrock"],
)  # fmt: skip
def test_the_same_cached_prompt_costs_the_same_in_every_providers_terms(reported: dict[str, object]) -> None:
    usage = read_usage(reported)
    assert usage is not None
    assert SONNET.cost(usage) == 16 * 3000 + 9984 * 300 + 50 * 15_000


def test_writes_for_an_hour_are_priced_apart() -> None:
    creation = {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600}
    usage = read_usage(ANTHROPIC | {"output_tokens": 0, "cache_creation": creation})
    assert usage is not None
    assert SONNET.cost(usage) == 16 * 3000 + 8984 * 300 + 400 * 3750 + 600 * 6000


def test_reasoning_and_audio_have_their_own_prices() -> None:
    prices = Prices.of(1000, 2000, reasoning=3000, audio_input=10_000, audio_output=20_000, image_input=4000)
    usage = Usage(
        100, 50, 150, TokenDetails(0, 30, image_tokens=20), CompletionDetails(reasoning_tokens=10, audio_tokens=15)
    )
    assert prices.cost(usage) == 30 * 10 + 20 * 4 + 50 * 1 + 10 * 3 + 15 * 20 + 25 * 2


def test_a_free_cache_is_free() -> None:
    assert Prices.of(1000, 1000, cached_input=0).cost(Usage(10, 0, 10, TokenDetails(10))) == 0
