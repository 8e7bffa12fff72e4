"""Routing preferences of a request: fallback models (`models`) and how its engines are chosen (`provider`).

The wording is OpenRouter's. An engine can be named only by the `public_name` that the operator gave it in the catalog;
all other engines stay unnamed, and unknown names are treated like names of engines that do not serve the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import msgspec

from minitoolai.core.catalog.catalog import ChatModel, EngineEntry
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.counting import estimate_tokens
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.protocols import ChatEngine
from minitoolai.http.validation import flag, non_empty_text, shortened

Fields = dict[str, Any]

MAX_MODELS = 8
MAX_NAMES = 32
#: Output tokens by which models are compared if the request has no limit.
USUAL_OUTPUT = 1000
#: Pico-dollars per token, in a dollar per million tokens. Of a fee, pico-dollars in a dollar.
_PER_MILLION, _PER_REQUEST = 10**6, 10**12
Sort = Literal["", "price", "latency"]
#: (engine, model) → mean time to the first token in milliseconds, if it was measured.
Latency = Callable[[str, str], float | None]


class MaxPrice(msgspec.Struct, frozen=True):
    """Highest acceptable prices in pico-dollars: per input token, per output token, per request. None is no limit."""

    prompt: int | None = None
    completion: int | None = None
    request: int | None = None

    def allows(self, prices: Prices, prompt_tokens: int) -> bool:
        """Return True if no price of a prompt of at most this many tokens is higher."""
        limits = zip((self.prompt, self.completion, self.request), prices.highest(prompt_tokens), strict=True)
        return all(limit is None or price <= limit for limit, price in limits)


class Preferences(msgspec.Struct, frozen=True):
    """Validated routing preferences of one request."""

    #: Models in the order of their use.
    models: tuple[str, ...]
    order: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    sort: Sort = ""
    #: Sort the engines of each model only, and leave the models in their order.
    sorts_within_models: bool = False
    max_price: MaxPrice | None = None

    def affordable(self, request: ChatRequest, models: list[ChatModel], prompt_tokens: int) -> list[ChatModel]:
        """Return the models that `max_price` allows for a prompt of at most this many tokens, sorted by price if asked.

        Raises InvalidRequest if it allows none.
        """
        limit = self.max_price
        if limit is not None:
            allowed = [model for model in models if limit.allows(model.prices, prompt_tokens)]
            if not allowed:
                names = ", ".join(model.name for model in models)
                raise InvalidRequest(
                    f"provider.max_price is below the price of {names}; raise it, or name a cheaper model in models",
                    param="provider.max_price",
                )
            models = allowed
        if self.sort == "price" and not self.sorts_within_models:
            return sorted(models, key=lambda model: usual_cost(request, model))
        return models

    def engines(
        self, model: str, candidates: list[ChatEngine], entries: Mapping[str, EngineEntry], latency: Latency
    ) -> list[ChatEngine]:
        """Return the engines to try for a model, in order. Raise InvalidRequest if no engine is left."""

        def name_of(engine: ChatEngine) -> str:
            entry = entries.get(engine.name)
            return "" if entry is None else entry.public_name.lower()

        chosen = [engine for engine in candidates if name_of(engine) not in self.ignore]
        if self.only:
            chosen = [engine for engine in chosen if name_of(engine) in self.only]
        if not chosen and candidates:
            param = "provider.only" if self.only else "provider.ignore"
            raise InvalidRequest(f"{param} leaves no provider for {model}; name another one, or none", param=param)
        if self.sort == "latency":
            chosen.sort(key=lambda engine: _or_last(latency(engine.name, model)))
        if self.order:
            named = [engine for name in self.order for engine in chosen if name_of(engine) == name]
            others = [engine for engine in chosen if engine not in named]
            if not named and not self.allow_fallbacks and candidates:
                raise InvalidRequest(
                    f"provider.order names no provider of {model}, and provider.allow_fallbacks is false",
                    param="provider.order",
                )
            return [*named, *others] if self.allow_fallbacks else named
        return chosen if self.allow_fallbacks else chosen[:1]

    @property
    def sorts_models_by_latency(self) -> bool:
        """Return True if the model with the fastest engine comes first."""
        return self.sort == "latency" and not self.sorts_within_models and len(self.models) > 1


def usual_cost(request: ChatRequest, model: ChatModel) -> int:
    """Return what this request would cost with our estimate of its prompt, and as much output as it allows."""
    prompt = estimate_tokens(request.text_bytes)
    output = min(request.limit or USUAL_OUTPUT, model.max_output) if request.embed is None else 0
    prices = model.prices.at(prompt)
    return prompt * prices.input + request.choices * output * prices.output + prices.request


def best_latency(model: ChatModel, engines: list[ChatEngine], latency: Latency) -> float:
    """Return the shortest measured time to a first token of these engines; infinity if none was measured."""
    return min((_or_last(latency(engine.name, model.name)) for engine in engines), default=float("inf"))


def _or_last(ms: float | None) -> float:
    return float("inf") if ms is None else ms


# ── parsing ───────────────────────────────────────────────────────────────────────────────────────────────


def requested_model(fields: Fields) -> str:
    """Return the model of a request: `model`, or the first of `models` if it has no `model`."""
    if fields.get("model") is None and fields.get("models") is not None:
        return _models(fields)[0]
    return non_empty_text(fields, "model")


def take_preferences(model: str, fields: Fields) -> Preferences | None:
    """Remove `models` and `provider` from these fields and return them, validated. None if there are none."""
    if "models" not in fields and "provider" not in fields:
        return None
    models = _models(fields) if fields.get("models") is not None else []
    fields.pop("models", None)
    provider = fields.pop("provider", None)
    names = tuple(dict.fromkeys([model, *models]))
    if provider is None:
        return Preferences(names) if models else None
    if not isinstance(provider, dict):
        raise InvalidRequest('provider must be an object like {"sort": "price"}', param="provider")
    for name, value in provider.items():
        if name not in _PROVIDER_FIELDS and value is not None:
            raise InvalidRequest(
                f"provider.{name[:64]} is not supported; the supported fields are {', '.join(_PROVIDER_FIELDS)}",
                param=f"provider.{name[:64]}",
            )
    sort, within = _sort(provider.get("sort"))
    return Preferences(
        names,
        order=_names(provider, "order"),
        only=_names(provider, "only"),
        ignore=_names(provider, "ignore"),
        allow_fallbacks=flag(provider, "allow_fallbacks", default=True, inside="provider."),
        sort=sort,
        sorts_within_models=within,
        max_price=_max_price(provider.get("max_price")),
    )


_PROVIDER_FIELDS = ("order", "only", "ignore", "allow_fallbacks", "sort", "max_price")


def _models(fields: Fields) -> list[str]:
    models = fields["models"]
    if not isinstance(models, list) or not 1 <= len(models) <= MAX_MODELS:
        raise InvalidRequest(f"models must be a list of 1 to {MAX_MODELS} model names", param="models")
    for index, name in enumerate(models):
        if not isinstance(name, str) or not name:
            raise InvalidRequest(
                f"models[{index}] is {shortened(name)}; it must be a model name", param=f"models[{index}]"
            )
    return models


def _names(provider: Fields, name: str) -> tuple[str, ...]:
    names = provider.get(name)
    if names is None:
        return ()
    at = f"provider.{name}"
    if not isinstance(names, list) or not names or len(names) > MAX_NAMES:
        raise InvalidRequest(f"{at} must be a list of 1 to {MAX_NAMES} names of providers", param=at)
    for index, one in enumerate(names):
        if not isinstance(one, str) or not one:
            raise InvalidRequest(f"{at}[{index}] must be the name of a provider", param=f"{at}[{index}]")
    return tuple(dict.fromkeys(one.lower() for one in names))


def _sort(value: Any) -> tuple[Sort, bool]:
    """Return what to sort by, and whether the models keep their order."""
    at, within = "provider.sort", False
    if isinstance(value, dict):
        for name in value:
            if name not in ("by", "partition"):
                raise InvalidRequest(f"{at}.{name[:64]} is not supported", param=f"{at}.{name[:64]}")
        partition = "model" if value.get("partition") is None else value["partition"]
        if partition not in ("model", "none"):
            raise InvalidRequest(f"{at}.partition must be model or none", param=f"{at}.partition")
        value, at, within = value.get("by"), f"{at}.by", partition == "model"
    if value is None:
        return "", False
    if value == "price":
        return "price", within
    if value == "latency":
        return "latency", within
    raise InvalidRequest(f"{at} is {shortened(value)}; it must be price or latency", param=at)


def _max_price(value: Any) -> MaxPrice | None:
    at = "provider.max_price"
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidRequest(f'{at} must be an object like {{"prompt": 1, "completion": 2}}', param=at)
    for name in value:
        if name not in ("prompt", "completion", "request"):
            raise InvalidRequest(
                f"{at}.{name[:64]} is not supported; the supported fields are prompt, completion and request",
                param=f"{at}.{name[:64]}",
            )
    return MaxPrice(
        prompt=_pico(value.get("prompt"), f"{at}.prompt", _PER_MILLION),
        completion=_pico(value.get("completion"), f"{at}.completion", _PER_MILLION),
        request=_pico(value.get("request"), f"{at}.request", _PER_REQUEST),
    )


def _pico(value: Any, at: str, factor: int) -> int | None:
    """Return a price in pico-dollars, rounded down: a price that is higher by any amount is too high."""
    if value is None:
        return None
    is_number = isinstance(value, int | float | str) and not isinstance(value, bool)
    try:
        dollars = Decimal(str(value)[:40]) if is_number else Decimal("NaN")
    except InvalidOperation:
        dollars = Decimal("NaN")
    if not dollars.is_finite() or not 0 <= dollars <= 10**6:
        raise InvalidRequest(f"{at} must be a number of dollars from 0 to 1,000,000, like 0.5", param=at)
    return int(dollars * factor)
