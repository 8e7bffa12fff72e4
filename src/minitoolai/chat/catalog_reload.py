"""Replace the catalog of a running process: prices, models and upstreams change, and no stream is interrupted.

Responses in flight keep their engine and their prices. Embedded engines, voices and image engines have processes and
files behind them, so a change to those needs a restart, and is refused as a whole. The children of a supervisor are
replaced one by one instead, which applies every change.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from minitoolai.chat.service import ChatService
from minitoolai.core.catalog.catalog import Catalog, EngineEntry, ImageModel, Model, SpeechModel
from minitoolai.core.catalog.prices import INPUT_BUCKETS, OUTPUT_BUCKETS, PICO_PER_NANO, Prices
from minitoolai.core.catalog.selling import Group, Plan
from minitoolai.core.catalog.shop import Shop
from minitoolai.core.catalog.transcription import SECONDS_PER_MINUTE, TranscriptionModel
from minitoolai.core.errors import CatalogError
from minitoolai.core.money import format_dollars, format_pico
from minitoolai.engines.protocols import ChatEngine

#: Models with engines that a running process cannot change.
Fixed = ImageModel | SpeechModel | TranscriptionModel
MakeEngine = Callable[[Catalog, str], ChatEngine]


class Change(NamedTuple):
    """A property of a model or engine that a new catalog changes. None: it is new, or gone."""

    what: str
    before: str | None
    after: str | None


class CatalogReload:
    """Read the catalog again and replace the one in use, in one step of the event loop."""

    def __init__(
        self,
        read: Callable[[], Catalog],
        chats: ChatService,
        engines: dict[str, ChatEngine],
        make: MakeEngine,
        *,
        is_supervised: bool = False,
    ) -> None:
        """Prepare. `engines` is the mapping that the chat service uses; `make` creates an engine of a catalog.

        `is_supervised`: this process is the child of a supervisor (`serve --workers N`), which replaces all of them.
        """
        self._read = read
        self._chats = chats
        self._engines = engines
        self._make = make
        self.is_supervised = is_supervised

    def preview(self) -> list[Change]:
        """Return what a reload would change. Raise CatalogError or SettingsError for what makes it impossible."""
        old, new = self._chats.catalog, self._read()
        if not self.is_supervised:
            self._check_running(old, new)
        return list(changes(old, new))

    def reload(self) -> str:
        """Return a summary of what changed. Raise CatalogError or SettingsError, and change nothing, for a mistake."""
        old, new = self._chats.catalog, self._read()
        used = self._check_running(old, new)
        made = {
            name: self._make(new, name)
            for name in used
            if name not in self._engines or new.engines[name] != old.engines.get(name)
        }
        summary = summarize(old, new)
        for name in self._engines.keys() - used:
            del self._engines[name]
        self._engines.update(made)
        old.replace(new)
        self._chats.routes.on_catalog_change(made)
        return summary

    def reload_everywhere(self) -> str:
        """Reload in all processes of this server, and return a summary. Raise as `reload` does.

        The supervisor checks the file and replaces its children, this process included, once new ones serve.
        """
        if not self.is_supervised:
            return self.reload()
        summary = summarize(self._chats.catalog, self._read())
        os.kill(os.getppid(), signal.SIGHUP)
        return summary

    def _check_running(self, old: Catalog, new: Catalog) -> set[str]:
        """Return the names of the chat engines that the new catalog uses. Raise CatalogError if it needs a restart."""
        used = {name for model in [*new.chat.values(), *new.embeddings.values()] for name in model.engines}
        not_running = sorted(name for name in used - self._engines.keys() if not new.engines[name].is_upstream)
        reasons = [*why_restart(old, new), *(f"[engines.{name}] is not running" for name in not_running)]
        if reasons:
            raise CatalogError(f"{'; '.join(reasons)}: restart the server for this change")
        return used


def why_restart(old: Catalog, new: Catalog) -> Iterator[str]:
    """Yield what the new catalog changes that a running process cannot change."""
    fixed = {name for model in new.speech.values() for name in model.engines}
    fixed |= {name for model in new.images.values() for name in model.engines}
    fixed |= {name for model in new.transcription.values() for name in model.engines}
    for name, entry in new.engines.items():
        before = old.engines.get(name)
        if entry != before and (name in fixed or not entry.is_upstream or (before and not before.is_upstream)):
            yield f"[engines.{name}] {'is new' if before is None else 'has changed'}"
    sections: list[tuple[str, Mapping[str, Fixed], Mapping[str, Fixed]]] = [
        ("speech", old.speech, new.speech),
        ("image", old.images, new.images),
        ("transcription", old.transcription, new.transcription),
    ]
    for section, mine, theirs in sections:
        for name in mine.keys() ^ theirs.keys():
            yield f"[{section}.{name}] {'is new' if name in theirs else 'is gone'}"
        for name in mine.keys() & theirs.keys():
            if _without_prices(mine[name]) != _without_prices(theirs[name]):
                yield f"[{section}.{name}] has changed in more than its price"


def _without_prices(model: Fixed) -> Fixed:
    if isinstance(model, ImageModel):
        return msgspec.structs.replace(model, price=0, prices=())
    return msgspec.structs.replace(model, price=0)


# ── differences ───────────────────────────────────────────────────────────────────────────────────────────


def changes(old: Catalog, new: Catalog) -> Iterator[Change]:
    """Yield every model that is new or gone, every property of a model that changes, and every engine that does."""
    mine, theirs = old.models(), new.models()
    for name in sorted(mine.keys() | theirs.keys()):
        if name not in mine or name not in theirs:
            facts = _facts(theirs.get(name) or mine[name])
            text = ", ".join(f"{key} {value}" for key, value in facts.items() if key in ("input", "output", "price"))
            yield Change(name, text if name in mine else None, text if name in theirs else None)
        elif mine[name] != theirs[name]:
            yield from _differences(name, _facts(mine[name]), _facts(theirs[name]))
    for name in sorted(old.groups.keys() | new.groups.keys()):
        yield from _differences(f"[groups.{name}]", _group(old.groups.get(name)), _group(new.groups.get(name)))
    for name in sorted(old.plans.keys() | new.plans.keys()):
        yield from _differences(f"[plans.{name}]", _plan(old.plans.get(name)), _plan(new.plans.get(name)))
    if old.shop != new.shop:
        yield from _differences("[shop]", _shop(old.shop), _shop(new.shop))
    for name in sorted(old.engines.keys() | new.engines.keys()):
        before, after = old.engines.get(name), new.engines.get(name)
        if before != after:
            yield from _differences(f"[engines.{name}]", _entry(before), _entry(after))
    for engine, model in sorted(old.upstream_costs.keys() | new.upstream_costs.keys()):
        costs = [_price_facts(all_costs.get((engine, model))) for all_costs in (old.upstream_costs, new.upstream_costs)]
        yield from _differences(f"{model}, bought from {engine}", *costs)


def summarize(old: Catalog, new: Catalog) -> str:
    """Return how many models and engines differ, in one line."""
    mine, theirs = old.models(), new.models()
    changed = sum(mine[name] != theirs[name] for name in mine.keys() & theirs.keys())
    gone = [name for name in old.groups if name not in new.groups]
    sold = "; accounts of these groups pay the list prices now: " + ", ".join(gone) if gone else ""
    if (old.groups, old.plans) != (new.groups, new.plans):
        sold = f"; groups or plans changed{sold}"
    engines = sum(old.engines.get(name) != new.engines.get(name) for name in old.engines.keys() | new.engines.keys())
    return (
        f"{len(theirs.keys() - mine.keys())} models added, {len(mine.keys() - theirs.keys())} removed, "
        f"{changed} changed; {engines} engines changed{'; [shop] changed' if old.shop != new.shop else ''}{sold}"
    )


def _differences(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for key in [*before, *(key for key in after if key not in before)]:
        if before.get(key) != after.get(key):
            yield Change(f"{name}: {key}" if key else name, before.get(key), after.get(key))


def _facts(model: Model) -> dict[str, str]:
    """Return the properties of a model as text, its prices in dollars as in the file."""
    fields = {
        name: str(value) for name, value in msgspec.structs.asdict(model).items() if name not in ("prices", "name")
    }
    if isinstance(model, SpeechModel):
        fields["price"] = _trimmed(format_dollars(model.price * 1_000_000))
    elif isinstance(model, TranscriptionModel):
        fields["price"] = _trimmed(format_dollars(model.price * SECONDS_PER_MINUTE))
    elif isinstance(model, ImageModel):
        fields["price"] = _trimmed(format_dollars(model.price))
        for one in model.prices:
            fields[f"price {one.size} {one.quality}".rstrip()] = _trimmed(format_dollars(one.price))
    else:
        return _price_facts(model.prices) | fields
    return fields


def _price_facts(prices: Prices | None) -> dict[str, str]:
    if prices is None:
        return {}
    facts = {
        name: _trimmed(format_dollars(getattr(prices, name) * 1_000_000 // PICO_PER_NANO))
        for name in (*INPUT_BUCKETS, *OUTPUT_BUCKETS)
        if name in ("input", "output")
        or getattr(prices, name) != (prices.input if name in INPUT_BUCKETS else prices.output)
    }
    if prices.request:
        facts["request"] = _trimmed(format_pico(prices.request))
    for tier in prices.tiers:
        facts |= {f"above {tier.above}: {name}": text for name, text in _price_facts(tier.prices).items()}
    return facts


def _trimmed(dollars: str) -> str:
    """Return an amount without trailing zeros, but with cents."""
    whole, _, fraction = dollars.partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def _shop(shop: Shop) -> dict[str, str]:
    """Return the properties of a shop as text: of its logo and its pages, a part of their hash."""
    facts = {name: str(value) for name, value in msgspec.structs.asdict(shop).items() if name not in ("logo", "pages")}
    if shop.logo is not None:
        facts["logo"] = _short_hash(shop.logo.body)
    for name, texts in shop.pages.items():
        facts |= {f"{name} ({lang})": _short_hash(text.encode()) for lang, text in texts.items()}
    return facts


def _group(group: Group | None) -> dict[str, str]:
    if group is None:
        return {}
    factors = {"factor": group.factor, **{f"factor of {model}": factor for model, factor in group.models.items()}}
    return {"": "…"} | {name: _trimmed(format_dollars(factor * 1000)) for name, factor in factors.items()}


def _plan(plan: Plan | None) -> dict[str, str]:
    if plan is None:
        return {}
    facts = {"": "…", "title": plan.title, "period": plan.period, "closed": str(plan.is_closed)}
    amounts = {"price": plan.price, "credit": plan.credit, **{f"window {k}": n for k, n in plan.windows.limits()}}
    return facts | {name: _trimmed(format_dollars(amount)) for name, amount in amounts.items()}


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _entry(entry: EngineEntry | None) -> dict[str, str]:
    if entry is None:
        return {}
    fields = {"": "…"} | {key: str(value) for key, value in msgspec.structs.asdict(entry).items()}
    # The values may be secrets.
    digest = _short_hash(fields["headers"].encode())
    return fields | {"headers": f"{', '.join(entry.headers)} ({digest})" if entry.headers else ""}
