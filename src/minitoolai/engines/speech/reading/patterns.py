"""What the rules of reading share: the words of spoken_text.toml and the patterns of numbers."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Match = re.Match[str]
#: A pattern, and what a match of it is replaced by.
Rule = tuple[re.Pattern[str], Callable[[Match], str]]

DATA: dict[str, Any] = tomllib.loads(Path(__file__).with_name("spoken_text.toml").read_text(encoding="utf-8"))


def any_of(words: Iterable[str]) -> str:
    """Return a pattern that matches one of the words, the longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def magnitude(text: str | None) -> str:
    """Return the word of a magnitude such as "k" or "bn", after a blank; nothing for None."""
    return f" {DATA['magnitudes'][text]}" if text else ""


#: A number, its thousands separated by commas.
NUM = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
SIGN = r"(?<![\w.])[-−+]?"
MAGNITUDE = rf"(?:\s?({any_of(DATA['magnitudes'])})\b)?"
TO = r"\s?[-–—]\s?"
