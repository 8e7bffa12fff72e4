"""Read the prices of providers' chat models from the package genai-prices, and convert them to the catalog's keys.

The package (MIT) is updated within days of a price change. It is optional: `pip install "minitoolai[prices]"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from minitoolai.cli.common import CLOCK
from minitoolai.core.errors import InvalidRequest

#: Provider of the package → engine of the catalog and its address. All but Anthropic speak OpenAI's API.
ENGINES = {
    "anthropic": ("anthropic", "https://api.anthropic.com/v1"),
    "cerebras": ("cerebras", "https://api.cerebras.ai/v1"),
    "deepseek": ("deepseek", "https://api.deepseek.com/v1"),
    "fireworks": ("fireworks", "https://api.fireworks.ai/inference/v1"),
    "google": ("google", "https://generativelanguage.googleapis.com/v1beta/openai"),
    "groq": ("groq", "https://api.groq.com/openai/v1"),
    "mistral": ("mistral", "https://api.mistral.ai/v1"),
    "moonshotai": ("moonshot", "https://api.moonshot.ai/v1"),
    "openai": ("openai", "https://api.openai.com/v1"),
    "openrouter": ("openrouter", "https://openrouter.ai/api/v1"),
    "together": ("together", "https://api.together.xyz/v1"),
    "x-ai": ("xai", "https://api.x.ai/v1"),
}
#: Key of the catalog → attribute of the package: dollars per million tokens.
_BUCKETS = {
    "input": "input_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "audio_input": "input_audio_mtok",
    "image_input": "input_image_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_output": "output_audio_mtok",
}
#: Models of providers that do not chat, or not through the chat API.
_NOT_CHAT = re.compile(
    r"audio|babbage|computer-use|curie|davinci|deep-research|embed|guard|image|instruct$|live|moderation|ocr|realtime"
    r"|rerank|search|speech|transcribe|translate|tts|whisper|^ada$|^ft:|:|-ft-"
)
_SMALLEST = Decimal("0.000001")

Row = dict[str, str]


class ProviderModel(msgspec.Struct, frozen=True):
    """Model of a provider: its prices by key of the catalog, and the same for tiers by prompt length."""

    name: str
    #: Tokens of prompt and response together; None if the list does not say.
    context: int | None
    prices: Row
    tiers: dict[int, Row] = {}

    def times(self, markup: Decimal) -> ProviderModel:
        """Return the model with all prices multiplied, rounded up to six decimals."""
        tiers = {above: _times(row, markup) for above, row in self.tiers.items()}
        return ProviderModel(self.name, self.context, _times(self.prices, markup), tiers)


def chat_models(provider: str, only: str = "*", now: datetime | None = None) -> list[ProviderModel]:
    """Return the chat models of a provider with names that match a pattern, and their current prices.

    Models that the provider has withdrawn and models without a price are left out. Raise InvalidRequest if the provider
    is not known or the package is not installed.
    """
    known = _providers()
    if provider not in ENGINES or provider not in known:
        raise InvalidRequest(f"there is no provider {provider!r}; choose from {', '.join(sorted(ENGINES))}")
    models = (
        _read(model, now or datetime.fromtimestamp(CLOCK.now_ms() / 1000, UTC))
        for model in known[provider].models
        if fnmatchcase(model.id, only) and not model.deprecated and not _NOT_CHAT.search(model.id)
    )
    return [model for model in models if model is not None]


def _providers() -> dict[str, Any]:
    try:
        from genai_prices.data import providers
    except ImportError as error:
        remedy = 'install it with: pip install "minitoolai[prices]"'
        raise InvalidRequest(f"the list of prices is not installed ({error.name} is missing); {remedy}") from None
    return {provider.id: provider for provider in providers}


def _read(model: Any, now: datetime) -> ProviderModel | None:
    listed = model.get_prices(now)
    given = {key: price for key, name in _BUCKETS.items() if (price := getattr(listed, name, None)) is not None}
    if "input" not in given or "output" not in given:
        return None
    starts = sorted({tier.start for price in given.values() for tier in getattr(price, "tiers", ())})
    prices = {key: format_price(_at(price, 0)) for key, price in given.items()}
    # Some providers price longer prompts than the model takes without a special header.
    starts = [start for start in starts if model.context_window is None or start < model.context_window]
    tiers = {start: {key: format_price(_at(price, start)) for key, price in given.items()} for start in starts}
    return ProviderModel(model.id, model.context_window, prices, tiers)


def _at(price: Any, start: int) -> Decimal:
    """Return the price for prompts from this length on: the one of its last tier that begins there or earlier."""
    if isinstance(price, Decimal):
        return price
    begun: list[Decimal] = [tier.price for tier in price.tiers if tier.start <= start]
    return begun[-1] if begun else Decimal(price.base)


def _times(row: Row, markup: Decimal) -> Row:
    return {key: format_price(Decimal(text) * markup) for key, text in row.items()}


def format_price(price: Decimal) -> str:
    """Write a price with at least two and at most six decimals, rounded up."""
    text = f"{price.quantize(_SMALLEST, ROUND_CEILING):f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def changes(mine: Row, theirs: Row) -> Iterator[str]:
    """Yield what differs between two rows of prices, as `input 3.00 → 2.00`."""
    for key in _BUCKETS:
        old, new = mine.get(key), theirs.get(key)
        if (None if old is None else Decimal(old)) != (None if new is None else Decimal(new)):
            yield f"{key} {old or 'none'} → {new or 'none'}"
