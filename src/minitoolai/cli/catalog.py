"""`minitoolai catalog`: check the catalog, import models and prices of providers, and show what a provider changed."""

from __future__ import annotations

import argparse
import difflib
import os
import tempfile
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from minitoolai.cli.common import Commands, add_command, add_group, say
from minitoolai.cli.provider_prices import ENGINES, ProviderModel, Row, changes, chat_models
from minitoolai.core.catalog.catalog import Catalog, PricesEntry
from minitoolai.core.catalog.loader import parse_catalog, read_catalog
from minitoolai.core.catalog.prices import INPUT_BUCKETS, OUTPUT_BUCKETS
from minitoolai.core.errors import InvalidRequest
from minitoolai.paths import catalog_path
from minitoolai.settings import Settings

#: Tokens of a new model: its longest response, which the list of prices does not name, and its context if unknown.
MAX_OUTPUT, CONTEXT = 32_000, 128_000


def add_catalog(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `catalog check`, `import` and `diff`."""
    group = add_group(commands, "catalog", "check, import and compare models and prices", "import openai --markup 1.2")
    about = "check the catalog, and name models that are sold for less than they cost"
    add_command(group, "check", about, check, "catalog check")
    about = "add models of providers to the catalog, with purchase prices and a markup"
    parser = add_command(
        group, "import", about, import_models, "catalog import openai anthropic --markup 1.2 --only 'gpt-5*' --write"
    )
    _add_providers(parser)
    parser.add_argument("--markup", type=_factor, default=Decimal(1), help="selling price / purchase price (1)")
    parser.add_argument("--write", action="store_true", help="write the catalog, instead of only showing the changes")
    parser.add_argument("--output", type=Path, help="file to write (the catalog in use, unless it is the bundled one)")
    about = "compare the purchase prices of the catalog with the list of prices; exit status 1 if they differ"
    _add_providers(add_command(group, "diff", about, diff, "catalog diff openai"))


def _add_providers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("providers", nargs="+", metavar="PROVIDER", help=f"one or more of {', '.join(sorted(ENGINES))}")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only models whose names match, such as 'gpt-5*'")


def _factor(text: str) -> Decimal:
    try:
        factor = Decimal(text)
    except InvalidOperation:
        factor = Decimal(0)
    if not factor.is_finite() or not 0 < factor <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a factor; write it like 1.2")
    return factor


# ── check ─────────────────────────────────────────────────────────────────────────────────────────────────


def check(settings: Settings, _: argparse.Namespace) -> int:
    """Print mistakes and losses. Status 1 if there are any."""
    path = catalog_path(settings)
    catalog = read_catalog(path)
    losses = list(find_losses(catalog))
    for group, view in catalog.views.items():
        losses += [f"group {group}: {line}" for line in find_losses(view)]
    for line in losses:
        say(line)
    count = len(catalog.models())
    compared = f"{len(losses) or 'no'} prices below cost" if catalog.upstream_costs else "no purchase prices"
    sold = "".join(
        f", {len(found)} {name}{'' if len(found) == 1 else 's'}"
        for name, found in (("group", catalog.groups), ("plan", catalog.plans))
        if found
    )
    say(f"{path.name}: {count} models, {len(catalog.engines)} engines{sold}, {compared}")
    return 1 if losses else 0


def find_losses(catalog: Catalog) -> Iterator[str]:
    """Yield a line for each price of a model that is below what one of its engines charges."""
    for (engine, name), cost in catalog.upstream_costs.items():
        model = catalog.chat.get(name) or catalog.embeddings.get(name)
        if model is None:
            continue
        for above in sorted({0, *(tier.above for prices in (model.prices, cost) for tier in prices.tiers)}):
            sold, bought = model.prices.at(above + 1), cost.at(above + 1)
            for bucket in (*INPUT_BUCKETS, *OUTPUT_BUCKETS):
                if (price := getattr(sold, bucket)) < (paid := getattr(bought, bucket)):
                    where = f" above {above} tokens" if above else ""
                    amounts = f"sold for ${_dollars(price)} per million, {engine} charges ${_dollars(paid)}"
                    yield f"{name}: {bucket}{where} is {amounts}"


def _dollars(pico: int) -> str:
    return f"{Decimal(pico) / 10**6:f}"


# ── import ────────────────────────────────────────────────────────────────────────────────────────────────


def import_models(settings: Settings, options: argparse.Namespace) -> None:
    """Print the changes to the catalog as a unified diff, and write it with --write."""
    source = catalog_path(settings)
    target: Path = options.output or source
    if options.write and options.output is None and not settings.catalog:
        raise InvalidRequest(
            "the bundled catalog is replaced by every upgrade; add --output catalog.toml, then set "
            "MINITOOLAI_CATALOG=catalog.toml"
        )
    before = source.read_text("utf-8")
    after = before
    for provider in options.providers:
        models = chat_models(provider, options.only)
        if not models:
            raise InvalidRequest(f"{provider} has no chat model with a known price that matches {options.only!r}")
        after = with_models(after, provider, models, options.markup)
    catalog = parse_catalog(after)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), source.name, target.name, lineterm="")
    for line in lines:
        say(line)
    for line in find_losses(catalog):
        say(f"# {line}")
    if options.write:
        _replace(target, after)
        say(f"# written to {target}; a running server reads it after a restart or SIGHUP")
    elif after != before:
        say("# nothing was written; add --write")


def with_models(text: str, provider: str, models: list[ProviderModel], markup: Decimal) -> str:
    """Return the text of a catalog with these models, keeping its comments and all other keys.

    A model that the catalog sells already, first from this provider, gets the new prices. Of one that it sells first
    from another engine, only the purchase price is written.
    """
    import tomlkit

    document = tomlkit.parse(text)
    engine, address = ENGINES[provider]
    engines: Any = document.setdefault("engines", tomlkit.table(is_super_table=True))
    if engine not in engines:
        entry = tomlkit.table()
        kind = "anthropic" if provider == "anthropic" else "upstream"
        entry.update({"kind": kind, "base_url": address, "needs_key": True})
        engines[engine] = entry
    costs: Any = engines[engine].setdefault("costs", tomlkit.table(is_super_table=True))
    sold: Any = document.setdefault("chat", tomlkit.table(is_super_table=True))
    for model in models:
        if model.name in costs:
            _prices_table(costs[model.name], model)
        else:
            costs[model.name] = _spaced(_prices_table(tomlkit.table(), model))
        if model.name not in sold:
            table = _prices_table(tomlkit.table(), model.times(markup))
            tiers = table.pop("tiers", None)
            context = model.context or max([CONTEXT, *(2 * above for above in model.tiers)])
            table["context"] = context
            if model.context is None:
                table["context"].comment("not in the list of prices: see the provider's documentation")
            table["max_output"] = min(context, MAX_OUTPUT)
            table["engines"] = [engine]
            if tiers is not None:
                table["tiers"] = tiers
            sold[model.name] = _spaced(table)
        elif sold[model.name]["engines"][0] == engine:
            _prices_table(sold[model.name], model.times(markup))
    return tomlkit.dumps(document)


def _prices_table(table: Any, model: ProviderModel) -> Any:
    """Write the prices of a model into a TOML table: remove those that the model has not, keep other keys."""
    import tomlkit

    for key in set(PricesEntry.__struct_fields__) - model.prices.keys():
        table.pop(key, None)
    for key, price in model.prices.items():
        if table.get(key) != price:
            table[key] = price
    tiers = [{"above": above, **row} for above, row in model.tiers.items()]
    if tiers != table.get("tiers", []):
        table.pop("tiers", None)
        if not tiers:
            return table
        array = tomlkit.aot()
        for row in tiers:
            tier = tomlkit.table()
            tier.update(row)
            array.append(_spaced(tier))
        table["tiers"] = array
    return table


def _spaced(table: Any) -> Any:
    """End a table with an empty line, unless its last value is a table that has one."""
    import tomlkit

    if "tiers" not in table:
        table.add(tomlkit.nl())
    return table


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, with the mode that it had."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.absolute().parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, mode)
    os.replace(file.name, path)


# ── diff ──────────────────────────────────────────────────────────────────────────────────────────────────


def diff(settings: Settings, options: argparse.Namespace) -> int:
    """Print a line for each purchase price that the provider has changed. Status 1 if there is one."""
    catalog = read_catalog(catalog_path(settings))
    found = 0
    for provider in options.providers:
        engine = ENGINES.get(provider, ("",))[0]
        listed = {model.name: model for model in chat_models(provider, options.only)}
        entry = catalog.engines.get(engine)
        mine = {} if entry is None else entry.costs
        for name, model in listed.items():
            if name not in mine:
                say(f"{provider} {name}: not in the catalog")
                continue
            tiers = {tier.above: _row(tier) for tier in mine[name].tiers}
            lines = list(changes(_row(mine[name]), model.prices))
            for above in sorted(tiers.keys() | model.tiers.keys()):
                lines += (f"{line} above {above}" for line in changes(tiers.get(above, {}), model.tiers.get(above, {})))
            for line in lines:
                say(f"{provider} {name}: {line}")
            found += len(lines)
        for name in mine.keys() - listed.keys() if options.only == "*" else ():
            say(f"{provider} {name}: no longer in the list of prices")
    say(f"{found or 'no'} changed prices")
    return 1 if found else 0


def _row(entry: PricesEntry) -> Row:
    keys = (*INPUT_BUCKETS, *OUTPUT_BUCKETS)
    return {key: text for key in keys if (text := getattr(entry, key)) is not None}
