"""Prices: the bound is never below the cost, and the cost is exact to the nano-dollar."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minitoolai
from minitoolai.billing.charging import (
    MIN_OUTPUT_TOKENS,
    TOKENS_PER_MESSAGE,
    TOKENS_PER_PROMPT,
    chat_bound,
    prompt_bound,
)
from minitoolai.core.catalog.catalog import ChatModel, ImageTokens
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.counting import estimate_prompt
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.core.money import format_dollars

MODEL = ChatModel("m", Prices.of_nano(150, 600), 128_000, 16_384, ("fake",), ImageTokens(85, 1445))
COUNTS = st.integers(0, 10**6)


def request(text_bytes: int = 0, messages: int = 1, images: list[str] | None = None) -> ChatRequest:
    return ChatRequest("m", [{}] * messages, {}, False, False, 5, text_bytes=text_bytes, images=images or [])


@given(prompt=COUNTS, limit=st.integers(1, 10**6), choices=st.integers(1, 128), data=st.data())
def test_no_response_within_its_limits_costs_more_than_its_hold(
    prompt: int, limit: int, choices: int, data: st.DataObject
) -> None:
    bound = chat_bound(MODEL, prompt_tokens=prompt, limit=limit, choices=choices)
    read, written = data.draw(st.integers(0, prompt)), data.draw(st.integers(0, limit * choices))
    assert MODEL.prices.cost(Usage(read, written)) <= bound.base + bound.units * bound.unit


@given(prompt=COUNTS, limit=st.integers(1, 10**6), choices=st.integers(1, 128))
def test_the_bound_is_the_cost_of_the_longest_response(prompt: int, limit: int, choices: int) -> None:
    bound = chat_bound(MODEL, prompt_tokens=prompt, limit=limit, choices=choices)
    longest = MODEL.prices.cost(Usage(prompt, limit * choices))
    assert bound.base + bound.units * bound.unit == longest
    assert bound.least_units == min(limit, MIN_OUTPUT_TOKENS)


def test_a_free_model_holds_nothing() -> None:
    free = ChatModel("free", Prices.of(0), 4096, 1024, ("fake",), None)
    bound = chat_bound(free, prompt_tokens=100, limit=1000, choices=1)
    assert (bound.base, bound.unit) == (0, 0)
    assert free.prices.cost(Usage(100, 1000)) == 0


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_the_cost_equals_a_decimal_calculation(prompt: int, completion: int) -> None:
    catalog = read_catalog(Path(minitoolai.__file__).parent / "catalog.toml")
    model = catalog.chat_model("gpt-4o-mini")
    dollars = (prompt * Decimal("0.15") + completion * Decimal("0.60")) / 10**6
    cost = model.prices.cost(Usage(prompt, completion))
    assert Decimal(format_dollars(cost)) == dollars


def test_a_prompt_is_bounded_by_its_bytes_messages_and_images() -> None:
    assert prompt_bound(request(100, messages=3), MODEL) == 100 + 3 * TOKENS_PER_MESSAGE + TOKENS_PER_PROMPT
    overhead = TOKENS_PER_MESSAGE + TOKENS_PER_PROMPT
    assert prompt_bound(request(images=["low", "high", "auto"]), MODEL) == overhead + 85 + 2 * 1445


@pytest.mark.parametrize("detail", ["low", "high", "auto"])
def test_a_model_without_vision_counts_no_images(detail: str) -> None:
    blind = ChatModel("m", Prices.of_nano(150, 600), 4096, 1024, ("fake",), None)
    assert prompt_bound(request(images=[detail]), blind) == TOKENS_PER_MESSAGE + TOKENS_PER_PROMPT


@given(
    text_bytes=COUNTS,
    messages=st.integers(0, 50),
    images=st.lists(st.sampled_from(["low", "high", "auto"]), max_size=32),
    tokens=st.none() | st.lists(st.lists(st.integers(0, 9), max_size=9) | st.just("word"), max_size=9),
    low=st.integers(0, 2000),
)
def test_the_estimate_of_a_prompt_is_never_above_its_bound(
    text_bytes: int, messages: int, images: list[str], tokens: list[object] | None, low: int
) -> None:
    model = ChatModel("m", Prices.of_nano(150, 600), 128_000, 16_384, ("fake",), ImageTokens(low, 1445))
    asked = request(text_bytes, messages, images)
    if tokens is not None:
        asked.prompt = tokens
        asked.text_bytes = sum(len(item) for item in tokens)  # type: ignore[arg-type, misc]
    assert 1 <= estimate_prompt(asked, model.image_tokens) <= prompt_bound(asked, model)


def test_an_estimate_counts_text_messages_and_the_minimum_of_each_image() -> None:
    assert estimate_prompt(request(1000, messages=3), MODEL.image_tokens) == 200 + 3 * 4
    assert estimate_prompt(request(images=["low", "high", "auto"]), MODEL.image_tokens) == 4 + 3 * 85
    assert estimate_prompt(request(images=["low"]), None) == 4
    numbers = request(108, messages=0)
    numbers.prompt = [[1, 2, 3], [4, 5, 6, 7, 8], "w" * 100]
    assert estimate_prompt(numbers, MODEL.image_tokens) == 8 + 20
    numbers.prompt, numbers.embed = None, [[1, 2], [3]]
    numbers.text_bytes = 3 + 2 * 4
    assert estimate_prompt(numbers, MODEL.image_tokens) == 3 + 2
