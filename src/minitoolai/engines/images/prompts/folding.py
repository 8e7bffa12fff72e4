"""Fold text for look-ups: lower case, without diacritics, so that "Äpfel" and "apfel" compare equal."""

from __future__ import annotations

import re
import unicodedata

#: Letters that Unicode does not decompose.
_LETTERS = str.maketrans({"ı": "i", "ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "’": "'"})
_SPACES = re.compile(r"[\s_\-]+")


def fold(text: str) -> str:
    """Return a text in lower case, without diacritics, its words separated by one blank."""
    parts = unicodedata.normalize("NFKD", text.replace("İ", "i").lower()).translate(_LETTERS)
    plain = "".join(letter for letter in parts if not unicodedata.combining(letter))
    return _SPACES.sub(" ", plain).strip()
