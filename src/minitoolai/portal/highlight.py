"""Code samples of the guide: read from examples/, highlighted on the server, with the address of this site.

`examples/TOPIC.TAB` runs as it is, except for `https://ai.example.com` and `sk-…`. Tests run what the page shows.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from markupsafe import Markup

FOLDER = Path(__file__).parent / "examples"
#: The address in the files, which the guide replaces by that of this site.
EXAMPLE_ORIGIN = "https://ai.example.com"
#: Tab → its title, in the order shown.
TABS = {"python": "Python", "php": "PHP", "curl": "curl", "javascript": "JavaScript", "openai": "openai SDK"}
#: Tabs of the samples for coding agents.
AGENT_TABS = {"claude": "Claude Code", "anthropic": "anthropic SDK"}

_STRING = r'"(?:\\.|[^"\\\n])*"'
_PYTHON = "import|from|with|as|for|in|if|not|while|True|break|continue|raise|print"
_KEYWORDS = {
    "python": _PYTHON,
    "openai": _PYTHON,
    "anthropic": _PYTHON,
    "claude": "export",
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
    pattern = re.compile(rf"({_STRING})|(?<![\w$.-])({_KEYWORDS[kind]})(?![\w-])")
    parts, at = [], 0
    for match in pattern.finditer(code):
        tag = "i" if match[1] else "b"
        parts += [_escape(code[at : match.start()]), f"<{tag}>", _escape(match[0]), f"</{tag}>"]
        at = match.end()
    return Markup("".join([*parts, _escape(code[at:])]))  # noqa: S704 - escaped above


def example(name: str, origin: str) -> Markup:
    """Return a highlighted sample with the address of this site."""
    return Markup(highlight(source(name), name.rpartition(".")[2]).replace(EXAMPLE_ORIGIN, _escape(origin)))  # noqa: S704


def tabs_of(topic: str) -> dict[str, str]:
    """Return the tabs that have a sample for this topic."""
    return {tab: title for tab, title in (TABS | AGENT_TABS).items() if (FOLDER / f"{topic}.{tab}").is_file()}


def _escape(text: str) -> str:
    """Escape for element text. Quotes stay: hundreds of entities would make the page larger."""
    return re.sub("[&<>]", lambda match: _ESCAPES[match[0]], text)
