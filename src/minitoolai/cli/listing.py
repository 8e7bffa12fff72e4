"""Lines of `minitoolai models`: who answers and draws now, what is missing for whom, what upstreams charge us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from minitoolai.core.catalog import Catalog, ChatModel, EmbeddingModel, ImageModel, Model
from minitoolai.core.money import format_dollars
from minitoolai.core.voices import SpeechModel

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
