"""Lines of `minitoolai models`: who answers and draws now, what is missing for whom, what upstreams charge us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from minitoolai.core.catalog import Catalog, ChatModel, ImageModel
from minitoolai.core.money import format_dollars
from minitoolai.core.voices import SpeechModel

if TYPE_CHECKING:
    # `margin` prints some of these lines, and has no use for what else a report needs.
    from minitoolai.services.reports import Offer

#: (engine, model) → None where it can draw this model, else a sentence with the remedy.
WhyNot = Callable[[str, ImageModel], str | None]
#: Embedded: under a listed name they answer until there is something better, and their answers say so.
STAND_INS = ("sketch", "llama")


def image_lines(catalog: Catalog, why_not: WhyNot) -> Iterator[str]:
    """A line for each model, then one for each reason that several models share."""
    reasons = {name: _reasons(model, why_not) for name, model in catalog.images.items()}
    shared = Counter(reason for model in reasons.values() for reason in model.values())
    for name, model in catalog.images.items():
        own = "; ".join(reason for reason in reasons[name].values() if shared[reason] == 1)
        price = format_dollars(model.price).rstrip("0").rjust(9)
        yield f"{name:<19} image  $ each: {price}   {_drawn_by(catalog, model, reasons[name])}{own and f'  ({own})'}"
    for reason, models in shared.items():
        if models > 1:
            yield f"  of {models} image models: {reason}"


def _reasons(model: ImageModel, why_not: WhyNot) -> dict[str, str]:
    """Why those before the first that is ready are passed over, by engine; of all where none is ready."""
    reasons: dict[str, str] = {}
    for engine in model.engines:
        reason = why_not(engine, model)
        if reason is None:
            break
        reasons[engine] = f"{engine}: {reason}"
    return reasons


def _drawn_by(catalog: Catalog, model: ImageModel, reasons: dict[str, str]) -> str:
    return state(catalog, next((name for name in model.engines if name not in reasons), None), reasons)


def chat_state(catalog: Catalog, offer: Offer, why_not: Callable[[str], str | None]) -> str:
    """By whom a model is answered now, and why by nobody better; `why_not` of an engine, None where it is ready."""
    if offer.engine is None:
        return f"MISSING  {offer.why_not}"
    better = offer.model.engines[: offer.model.engines.index(offer.engine)]
    reasons = {name: f"{name}: {why_not(name)}" for name in better}
    return state(catalog, offer.engine, reasons) + (f"  ({'; '.join(reasons.values())})" if reasons else "")


def state(catalog: Catalog, engine: str | None, reasons: Collection[str]) -> str:
    """In a word and a name; `reasons` why those before it are passed over."""
    if engine is None:
        return "MISSING"
    return f"{'STAND-IN' if reasons and catalog.engines[engine].kind in STAND_INS else 'ready   '} {engine}"


def stands_in(catalog: Catalog, offer: Offer) -> bool:
    """Whether a small model of ours answers for something better, which is missing."""
    engine = offer.engine
    return engine is not None and catalog.engines[engine].kind in STAND_INS and engine != offer.model.engines[0]


def purchase_lines(catalog: Catalog, model: ChatModel | SpeechModel) -> Iterator[str]:
    """A line for each engine whose price of purchase the catalog knows, with what is left of ours."""
    prices = (model.price, 0) if isinstance(model, SpeechModel) else (model.price_input, model.price_output)
    for engine in model.engines:
        bought = catalog.purchases.get((engine, model.name))
        if bought is not None:
            costs = "  ".join(format_dollars(nano * 1_000_000)[:-6].rjust(9) for nano in bought)
            margins = ", ".join(percent(sold - cost, sold) for sold, cost in zip(prices, bought, strict=True) if sold)
            yield f"  {engine} charges{costs.rjust(30)}   margin {margins}"


def percent(part: int, whole: int) -> str:
    """`25 %`; of nothing, a dash. Money stays whole: the rounding is of what is shown."""
    return f"{round(100 * part / whole)} %" if whole else "-"
