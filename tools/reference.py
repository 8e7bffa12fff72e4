"""Write docs/reference/ from the code, so that it is always right: python -m tools.reference"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import minitoolai
from minitoolai.api.openapi import describe
from minitoolai.cli.main import build_parser
from minitoolai.core import errors
from minitoolai.core.catalog import catalog, selling, shop, tax
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.money import format_dollars
from minitoolai.http.errors import error_codes
from minitoolai.observability.metrics import METRICS
from minitoolai.settings import PREFIX, Settings

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
NOTE = "<!-- Generated from the code by python -m tools.reference; do not edit. -->\n\n"


def pages() -> dict[str, str]:
    """Return file name → text of every page."""
    return {
        "settings.md": NOTE + _settings(),
        "errors.md": NOTE + _errors(),
        "cli.md": NOTE + _cli(),
        "catalog.md": NOTE + _catalog(),
        "http.md": NOTE + _http(),
        "metrics.md": NOTE + _metrics(),
    }


def _table(*rows: tuple[object, ...]) -> str:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────


def _settings() -> str:
    rows = [("variable", "default", "meaning")]
    for name, field in Settings.__dataclass_fields__.items():
        if field.metadata:
            default = "" if field.default == "" else f"`{field.default}`"
            rows.append((f"`{PREFIX}{name.upper()}`", default, field.metadata["about"]))
    rows.append(
        (f"`{PREFIX}<ENGINE>_API_KEY`", "", "API key of an upstream engine, by the engine's name in the catalog.")
    )
    rows.append((f"`{PREFIX}<ENGINE>_BASE_URL`", "", "Base URL of an upstream engine; overrides the catalog."))
    return (
        "# Settings\n\nSettings are environment variables, read once at startup. An unknown `MINITOOLAI_*` variable "
        "is an error. Command-line options override variables. Secrets never appear in logs.\n\n" + _table(*rows)
    )


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────────────


def _metrics() -> str:
    rows = [("metric", "kind", "labels", "meaning")]
    for name, metric in METRICS.items():
        kind = metric.kind.__name__.removesuffix("MetricFamily").lower()
        rows.append((f"`{name}`", kind, ", ".join(metric.labels), metric.about))
    return (
        "# Metrics\n\nThe metrics on `/metrics`; [how to monitor](../howto/monitor.md) explains how to scrape it. "
        "With several processes, sum over them. Metrics marked (database) have the same value in each process: take "
        "the maximum. "
        "The standard `process_*` metrics (memory, CPU, open files) are included.\n\n" + _table(*rows)
    )


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────


def _errors() -> str:
    rows = [
        (
            one.status or "",
            f"`{one.code}`",
            f"`{one.kind}`" if one.kind else "",
            "yes" if one.retryable else "",
            one.about,
        )
        for one in error_codes()
    ]
    head = ("status", "code", "type", "retry", "meaning")
    return (
        '# Errors\n\nThe body has OpenAI\'s shape everywhere: `{"error": {"message", "type", "param", "code"}}`. '
        "`code` is stable, `param` names the field at fault, and the message says what to do. Where a retry helps, "
        "`Retry-After` may say when. Under `/api/texttoimage` the shape is "
        '`{"status": "error", "jobid": null, "signature": null, "message", "code"}`.\n\n'
        + _table(head, *rows)
        + "\n## Exception classes\n\nFor contributors: every class of `core/errors.py`, below the class that it "
        "extends. A class without a code gets one where it is raised, or never reaches a caller.\n\n"
        + _table(("class", "code", "meaning"), *_exceptions(Exception))
    )


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").split("\n")[0]


def _exceptions(parent: type, depth: int = 0) -> Iterator[tuple[object, ...]]:
    """Yield a row for each class of core/errors.py below `parent`, subclasses after their parents."""
    for kind in parent.__subclasses__():
        if kind.__module__ == errors.__name__:
            code = "" if kind is errors.KeyForbids else getattr(kind, "code", "")
            yield f"{'– ' * depth}`{kind.__name__}`", f"`{code}`" if code else "", _first_line(kind)
            yield from _exceptions(kind, depth + 1)


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return `key create` → its parser, for every command."""
    return dict(_leaves("", build_parser()))


