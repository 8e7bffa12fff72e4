"""Tests of the tokenizers, and of the estimates with and without them, against OpenAI's encoder."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitoolai.core.counting import MOST_COUNTED, Delivered, estimate
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.tokenizers import tokenizer_named, why_no_tokenizers
from tests.support import tiktokens
from tests.support.texts import corpus, prose

ASKED = ChatRequest("m", [], {}, stream=True, include_usage=True, limit=None)


def output(text: str, name: str = "") -> int:
    """Return our count of a response with this text."""
    delivered = Delivered(1, len(text.encode("utf-8", "replace")), [text])
    return estimate(ASKED, delivered, tokenizer_named(name) if name else None).completion_tokens


@pytest.mark.parametrize("name", ["o200k", "cl100k"])
def test_with_a_tokenizer_the_count_of_every_text_is_the_true_one(name: str) -> None:
    texts = corpus()
    assert len(texts) == 60
    assert all(200 <= len(text.encode()) <= 20_000 for text in texts.values())
    wrong = {key: (output(text, name), tiktokens.count(text, name)) for key, text in texts.items()}
    assert {key: pair for key, pair in wrong.items() if pair[0] != pair[1]} == {}


def test_without_a_tokenizer_the_count_is_from_a_fifth_to_a_bit_above_the_true_one() -> None:
    shares = {key: output(text) / tiktokens.count(text) for key, text in corpus().items()}
    assert {key: share for key, share in shares.items() if not 0.2 <= share <= 1.75} == {}


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_has_the_true_count(text: str) -> None:
    plain = text.encode("utf-8", "replace").decode()
    tokenizer = tokenizer_named("o200k")
    assert tokenizer is not None
    assert tokenizer.count(text) == tiktokens.count(plain)


def test_megabytes_are_sampled_in_little_time() -> None:
    text = prose("en", 20 * MOST_COUNTED, random.Random(1))
    output(text[:1000], "o200k")
    started_s = time.perf_counter()
    counted = output(text, "o200k")
    assert time.perf_counter() - started_s < 1.0
    assert counted == pytest.approx(tiktokens.count(text), rel=0.02)


def test_the_prompt_counts_text_tools_messages_and_the_fewest_tokens_of_an_image() -> None:
    from minitoolai.core.catalog.catalog import ImageTokens

    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts, "name": "ann"}]
    asked = ChatRequest("m", messages, {"tools": [tool]}, stream=True, include_usage=True, limit=None, images=["auto"])
    counted = estimate(asked, Delivered(0, 0), tokenizer_named("o200k"), ImageTokens(low=85, high=1445))
    texts = ["Be brief.", "What is this?", '"ann"']
    text_tokens = sum(map(tiktokens.count, texts))
    schema = tiktokens.count('[{"type":"function","function":{"name":"look_up","parameters":{"type":"object"}}}]')
    assert counted.prompt_tokens == text_tokens + schema + 2 * 4 + 85


def test_a_missing_package_is_named_with_the_consequence() -> None:
    assert why_no_tokenizers() is None
    reason = why_no_tokenizers("bpe_openai_of_another_name")
    assert reason is not None
    assert "counted by its bytes" in reason
    assert "pip install bpe-openai" in reason
