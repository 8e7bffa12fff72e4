"""Apply rules of the speech reader alone."""

from __future__ import annotations

from collections.abc import Iterable

from minitoolai.engines.speech.reading.patterns import Rule


def apply_rules(rules: Iterable[Rule], text: str) -> str:
    """Apply these rules in their order, and no others."""
    for pattern, words in rules:
        text = pattern.sub(words, text)
    return text