def _leaves(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for word, child in group.choices.items():
            yield from _leaves(f"{name} {word}".strip(), child)


def _cli() -> str:
    text = (
        "# Command line\n\nEvery command can run beside a running server, which sees the change within a second. Exit "
        "status: 0 success, 1 refused or failed (the reason is on stderr), 2 wrong usage.\n"
    )
    for name, parser in commands().items():
        text += f"\n## `minitoolai {name}`\n\n{parser.description}\n\n"
        rows = [("argument", "meaning")]
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
                rows.append((f"`{_written(action)}`", action.help or ""))
        text += _table(*rows)
        example = (parser.epilog or "").removeprefix("example:").strip()
        text += f"\n```\n{example}\n```\n" if example else ""
    return text


def _written(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if not action.option_strings:
        return str(value)
    return action.option_strings[0] if action.nargs == 0 else f"{action.option_strings[0]} {value}"


# ── the catalog ───────────────────────────────────────────────────────────────────────────────────────────


def _keys(kind: type) -> str:
    """Return the fields of a Struct as a table: one row for each group below a `#:` comment."""
    source = inspect.getsource(kind).splitlines()
    fields = [node for node in ast.parse("\n".join(source)).body[0].body if isinstance(node, ast.AnnAssign)]  # type: ignore[attr-defined]
    groups: list[tuple[list[str], list[str], str]] = []
    for field in fields:
        above = _comment_above(source, field.lineno - 1)
        if above or not groups:
            groups.append(([], [], above))
        default = "required" if field.value is None else f"`{ast.unparse(field.value)}`"
        groups[-1][0].append(f"`{ast.unparse(field.target)}`")
        groups[-1][1].append(default)
    rows = [(", ".join(names), ", ".join(defaults), about) for names, defaults, about in groups]
    return _table(("key", "default", "meaning"), *rows)


def _comment_above(source: list[str], line: int) -> str:
    """Return the `#:` lines directly above a line, joined."""
    first = line
    while first and source[first - 1].strip().startswith("#:"):
        first -= 1
    return " ".join(text.strip().removeprefix("#:").strip() for text in source[first:line])


def _catalog() -> str:
    offered = read_catalog(Path(minitoolai.__file__).parent / "catalog.toml")
    rows: list[tuple[object, ...]] = [
        ("model", "input, $ per 1M tokens", "cached input", "output", "context", "most output", "engines")
    ]
    for model in offered.chat.values():
        shown = (model.prices.input, model.prices.cached_input, model.prices.output)
        prices = (format_dollars(price * 1000)[:-6] for price in shown)
        rows.append((f"`{model.name}`", *prices, model.context, model.max_output, ", ".join(model.engines)))
    drawn: list[tuple[object, ...]] = [("image model", "$ an image", "weights", "engines")]
    for image in offered.images.values():
        price = format_dollars(image.price).rstrip("0")
        drawn.append((f"`{image.name}`", price, f"`{image.weights}`", ", ".join(image.engines)))
    return (
        "# The catalog\n\n`catalog.toml` lists the models on offer, their prices and the engines behind them. It is "
        "validated strictly: a mistake stops the server at startup, with the line and a remedy.\n\n"
        f"## `[engines.NAME]`\n\n{_keys(catalog.EngineEntry)}\n"
        f'## `[chat."MODEL"]`\n\n{_keys(catalog.ChatEntry)}\n'
        f'## `[[chat."MODEL".tiers]]`\n\n{_keys(catalog.TierEntry)}\n'
        f'## `[engines.NAME.costs."MODEL"]`\n\n{_keys(catalog.UpstreamCost)}\n'
        f'## `[speech."MODEL"]`\n\n{_keys(catalog.SpeechEntry)}\n'
        f"## `voices`\n\n{_keys(catalog.VoiceEntry)}\n"
        f"## `image_tokens`\n\n{_keys(catalog.ImageTokens)}\n"
        f'## `[embedding."MODEL"]`\n\n{_keys(catalog.EmbeddingEntry)}\n'
        f'## `[image."MODEL"]`\n\n{_keys(catalog.ImageEntry)}\n'
        "## `[groups.NAME]`\n\nWhat the accounts of a group pay. Each price times the factor is rounded up to its"
        " smallest unit: a pico-dollar per token or request, a nano-dollar per character, second or image.\n\n"
        f"{_keys(selling.GroupEntry)}\n"
        f"## `[plans.NAME]`\n\n{_keys(selling.PlanEntry)}\n"
        f"## `[shop]`\n\n{_keys(shop.ShopEntry)}\n"
        f"## `[tax]`\n\n{_keys(tax.TaxEntry)}\n"
        f"## As shipped\n\n{_table(*rows)}\n{_table(*drawn)}"
    )


# ── the HTTP interface ────────────────────────────────────────────────────────────────────────────────────


def _http() -> str:
    rows: list[tuple[object, ...]] = [("method and path", "purpose", "API key", "errors")]
    for path, item in describe()["paths"].items():
        for method, what in item.items():
            statuses = ", ".join(status for status in what["responses"] if int(status) >= 400)
            rows.append(
                (f"`{method.upper()} {path}`", what["summary"], "no" if "security" in what else "yes", statuses)
            )
    return (
        "# HTTP\n\nEvery path works with and without a trailing slash. Send the API key in the header "
        "`Authorization: Bearer sk-…`. Fields are described at `/openapi.json`, error codes in [errors](errors.md).\n\n"
        + _table(*rows)
    )


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
