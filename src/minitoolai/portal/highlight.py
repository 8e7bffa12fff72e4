"""The programs of the guide: read from examples/, coloured on the server, with the reader's address in them.

`examples/TOPIC.TAB` is a program as it runs, but for `https://ai.example.com` and `sk-…`. Tests run what the page
shows.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from markupsafe import Markup

FOLDER = Path(__file__).parent / "examples"
#: The address that stands in the files, and is the reader's in the guide.
PLACE = "https://ai.example.com"
#: Tab → what it is called; in the order in which they are shown.
TABS = {"python": "Python", "php": "PHP", "curl": "curl", "javascript": "JavaScript", "openai": "openai SDK"}

_STRING = r'"(?:\\.|[^"\\\n])*"'
_PYTHON = "import|from|with|as|for|in|if|not|while|True|break|continue|raise|print"
_WORDS = {
    "python": _PYTHON,
    "openai": _PYTHON,
    "php": r"<\?php|function|use|foreach|as|if|continue|return|exit|echo|do|while|isset|true",
    "javascript": "import|from|const|let|for|of|await|async|function|return|if|throw|new|continue|do|while",
    "curl": "curl",
    "json": "true|false|null",
    "txt": "data|null",
}
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


@cache
def source(name: str) -> str:
    """The file as it is, by names like `chat.python`."""
    return (FOLDER / name).read_text("utf-8").rstrip("\n")


@cache
def colour(code: str, kind: str) -> Markup:
    """Words in `<b>`, strings in `<i>`: the shortest marks there are, for pages are weighed. Nothing else is marked."""
    # In a command line, what stands in '…' is JSON, coloured as such.
    pattern = re.compile(rf"({_STRING})|(?<![\w$.-])({_WORDS[kind]})(?![\w-])")
    parts, at = [], 0
    for match in pattern.finditer(code):
        tag = "i" if match[1] else "b"
        parts += [_escape(code[at : match.start()]), f"<{tag}>", _escape(match[0]), f"</{tag}>"]
        at = match.end()
    return Markup("".join([*parts, _escape(code[at:])]))  # noqa: S704 - escaped above


def example(name: str, origin: str) -> Markup:
    """A program coloured, with the reader's address."""
    return Markup(colour(source(name), name.rpartition(".")[2]).replace(PLACE, _escape(origin)))  # noqa: S704


def tabs_of(topic: str) -> dict[str, str]:
    """The tabs that a topic has a program for."""
    return {tab: title for tab, title in TABS.items() if (FOLDER / f"{topic}.{tab}").is_file()}


def _escape(text: str) -> str:
    """What element text needs; quotes stay, for there are hundreds of them."""
    return re.sub("[&<>]", lambda match: _ESCAPES[match[0]], text)
