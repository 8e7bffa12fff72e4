"""Show names that people chose. One with U+202E would turn the words around it, one with U+200B alone is invisible."""

from __future__ import annotations

import unicodedata

from markupsafe import Markup, escape

#: FIRST STRONG ISOLATE and POP DIRECTIONAL ISOLATE: <bdi> for plain text.
_BEGIN, _END = "\u2068", "\u2069"
_INVISIBLE = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"))


def isolate(name: str) -> Markup:
    """Return a name as HTML whose direction does not affect its surroundings."""
    return Markup("<bdi>{}</bdi>").format(escape(name))


def isolate_text(name: str) -> str:
    """Return the same as plain text, for attributes, titles and messages. Most names need nothing."""
    return name if name.isascii() else f"{_BEGIN}{name}{_END}"


def is_visible(name: str) -> bool:
    """Return True if a name has at least one visible character."""
    return any(unicodedata.category(character) not in _INVISIBLE for character in name)
