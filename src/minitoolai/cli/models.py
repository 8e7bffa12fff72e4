"""`minitoolai models` and `minitoolai margin`: list the models with their engines, and what they earned."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from minitoolai.cli.common import CLOCK, Commands, add_command, prepare, read, say
from minitoolai.core.catalog import Catalog, ChatModel, EmbeddingModel, ImageModel, Model, SpeechModel
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import MarginRow
from minitoolai.core.money import format_dollars
from minitoolai.core.prices import PICO_PER_NANO, Prices
from minitoolai.settings import Settings
from minitoolai.storage.reports import margins_by_engine

if TYPE_CHECKING:
    from minitoolai.bootstrap import Services

Served = ChatModel | EmbeddingModel | ImageModel
#: (engine, model) → None if it can serve this model, else the reason with a remedy.
WhyNot = Callable[[str, Served], str | None]
#: Kinds of embedded engines. They serve a listed model until a better engine is configured, and their responses say so.
STAND_INS = ("sketch", "llama")
MAX_DAYS = 36_500


def add_models(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `models`."""
    about = "list the models, the engine that serves each, and what is missing for the others"
    add_command(commands, "models", about, models, "models")


def add_margin(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `margin`."""
    about = "show sales and upstream costs by model and engine"
    parser = add_command(commands, "margin", about, margin, "margin --days 7")
    parser.add_argument("--days", type=int, default=30, help="number of days to look back (30)")


def image_lines(catalog: Catalog, why_not: WhyNot) -> Iterator[str]:
    """Yield a line per model, then one per reason that several models share."""
    reasons = {name: _reasons(model, why_not) for name, model in catalog.images.items()}
    shared = Counter(reason for model in reasons.values() for reason in model.values())
    for name, model in catalog.images.items():
        own = "; ".join(reason for reason in reasons[name].values() if shared[reason] == 1)
        price = format_dollars(model.price).rstrip("0").rjust(9)
        yield f"{name:<19} image  $ each: {price}   {_state(catalog, model, reasons[name])}{own and f'  ({own})'}"
    for reason, models in shared.items():
        if models > 1:
            yield f"  of {models} image models: {reason}"


def _reasons(model: Served, why_not: WhyNot) -> dict[str, str]:
    """Return the reason for each engine before the first ready one; for all engines if none is ready."""
    reasons: dict[str, str] = {}
    for engine in model.engines:
        reason = why_not(engine, model)
        if reason is None:
            break
        reasons[engine] = f"{engine}: {reason}"
    return reasons


def chat_state(catalog: Catalog, model: Served, why_not: WhyNot) -> str:
    """Return which engine serves a model now, and why not an earlier one."""
    reasons = _reasons(model, why_not)
    why = "; ".join(reasons.values())
    if len(reasons) == len(model.engines):
        return f"MISSING  {why}"
    return f"{_state(catalog, model, reasons)}{why and f'  ({why})'}"


def _state(catalog: Catalog, model: Served, reasons: dict[str, str]) -> str:
    engine = next((name for name in model.engines if name not in reasons), None)
    if engine is None:
        return "MISSING"
    return f"{'STAND-IN' if stands_in(catalog, model, engine) else 'ready   '} {engine}"


def stands_in(catalog: Catalog, model: Model, engine: str | None) -> bool:
    """Return True if an embedded model serves this one in place of a better engine."""
    return engine is not None and catalog.engines[engine].kind in STAND_INS and engine != model.engines[0]


def upstream_cost_lines(catalog: Catalog, model: ChatModel | SpeechModel) -> Iterator[str]:
    """Yield a line per engine that has a purchase price in the catalog, with the margin."""
    prices = Prices.of_nano(model.price) if isinstance(model, SpeechModel) else model.prices
    sold = _shown_prices(prices)
    for engine in model.engines:
        upstream_cost = catalog.upstream_costs.get((engine, model.name))
        if upstream_cost is not None:
            bought = {bucket: getattr(upstream_cost, bucket) for bucket in sold}
            costs = "  ".join(_dollars_per_million(price) for price in bought.values())
            margins = ", ".join(percent(price - bought[bucket], price) for bucket, price in sold.items() if price)
            yield f"  {engine} charges{costs.rjust(30)}   margin {margins}"


def _shown_prices(prices: Prices) -> dict[str, int]:
    """Return the prices of input and output, and that of cached input if it is another."""
    shown = {"input": prices.input, "output": prices.output}
    if prices.cached_input != prices.input:
        shown["cached_input"] = prices.cached_input
    return shown


def percent(part: int, whole: int) -> str:
    """Return a share as `25 %`, or a dash if `whole` is zero. Only the display is rounded."""
    return f"{round(100 * part / whole)} %" if whole else "-"


def models(settings: Settings, _: argparse.Namespace) -> None:
    """Print every model and voice with its price, engine and state."""
    from minitoolai.engines.factory import make_image_engines

    prepare(settings)
    services = build_services(settings)
    catalog = services.reports.catalog
    for offer in services.reports.offers():
        if isinstance(offer.model, ImageModel):
            # Listed below: each image model needs a file of its own.
            continue
        if isinstance(offer.model, SpeechModel):
            # Its voices are listed below.
            state = f"ready    {offer.engine}" if offer.engine else f"MISSING  {offer.why_not}"
        else:
            state = chat_state(catalog, offer.model, lambda name, _: services.engines[name].why_not_ready())
        say(f"{offer.model.name:<16} {_kind_and_price(offer.model)}   {state}")
        for line in upstream_cost_lines(catalog, offer.model):
            say(line)
    for engine in services.engines.values():
        if why := engine.vision_unavailable_reason():
            say(f"  {engine.name} cannot see images: {why}")
    for model in services.speech.catalog.speech.values():
        voices: dict[str, list[str]] = {}
        for voice in model.voices:
            why_not = services.speech.unavailable_reason(voice)
            state = f"MISSING  {voice.engine}: {why_not}" if why_not else f"ready    {voice.engine}, {voice.language}"
            voices.setdefault(state, []).append(voice.id)
        for state, names in voices.items():
            say(f"  voice {', '.join(names)}: {state}")
    engines = make_image_engines(catalog, settings, services.http)
    for line in image_lines(catalog, lambda name, model: engines[name].why_not_ready(model.name)):
        say(line)


def _kind_and_price(model: ChatModel | SpeechModel) -> str:
    if isinstance(model, SpeechModel):
        return f"speech  $/1M characters: {_dollars_per_million(model.price * PICO_PER_NANO)}"
    if isinstance(model, EmbeddingModel):
        return f"embedding  $/1M in: {_dollars_per_million(model.prices.input)}"
    shown = _shown_prices(model.prices)
    names = "in, out, cached" if "cached_input" in shown else "in, out"
    return f"chat  $/1M {names}: {'  '.join(map(_dollars_per_million, shown.values()))}"


def _dollars_per_million(price: int) -> str:
    """Return a price in pico-dollars per unit as dollars per million units, with at least three decimals."""
    whole, _, decimals = format_dollars(price * 1_000_000 // PICO_PER_NANO).partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(3, '0')}".rjust(9)


def build_services(settings: Settings) -> Services:
    """Return the services of a server, not started."""
    from minitoolai.bootstrap import build

    async def make() -> Services:
        return build(settings)

    return asyncio.run(make())


def margin(settings: Settings, options: argparse.Namespace) -> None:
    """Print a line per model and engine, then the total."""
    if not 1 <= options.days <= MAX_DAYS:
        raise InvalidRequest(f"--days must be from 1 to {MAX_DAYS}", param="days")
    rows = read(settings, lambda c: margins_by_engine(c, CLOCK.now_ms() - options.days * MS_PER_DAY))
    say(f"{'model':<20} {'engine':<14} {'requests':>9} {'sold':>16} {'bought':>16} {'margin':>16}")
    for row in rows:
        say(_line(row.model, row.engine, row))
    sums = (
        sum(getattr(row, name) for row in rows)
        for name in ("requests", "sold", "upstream_cost", "sold_with_known_cost")
    )
    say(_line("all", "", MarginRow("", "", *sums)))


def _line(model: str, engine: str, row: MarginRow) -> str:
    """Return a line. Requests without a known upstream cost count as sold, but not towards the margin."""
    upstream_cost, left = "-", "-"
    if row.sold_with_known_cost or row.upstream_cost:
        upstream_cost, earned = format_dollars(row.upstream_cost), row.sold_with_known_cost - row.upstream_cost
        left = f"{format_dollars(earned)} {percent(earned, row.sold_with_known_cost)}"
    sold = format_dollars(row.sold)
    return f"{model:<20} {engine:<14} {row.requests:>9} {sold:>16} {upstream_cost:>16} {left:>16}".rstrip()
