"""`minitoolai models` and `minitoolai margin`: list the models with their engines, and what they earned."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from minitoolai.cli.common import CLOCK, Commands, add_command, prepare, read, say
from minitoolai.core.catalog.catalog import Catalog, ChatModel, EmbeddingModel, ImageModel, SpeechModel
from minitoolai.core.catalog.prices import APART, PICO_PER_NANO, Prices
from minitoolai.core.catalog.stand_ins import StandIns
from minitoolai.core.catalog.transcription import SECONDS_PER_MINUTE, TranscriptionModel
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import MarginRow
from minitoolai.core.money import format_dollars, short_dollars
from minitoolai.settings import Settings
from minitoolai.storage.tables.reports import margins_by_engine

if TYPE_CHECKING:
    from minitoolai.bootstrap import Services

Served = ChatModel | EmbeddingModel | ImageModel | TranscriptionModel
#: (engine, model) → None if it can serve this model, else the reason with a remedy.
WhyNot = Callable[[str, Served], str | None]
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


def image_lines(catalog: Catalog, why_not: WhyNot, stand_ins: StandIns | None = None) -> Iterator[str]:
    """Yield a line per model, then one per reason that several models share."""
    reasons = {name: _reasons(model, why_not) for name, model in catalog.images.items()}
    shared = Counter(reason for model in reasons.values() for reason in model.values())
    for name, model in catalog.images.items():
        own = "; ".join(reason for reason in reasons[name].values() if shared[reason] == 1)
        price = short_dollars(model.price).rjust(9)
        state = _state(stand_ins or StandIns(catalog), model, reasons[name])
        yield f"{name:<19} image  $ each: {price}   {state}{own and f'  ({own})'}"
        for one in model.prices:
            kind = " ".join(part for part in (one.size, one.quality) if part)
            yield f"  {kind:<24} $ each: {short_dollars(one.price).rjust(9)}"
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


def chat_state(stand_ins: StandIns, model: Served, why_not: WhyNot) -> str:
    """Return which engine serves a model now, and why not an earlier one."""
    reasons = _reasons(model, why_not)
    why = "; ".join(reasons.values())
    if len(reasons) == len(model.engines):
        return f"MISSING  {why}"
    return f"{_state(stand_ins, model, reasons)}{why and f'  ({why})'}"


def _state(stand_ins: StandIns, model: Served, reasons: dict[str, str]) -> str:
    engine = next((name for name in model.engines if name not in reasons), None)
    if engine is None:
        return "MISSING"
    free = ", for nothing" if stand_ins.is_free(engine, model.name) else ""
    return f"{'STAND-IN' if stand_ins.is_stand_in(engine, model.name) else 'ready   '} {engine}{free}"


def upstream_cost_lines(catalog: Catalog, model: ChatModel | SpeechModel | TranscriptionModel) -> Iterator[str]:
    """Yield a line per engine that has a purchase price in the catalog, with the margin."""
    prices = model.prices if isinstance(model, ChatModel) else Prices.of_nano(model.price)
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
    from minitoolai.engines.chat.llama.engine import LlamaEngine
    from minitoolai.engines.factory import find_faulty_files, make_image_engines

    prepare(settings)
    services = build_services(settings)
    catalog, stand_ins = services.reports.catalog, services.reports.stand_ins
    for offer in services.reports.offers():
        if isinstance(offer.model, ImageModel):
            # Listed below: each image model needs a file of its own.
            continue
        if isinstance(offer.model, SpeechModel):
            # Its voices are listed below.
            state = f"{'STAND-IN' if offer.stand_in else 'ready   '} {offer.engine}"
            state = state if offer.engine else f"MISSING  {offer.why_not}"
        else:
            state = chat_state(stand_ins, offer.model, partial(_why_not, services))
        say(f"{offer.model.name:<16} {_kind_and_price(offer.model)}   {state}")
        for line in upstream_cost_lines(catalog, offer.model):
            say(line)
    for engine in services.engines.values():
        if isinstance(engine, LlamaEngine) and engine.why_not_ready() is None:
            say(f"  {engine.name}: {engine.sizes().describe()}")
        if why := engine.vision_unavailable_reason():
            say(f"  {engine.name} cannot see images: {why}")
    for model in services.speech.catalog.speech.values():
        voices: dict[str, list[str]] = {}
        for voice in model.voices:
            why_not = services.speech.unavailable_reason(model, voice)
            state = f"MISSING  {voice.engine}: {why_not}" if why_not else f"ready    {voice.engine}, {voice.language}"
            voices.setdefault(state, []).append(voice.id)
        for state, names in voices.items():
            say(f"  voice {', '.join(names)}: {state}")
    engines = make_image_engines(catalog, settings, services.http)

    def why_not_image(name: str, model: Served) -> str | None:
        return stand_ins.why_refused(name, model.name) or engines[name].why_not_ready(model.name)

    faulty_files = (f"  {fault}" for fault in find_faulty_files(catalog, settings))
    for line in (*image_lines(catalog, why_not_image, stand_ins), *faulty_files):
        say(line)


def _why_not(services: Services, engine: str, model: Served) -> str | None:
    if isinstance(model, TranscriptionModel):
        return services.transcription.service.why_not(engine, model)
    return services.chats.routes.why_not(engine, model.name)


def _kind_and_price(model: ChatModel | SpeechModel | TranscriptionModel) -> str:
    if isinstance(model, TranscriptionModel):
        price = format_dollars(model.price * SECONDS_PER_MINUTE).rstrip("0")
        return f"transcription  $/minute: {price}"
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
        for bucket in APART:
            if bucket in row.buckets:
                units, sold = row.buckets[bucket]
                say(f"  {bucket:<33} {units:>9} {format_dollars(sold):>16}")
        if row.refunded:
            say(f"  {'refunded':<33} {'':>9} {'-' + format_dollars(row.refunded):>16}")
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
