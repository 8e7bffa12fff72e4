"""Writes docs/reference/ from the code, so that it cannot be wrong: python -m tools.reference"""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minitoolai
from minitoolai.api.errors import TABLE
from minitoolai.api.openapi import describe
from minitoolai.cli import _parser
from minitoolai.core import catalog, errors, voices
from minitoolai.core.catalog_file import read_catalog
from minitoolai.core.money import format_dollars
from minitoolai.metrics import METRICS
from minitoolai.settings import PREFIX, Settings

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
NOTE = "<!-- Made from the code by python -m tools.reference; a test compares. -->\n\n"
#: Codes that no class of errors has by itself.
MORE_CODES = {
    "invalid_json": (400, "invalid_request_error", "The body is not one JSON object, or nested too deeply."),
    "method_not_allowed": (405, "invalid_request_error", "The path is there, the method is not."),
    "string_above_max_length": (400, "invalid_request_error", "The text is longer than this takes."),
    "link_expired": (
        410,
        "invalid_request_error",
        "The link is too old; polling its job gives a new one.",
    ),
    "picture_removed": (410, "invalid_request_error", "The picture was removed when its time in the store was over."),
    "invalid_image": (400, "invalid_request_error", "Not a jpg, png, webp or gif, or a broken one."),
    "image_too_large": (400, "invalid_request_error", "More pixels than are taken in."),
    "cancelled": (None, "", "In a job: it was cancelled before its end; nothing was charged."),
    "nothing_to_speak": (400, "invalid_request_error", "The text to speak has no letter and no digit."),
    "markup_not_supported": (400, "invalid_request_error", "The text to speak is markup, and voices read plain text."),
    "voice_not_found": (400, "invalid_request_error", "No such voice on offer; the message lists the nearest names."),
    "language_not_supported": (400, "invalid_request_error", "No voice speaks this language; the message lists them."),
    "email_taken": (None, "", "On the command line: the address has an account already."),
    "expired": (None, "", "In a job: nobody was there to draw it for a day; nothing was charged."),
    "storage_error": (None, "", "In a job: the store of pictures did not take it; nothing was charged."),
    "key_expired": (401, "authentication_error", "The key was made to end, and has."),
    "model_not_allowed": (403, "permission_error", "The key is meant for other models; the message lists them."),
    "address_not_allowed": (403, "permission_error", "The key is meant for other addresses."),
    "interrupted": (
        500,
        "server_error",
        "The server died, or was paused for so long that the charge was recorded without it; "
        "what was written by the last checkpoint was charged. Send the request again.",
    ),
    "client_left": (None, "", "In a generation: the caller hung up; what was written until then was charged."),
}


def pages() -> dict[str, str]:
    """File name → text of every page."""
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
    rows.append((f"`{PREFIX}<ENGINE>_API_KEY`", "", "Key of an upstream engine, by its name in the catalog."))
    rows.append((f"`{PREFIX}<ENGINE>_BASE_URL`", "", "Address of an upstream engine, instead of the catalog's."))
    return (
        "# Settings\n\nEnvironment variables, read once at the start. An unknown `MINITOOLAI_*` variable is refused; "
        "options of a command win over variables; secrets never appear in logs.\n\n" + _table(*rows)
    )


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────────────


def _metrics() -> str:
    rows = [("metric", "kind", "labels", "meaning")]
    for name, metric in METRICS.items():
        kind = metric.kind.__name__.removesuffix("MetricFamily").lower()
        rows.append((f"`{name}`", kind, ", ".join(metric.labels), metric.about))
    return (
        "# Metrics\n\nWhat `/metrics` says; [how to monitor](../howto/monitor.md) says where it is. Where several "
        "processes serve, sum them up; those marked (database) say the same in each: take the largest. "
        "`process_*` (memory, processor, open files) are added as usual.\n\n" + _table(*rows)
    )


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────


