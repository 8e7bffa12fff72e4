"""What an upstream charges us, so that the margin of every answer is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from minitoolai.core.money import price_per_token

#: (engine, model as offered here) → nano-dollars a unit read and written.
Purchases = dict[tuple[str, str], tuple[int, int]]


class Purchase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one model costs us: dollars for a million units, as text."""

    #: dollars for a million tokens read and written, in quotes; of speech, `input` for a million characters.
    input: str
    output: str = "0"


class Sold(Protocol):
    """A model on offer."""

    @property
    def name(self) -> str: ...

    @property
    def engines(self) -> tuple[str, ...]:
        """Who answers for it, in order."""


class Seller(Protocol):
    """The part of an engine's entry that speaks of money."""

    @property
    def cost_input(self) -> str: ...

    @property
    def cost_output(self) -> str: ...

    @property
    def costs(self) -> dict[str, Purchase]: ...


def check_purchases(engine: Seller) -> tuple[str, str] | None:
    """(key, remedy) of the first price that is none, else None."""
    prices = [("cost_input", engine.cost_input or "0"), ("cost_output", engine.cost_output or "0")]
    prices += [("costs", text) for price in engine.costs.values() for text in (price.input, price.output)]
    for key, text in prices:
        if _is_wrong(text):
            return key, f'{key} has a price that is none: "0.15" means dollars a million units, at most three decimals'
    return None


def _is_wrong(text: str) -> bool:
    try:
        price_per_token(text)
    except (ValueError, ArithmeticError):
        return True
    return False


def purchases(engines: Mapping[str, Seller], models: Iterable[Sold]) -> Purchases:
    """What each engine charges for each model that names it; a pair without a price is left out."""
    found: Purchases = {}
    for model in models:
        for name in model.engines:
            price = _price_of(engines[name], model.name)
            if price is not None:
                found[name, model.name] = price
    return found


def _price_of(engine: Seller, model: str) -> tuple[int, int] | None:
    own = engine.costs.get(model)
    if own is not None:
        return price_per_token(own.input), price_per_token(own.output)
    if engine.cost_input or engine.cost_output:
        return price_per_token(engine.cost_input or "0"), price_per_token(engine.cost_output or "0")
    return None
