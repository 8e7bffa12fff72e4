"""Code samples of the guide: read from examples/, highlighted on the server, with the address of this site.

`examples/TOPIC.TAB` runs as it is, except for `https://ai.example.com` and `sk-…`. Tests run what the page shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from markupsafe import Markup

from minitoolai.availability import Reports
from minitoolai.core.catalog.shop import PROGRAM, UNNAMED, Shop

FOLDER = Path(__file__).parent.parent / "examples"
#: The address in the files, which the guide replaces by that of this site.
EXAMPLE_ORIGIN = "https://ai.example.com"
#: Tab → its title, in the order shown.
TABS = {"python": "Python", "php": "PHP", "curl": "curl", "javascript": "JavaScript", "openai": "openai SDK"}
#: Tabs of the samples for coding agents.
AGENT_TABS = {
    "claude": "Claude Code",
    "codex": "Codex",
    "cursor": "Cursor",
    "cline": "Cline",
    "continue": "Continue",
    "aider": "aider",
    "opencode": "opencode",
    "openwebui": "Open WebUI",
    "librechat": "LibreChat",
    "anthropic": "anthropic SDK",
}
#: The models that the samples for agents name: for the work itself, and for small tasks in the background.
AGENT_MODEL, SMALL_MODEL = "gpt-4.1", "gpt-4.1-mini"
#: The models of the samples by kind.
SAMPLE_MODELS = {
    "chat": "gpt-4o-mini",
    "embeddings": "text-embedding-3-small",
    "image": "dreamshaper",
    "speech": "tts-1",
    "transcription": "whisper-1",
}
#: The voice of the sample for speech.
SAMPLE_VOICE = "heart"

#: The model that the samples of a chat name.
QUICK_MODEL = "gpt-4o-mini"

_STRING = r'"(?:\\.|[^"\\\n])*"'
#: Names of settings: `model = …`, `model: …`.
_TOML_KEY = r"\w+(?= = )"
_YAML_KEY = r"\w+(?=:(?:\s|$))"
_PYTHON = "import|from|with|as|for|in|if|not|while|True|break|continue|raise|print"
_KEYWORDS = {
    "python": _PYTHON,
    "openai": _PYTHON,
    "anthropic": _PYTHON,
    "claude": "export",
    "aider": "export",
    "codex": _TOML_KEY,
    "cursor": r"\w[\w ]+(?=: )",
    "cline": r"\w[\w ]+(?=: )",
    "continue": _YAML_KEY,
    "librechat": _YAML_KEY,
    "opencode": "true|false|null",
    "openwebui": "docker",
    "php": r"<\?php|function|use|foreach|as|if|continue|return|exit|echo|do|while|isset|true",
    "javascript": "import|from|const|let|for|of|await|async|function|return|if|throw|new|continue|do|while",
    "curl": "curl",
    "json": "true|false|null",
    "txt": "data|null",
}
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


@cache
def source(name: str) -> str:
    """Return the text of a file, by a name like `chat.python`."""
    return (FOLDER / name).read_text("utf-8").rstrip("\n")


@cache
def highlight(code: str, kind: str) -> Markup:
    """Mark keywords with `<b>` and strings with `<i>`: the shortest tags, because page sizes are tested."""
    # In a curl command, the text in '…' is JSON and is highlighted as such.
    pattern = re.compile(rf"({_STRING})|(?<![\w$.-])({_KEYWORDS[kind]})(?![\w-])", re.MULTILINE)
    parts, at = [], 0
    for match in pattern.finditer(code):
        tag = "i" if match[1] else "b"
        parts += [_escape(code[at : match.start()]), f"<{tag}>", _escape(match[0]), f"</{tag}>"]
        at = match.end()
    return Markup("".join([*parts, _escape(code[at:])]))  # noqa: S704 - escaped above


def example(name: str, origin: str, models: Mapping[str, str] = MappingProxyType({}), shop: Shop = UNNAMED) -> Markup:
    """Return a highlighted sample with the address of this site, and with its models in place of those in the file."""
    code = _rebrand(_rename(highlight(source(name), name.rpartition(".")[2]), models), shop)
    return Markup(code.replace(EXAMPLE_ORIGIN, _escape(origin)))  # noqa: S704 - escaped above


def plain_example(
    name: str, origin: str, models: Mapping[str, str] = MappingProxyType({}), shop: Shop = UNNAMED
) -> str:
    """Return a sample as it is copied."""
    return _rebrand(_rename(source(name), models), shop).replace(EXAMPLE_ORIGIN, origin)


def agent_models(reports: Reports) -> dict[str, str]:
    """Return which models replace those of the samples for agents.

    A model stays if an upstream serves it. Else the one with the largest context of those that an upstream serves does
    the work, because the first prompt of an agent has about 20,000 tokens. Without an upstream, any model that answers
    counts.
    """
    engines, chat = reports.catalog.engines, reports.catalog.chat
    ready = {name: by for name, model in chat.items() if (by := reports.offer(model).engine)}
    served = {name for name, by in ready.items() if engines[by].is_upstream} or set(ready) or set(chat)
    models = [model for name, model in chat.items() if name in served]
    if not models:
        return {}
    names = {model.name for model in models}
    work = AGENT_MODEL if AGENT_MODEL in names else max(models, key=lambda model: model.context).name
    return {AGENT_MODEL: work, SMALL_MODEL: SMALL_MODEL if SMALL_MODEL in names else work}


def tabs_of(topic: str) -> dict[str, str]:
    """Return the tabs that have a sample for this topic."""
    return {tab: title for tab, title in (TABS | AGENT_TABS).items() if (FOLDER / f"{topic}.{tab}").is_file()}


def _rename(code: str, models: Mapping[str, str]) -> str:
    """Replace the names of models. One pass, because one name begins with the other."""
    if not models:
        return code
    names = "|".join(re.escape(name) for name in sorted(models, key=len, reverse=True))
    return re.sub(names, lambda match: _escape(models[match[0]]), code)


def _rebrand(code: str, shop: Shop) -> str:
    """Put the shop's name, in its three forms, in place of the program's."""
    if not shop.is_own:
        return code
    plain = re.sub(r"[^\w .-]", "", shop.name) or shop.slug
    code = code.replace("MINITOOL_API_KEY", shop.key_variable).replace(PROGRAM, plain)
    return code.replace(PROGRAM.lower(), shop.slug)


def _escape(text: str) -> str:
    """Escape for element text. Quotes stay: hundreds of entities would make the page larger."""
    return re.sub("[&<>]", lambda match: _ESCAPES[match[0]], text)
