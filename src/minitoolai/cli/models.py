"""`minitoolai models`: what is offered, by which engine, ready or why not."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

from minitoolai.bootstrap import Services, build
from minitoolai.cli.common import CLOCK, prepare, read, say
from minitoolai.core.catalog import Catalog, ChatModel, EmbeddingModel, ImageModel, Model, SpeechModel
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import MarginRow
from minitoolai.core.money import format_dollars
from minitoolai.engines.factory import make_image_engines
from minitoolai.settings import Settings
from minitoolai.storage import reports

# (merged from listing) Lines of `minitoolai models`: who answers and draws now, what is missing for whom, what upstreams charge us.

Answered = ChatModel | EmbeddingModel | ImageModel
#: (engine, model) → None where it can answer for this model, else a sentence with the remedy.
WhyNot = Callable[[str, Answered], str | None]
#: Embedded: under a listed name they answer until there is something better, and their answers say so.
STAND_INS = ("sketch", "llama")


def image_lines(catalog: Catalog, why_not: WhyNot) -> Iterator[str]:
    """A line for each model, then one for each reason that several models share."""
    reasons = {name: _reasons(model, why_not) for name, model in catalog.images.items()}
    shared = Counter(reason for model in reasons.values() for reason in model.values())
    for name, model in catalog.images.items():
        own = "; ".join(reason for reason in reasons[name].values() if shared[reason] == 1)
        price = format_dollars(model.price).rstrip("0").rjust(9)
        yield f"{name:<19} image  $ each: {price}   {_state(catalog, model, reasons[name])}{own and f'  ({own})'}"
    for reason, models in shared.items():
        if models > 1:
            yield f"  of {models} image models: {reason}"


def _reasons(model: Answered, why_not: WhyNot) -> dict[str, str]:
    """Why those before the first that is ready are passed over, by engine; of all where none is ready."""
    reasons: dict[str, str] = {}
    for engine in model.engines:
        reason = why_not(engine, model)
        if reason is None:
            break
        reasons[engine] = f"{engine}: {reason}"
    return reasons


def chat_state(catalog: Catalog, model: Answered, why_not: WhyNot) -> str:
    """By whom a model is answered now, and why by nobody better."""
    reasons = _reasons(model, why_not)
    why = "; ".join(reasons.values())
    if len(reasons) == len(model.engines):
        return f"MISSING  {why}"
    return f"{_state(catalog, model, reasons)}{why and f'  ({why})'}"


def _state(catalog: Catalog, model: Answered, reasons: dict[str, str]) -> str:
    engine = next((name for name in model.engines if name not in reasons), None)
    if engine is None:
        return "MISSING"
    return f"{'STAND-IN' if stands_in(catalog, model, engine) else 'ready   '} {engine}"


def stands_in(catalog: Catalog, model: Model, engine: str | None) -> bool:
    """Whether a small model of ours, by whom this one is answered now, takes the place of something better."""
    return engine is not None and catalog.engines[engine].kind in STAND_INS and engine != model.engines[0]


def upstream_cost_lines(catalog: Catalog, model: ChatModel | SpeechModel) -> Iterator[str]:
    """A line for each engine whose price of purchase the catalog knows, with what is left of ours."""
    prices = (model.price, 0) if isinstance(model, SpeechModel) else (model.price_input, model.price_output)
    for engine in model.engines:
        upstream_cost = catalog.upstream_costs.get((engine, model.name))
        if upstream_cost is not None:
            costs = "  ".join(format_dollars(nano * 1_000_000)[:-6].rjust(9) for nano in upstream_cost)
            margins = ", ".join(
                percent(sold - cost, sold) for sold, cost in zip(prices, upstream_cost, strict=True) if sold
            )
            yield f"  {engine} charges{costs.rjust(30)}   margin {margins}"


def percent(part: int, whole: int) -> str:
    """`25 %`; of nothing, a dash. Money stays whole: the rounding is of what is shown."""
    return f"{round(100 * part / whole)} %" if whole else "-"


def models(settings: Settings, _: argparse.Namespace) -> None:
    """models: what is offered, by which engine, ready or why not."""
    prepare(settings)
    services = built(settings)
    catalog = services.reports.catalog
    for offer in services.reports.offers():
        if isinstance(offer.model, ImageModel):
            # Below: each of them needs a file of its own.
            continue
        if isinstance(offer.model, SpeechModel):
            # Below: each of them has voices of its own.
            state = f"ready    {offer.engine}" if offer.engine else f"MISSING  {offer.why_not}"
        else:
            state = chat_state(catalog, offer.model, lambda name, _: services.engines[name].why_not_ready())
        say(f"{offer.model.name:<16} {_kind_and_price(offer.model)}   {state}")
        for line in upstream_cost_lines(catalog, offer.model):
            say(line)
    for engine in services.engines.values():
        if why := engine.vision_unavailable_reason():
            say(f"  {engine.name} sees no pictures: {why}")
    for model in services.speech.catalog.speech.values():
        voices: dict[str, list[str]] = {}
        for voice in model.voices:
            why_not = services.speech.why_not(voice)
            state = f"MISSING  {voice.engine}: {why_not}" if why_not else f"ready    {voice.engine}, {voice.language}"
            voices.setdefault(state, []).append(voice.id)
        for state, names in voices.items():
            say(f"  voice {', '.join(names)}: {state}")
    engines = make_image_engines(catalog, settings, services.http)
    for line in image_lines(catalog, lambda name, model: engines[name].why_not_ready(model.name)):
        say(line)


def _kind_and_price(model: ChatModel | SpeechModel) -> str:
    if isinstance(model, SpeechModel):
        return f"speech  $/1M characters: {_dollars_per_million(model.price)}"
    if isinstance(model, EmbeddingModel):
        return f"embedding  $/1M in: {_dollars_per_million(model.price_input)}"
    return f"chat  $/1M in, out: {_dollars_per_million(model.price_input)}  {_dollars_per_million(model.price_output)}"


def _dollars_per_million(price: int) -> str:
    return format_dollars(price * 1_000_000)[:-6].rjust(9)


def built(settings: Settings) -> Services:
    """Everything a server would hold, not started."""

    async def make() -> Services:
        return build(settings)

    return asyncio.run(make())


# (merged from margins) `minitoolai margin`: what was sold, and what the upstreams charge for it.


def margin(settings: Settings, options: argparse.Namespace) -> None:
    """margin [--days N]: a line for each model and engine, then the sum."""
    if not 1 <= options.days <= 36_500:
        raise InvalidRequest("--days must be from 1 to 36500", param="days")
    rows = read(settings, lambda c: reports.margins_by_engine(c, CLOCK.now_ms() - options.days * MS_PER_DAY))
    say(f"{'model':<20} {'engine':<14} {'requests':>9} {'sold':>16} {'bought':>16} {'margin':>16}")
    for row in rows:
        say(_line(row.model, row.engine, row))
    sums = (
        sum(getattr(row, name) for row in rows)
        for name in ("requests", "sold", "upstream_cost", "sold_with_known_cost")
    )
    say(_line("all", "", MarginRow("", "", *sums)))


def _line(model: str, engine: str, row: MarginRow) -> str:
    """Of work whose purchase price the catalog does not give, nothing is known: it counts as sold, not as margin."""
    upstream_cost, left = "-", "-"
    if row.sold_with_known_cost or row.upstream_cost:
        upstream_cost, earned = format_dollars(row.upstream_cost), row.sold_with_known_cost - row.upstream_cost
        left = f"{format_dollars(earned)} {percent(earned, row.sold_with_known_cost)}"
    return f"{model:<20} {engine:<14} {row.requests:>9} {format_dollars(row.sold):>16} {upstream_cost:>16} {left:>16}".rstrip()
