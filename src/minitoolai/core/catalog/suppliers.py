"""Keep suppliers unseen: how errors call an engine towards customers, and what in an answer would tell who it is."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.stand_ins import shown_name

#: How an error calls an engine.
THE_ENGINE: Final = "the engine"
#: Parts of names and hosts that tell nothing about a supplier.
_COMMON = frozenset(
    ("api", "apis", "www", "com", "net", "org", "dev", "app", "cloud", "local", "localhost", "internal", "gateway")
    + ("proxy", "server", "host", "engine", "engines", "model", "models", "upstream", "default", "main", "remote")
    + ("backup", "first", "second", "third", "primary", "secondary", "chat", "image", "images", "speech", "test")
    + ("large", "small", "mini", "fast", "cheap", "quick", "slow", "embedded", "inference", "router", "latest")
)
_SHORTEST_WORD = 4


class EngineLabel(str):
    """How errors call an engine towards customers. For an upstream, also what must not reach them."""

    __slots__ = ("_telling", "is_upstream")

    #: In lower case.
    _telling: tuple[str, ...]
    is_upstream: bool

    @classmethod
    def of(cls, name: str, entry: EngineEntry, base_url: str = "") -> EngineLabel:
        """Return the label of an engine. `base_url` is its address, if a setting overrides that of the catalog."""
        label = cls(THE_ENGINE)
        label.is_upstream = entry.is_upstream
        words = _telling_words(name, entry, base_url or entry.base_url) if entry.is_upstream else []
        label._telling = tuple(sorted({word.lower() for word in words}))
        return label

    def betrays(self, text: str) -> bool:
        """Return True if a text names the supplier."""
        lowered = text.lower()
        for word in self._telling:  # noqa: SIM110 - a generator would cost more than the search
            if word in lowered:
                return True
        return False

    def shown_model(self, asked: str, served: str) -> str:
        """Return the name of the model that customers see: see `shown_name`. An embedded model's is its own."""
        return shown_name(asked, served) if self.is_upstream and served != asked else served

    def shown_id(self, received: str, own: str) -> str:
        """Return the upstream's ID of a response if it has the usual form and names no supplier, else `own`."""
        if not self.is_upstream or (_is_usual(received) and not self.betrays(received)):
            return received
        return own


def _is_usual(number: str) -> bool:
    """Return True for an ID as OpenAI and Anthropic write it. Others tell who made a response, like `msg_bdrk_…`."""
    if number[:9] == "chatcmpl-":
        return number.isascii() and (number[9:].isalnum() or number[9:].replace("-", "").isalnum())
    return number.startswith("msg_") and number.isascii() and number[4:].isalnum()


def _telling_words(name: str, entry: EngineEntry, base_url: str) -> list[str]:
    """Return the parts of an engine's name, of its host and of its own names of models that name the supplier."""
    host = urlsplit(base_url).hostname or ""
    parts = [*name.split("_"), *re.split(r"[.-]", host)]
    for asked, served in entry.names.items():
        # "acme/gpt-4o" and "gpt-4o-acme" for gpt-4o; what the two names share tells nothing.
        parts += (part for part in re.split(r"[/:_.-]", served) if part.lower() not in asked.lower())
    return [
        part
        for part in parts
        if len(part) >= _SHORTEST_WORD and part.lower() not in _COMMON and not part.replace(".", "").isdigit()
    ]