def _classes(kind: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _classes(child)


def _errors() -> str:
    known: dict[str, tuple[Any, ...]] = {}
    for kind in _classes(errors.ServiceError):
        if kind is errors.ClientLeft or kind.code in known:
            continue
        status, type_ = next((status, name) for cls, status, name in TABLE if issubclass(kind, cls))
        again = "yes" if kind.retryable else ""
        known[kind.code] = (status, f"`{kind.code}`", f"`{type_}`", again, (kind.__doc__ or "").split("\n")[0])
    for code, (status, type_, about) in MORE_CODES.items():
        known[code] = (status or "", f"`{code}`", f"`{type_}`" if type_ else "", "", about)
    rows = sorted(known.values(), key=lambda row: (row[0] or 999, row[1]))
    head = ("status", "code", "type", "try again", "meaning")
    return (
        '# Errors\n\nEverywhere the shape is OpenAI\'s: `{"error": {"message", "type", "param", "code"}}`. '
        "`code` is stable; `param` names the field at fault; the message says what to do. Where trying again helps, "
        "`Retry-After` may say when. Under `/api/texttoimage` the shape is "
        '`{"status": "error", "jobid": null, "signature": null, "message", "code"}`.\n\n' + _table(head, *rows)
    )


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────


def commands() -> dict[str, argparse.ArgumentParser]:
    """`key create` → its parser, for every command."""
    return dict(_leaves("", _parser()))


def _leaves(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for word, child in group.choices.items():
            yield from _leaves(f"{name} {word}".strip(), child)


def _cli() -> str:
    text = (
        "# Command line\n\nEvery command works beside a running server, which sees its change within a second. Exit "
        "status: 0 done, 1 refused or broken (the reason on standard error), 2 wrong usage.\n"
    )
    for name, parser in commands().items():
        text += f"\n## `minitoolai {name}`\n\n{parser.description}\n\n"
        rows = [("argument", "meaning")]
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction):
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
    """The fields of a Struct in groups, each with the `#:` comment above it."""
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
    """The `#:` lines that end above a line, joined."""
    first = line
    while first and source[first - 1].strip().startswith("#:"):
        first -= 1
    return " ".join(text.strip().removeprefix("#:").strip() for text in source[first:line])


def _catalog() -> str:
    offered = read_catalog(Path(minitoolai.__file__).parent / "catalog.toml")
    rows: list[tuple[object, ...]] = [
        ("model", "input, $ per 1M tokens", "output", "context", "most output", "engines")
    ]
    for model in offered.chat.values():
        prices = (format_dollars(nano * 1_000_000)[:-6] for nano in (model.price_input, model.price_output))
        rows.append((f"`{model.name}`", *prices, model.context, model.max_output, ", ".join(model.engines)))
    drawn: list[tuple[object, ...]] = [("image model", "$ an image", "weights", "engines")]
    for image in offered.images.values():
        price = format_dollars(image.price).rstrip("0")
        drawn.append((f"`{image.name}`", price, f"`{image.weights}`", ", ".join(image.engines)))
    return (
        "# The catalog\n\n`catalog.toml` says what is offered, at which price, and who answers. It is read strictly: a "
        "mistake is refused at the start with its line and a remedy.\n\n"
        f"## `[engines.NAME]`\n\n{_keys(catalog.EngineEntry)}\n"
        f'## `[chat."MODEL"]`\n\n{_keys(catalog.ChatEntry)}\n'
        f'## `[speech."MODEL"]`\n\n{_keys(voices.SpeechEntry)}\n'
        f"## `voices`\n\n{_keys(voices.VoiceEntry)}\n"
        f"## `image_tokens`\n\n{_keys(catalog.ImageTokens)}\n"
        f'## `[embedding."MODEL"]`\n\n{_keys(catalog.EmbeddingEntry)}\n'
        f'## `[image."MODEL"]`\n\n{_keys(catalog.ImageEntry)}\n'
        f"## As shipped\n\n{_table(*rows)}\n{_table(*drawn)}"
    )


# ── the HTTP interface ────────────────────────────────────────────────────────────────────────────────────


def _http() -> str:
    rows: list[tuple[object, ...]] = [("method and path", "what it is for", "key", "errors")]
    for path, item in describe()["paths"].items():
        for method, what in item.items():
            statuses = ", ".join(status for status in what["responses"] if int(status) >= 400)
            rows.append(
                (f"`{method.upper()} {path}`", what["summary"], "no" if "security" in what else "yes", statuses)
            )
    return (
        "# HTTP\n\nEvery path answers with and without its last slash. A key goes into the header "
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
