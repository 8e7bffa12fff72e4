"""Prices of a group.

A group has a factor, and factors for single models. Each price of a model times the factor, rounded up to the smallest
unit that prices of its kind have (a pico-dollar per token, a nano-dollar per character, second or image), is a price
of the group. So a group is a price list of its own: what its customers see is what they are charged, exactly.
"""

from __future__ import annotations

import msgspec

from minitoolai.core.catalog.catalog import Catalog, Model
from minitoolai.core.catalog.prices import INPUT_BUCKETS, OUTPUT_BUCKETS, Prices, Tier
from minitoolai.core.catalog.selling import ONE, Group


def scaled(price: int, factor: int) -> int:
    """Return a price times a factor in millionths, rounded up to the unit of the price."""
    return -(-price * factor // ONE)


def scale_prices(prices: Prices, factor: int) -> Prices:
    """Return the prices of all buckets and tiers times a factor."""
    names = (*INPUT_BUCKETS, *OUTPUT_BUCKETS, "request")
    return Prices.of(
        **{name: scaled(getattr(prices, name), factor) for name in names},
        tiers=tuple(Tier(tier.above, scale_prices(tier.prices, factor)) for tier in prices.tiers),
    )


def scale_model(model: Model, factor: int) -> Model:
    """Return a model with its prices times a factor."""
    prices = getattr(model, "prices", None)
    if isinstance(prices, Prices):
        return msgspec.structs.replace(model, prices=scale_prices(prices, factor))
    changes: dict[str, object] = {"price": scaled(getattr(model, "price", 0), factor)}
    if prices:
        changes["prices"] = tuple(msgspec.structs.replace(one, price=scaled(one.price, factor)) for one in prices)
    return msgspec.structs.replace(model, **changes)


def catalog_of(catalog: Catalog, group: Group) -> Catalog:
    """Return a catalog with the prices of a group."""
    kinds = ("chat", "speech", "images", "embeddings", "transcription")
    priced = {
        kind: {name: scale_model(model, group.factor_of(name)) for name, model in getattr(catalog, kind).items()}
        for kind in kinds
    }
    return msgspec.structs.replace(catalog, **priced, groups={}, views={})
