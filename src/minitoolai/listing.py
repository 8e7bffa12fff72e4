"""Lines of `minitoolai models`: who draws each picture now, what is missing for whom, what upstreams charge us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from minitoolai.core.catalog import Catalog, ChatModel, ImageModel
from minitoolai.core.money import format_dollars
from minitoolai.core.voices import SpeechModel

#: (engine, model) → None where it can draw this model, else a sentence with the remedy.
WhyNot = Callable[[str, ImageModel], str | None]


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


def _reasons(model: ImageModel, why_not: WhyNot) -> dict[str, str]:
    """Why those before the first that is ready are passed over, by engine; of all where none is ready."""
    reasons: dict[str, str] = {}
    for engine in model.engines:
        reason = why_not(engine, model)
        if reason is None:
            break
        reasons[engine] = f"{engine}: {reason}"
    return reasons


def _state(catalog: Catalog, model: ImageModel, reasons: dict[str, str]) -> str:
    engine = next((name for name in model.engines if name not in reasons), None)
    if engine is None:
        return "MISSING"
    # The embedded model draws under a listed name until there is something better, and says so in every picture.
    return f"STAND-IN {engine}" if catalog.engines[engine].kind == "sketch" and reasons else f"ready    {engine}"


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
