"""Pure arithmetic of prices: a request to the upper bound of its cost, usage to its cost. Nano-dollars throughout."""

from __future__ import annotations

from typing import Any

import msgspec

from minitoolai.core.catalog import ChatModel
from minitoolai.core.inference import ChatRequest, Usage
from minitoolai.services.counting import tokens_in

#: Tokens a chat template may add around one message, and around all of them. The templates in use need 3 to 8.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_PROMPT = 64
#: What a template usually adds around a message.
LIKELY_TOKENS_PER_MESSAGE = 4
#: Below this many output tokens an answer is no answer: 402 instead.
LEAST_OUTPUT_TOKENS = 16


class Bound(msgspec.Struct, frozen=True):
    """What a request may cost at most: `base` plus `unit` for each of `units` output tokens."""

    base: int
    unit: int
    units: int
    least_units: int
    #: Tokens of prompt and answer together, for limits; no money.
    tokens: int = 0


def prompt_bound(request: ChatRequest, model: ChatModel) -> int:
    """Tokens the prompt can count at most, without a tokenizer: no token is shorter than a byte."""
    bound = request.text_bytes + TOKENS_PER_MESSAGE * len(request.messages) + TOKENS_PER_PROMPT
    for detail in request.images:
        bound += image_bound(model, detail)
    return bound


def prompt_estimate(request: ChatRequest, model: ChatModel) -> int:
    """Return the likely tokens of a prompt that no engine counted: what the bound counts, but never its largest.

    A picture counts the least that one of this model can, since the most would charge for a small one many times over.
    """
    given = request.prompt if request.embed is None else request.embed
    tokens = _tokens_given(given) if isinstance(given, list) else 0
    images = sum(min(image_bound(model, "low"), image_bound(model, detail)) for detail in request.images)
    text = tokens_in(request.text_bytes - tokens) + LIKELY_TOKENS_PER_MESSAGE * len(request.messages)
    return max(1, tokens + text + images)


def _tokens_given(given: list[Any]) -> int:
    """Count the tokens in a list of texts and tokens, or of lists of tokens."""
    return sum(_tokens_given(item) if isinstance(item, list) else isinstance(item, int) for item in given)


def image_bound(model: ChatModel, detail: str) -> int:
    """Tokens one picture can count at most; never the bytes of its data URL."""
    if model.image_tokens is None:
        return 0
    return model.image_tokens.low if detail == "low" else model.image_tokens.high


def chat_bound(model: ChatModel, *, prompt_tokens: int, limit: int, choices: int) -> Bound:
    """The hold for one chat request. It is never nothing, even where a model is free."""
    base = max(1, prompt_tokens * model.price_input)
    tokens = prompt_tokens + limit * choices
    return Bound(base, choices * model.price_output, limit, min(limit, LEAST_OUTPUT_TOKENS), tokens)


def speech_bound(price: int, characters: int) -> Bound:
    """The hold for a text: all of it. It is never nothing, even where a voice is free."""
    return Bound(max(1, characters * price), 0, 0, 0)


def picture_bound(price: int) -> Bound:
    """The hold for a picture: its price. It is never nothing, even where a model is free."""
    return Bound(max(1, price), 0, 0, 0)


def chat_cost(price_input: int, price_output: int, usage: Usage) -> int:
    """The exact cost of what was read and written."""
    return usage.prompt_tokens * price_input + usage.completion_tokens * price_output
