"""An index of texts in memory: find passages by words, with SQLite's full-text search (FTS5).

It has a connection of its own and nothing to do with the database of the service.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable

import msgspec

#: What surrounds a found word in a snippet. Neither occurs in texts.
BEFORE, AFTER = "\x02", "\x03"
MOST_WORDS = 12
_WORDS = re.compile(r"\w+")
_SNIPPET_TOKENS = 28


class Passage(msgspec.Struct, frozen=True):
    """A text that can be found: where it is, its title and its words."""

    address: str
    title: str
    text: str


class Hit(msgspec.Struct, frozen=True):
    """A passage that was found. `snippet` has its words between BEFORE and AFTER."""

    address: str
    title: str
    snippet: str


class TextIndex:
    """Finds passages by words. Upper and lower case and accents make no difference; the last word may be incomplete."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        # Reports and the event loop read it from different threads, one at a time.
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(address UNINDEXED, title, text,"
            " tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')"
        )
        self._connection.executemany(
            "INSERT INTO passages VALUES (?, ?, ?)", [(one.address, one.title, one.text) for one in passages]
        )

    def search(self, text: str, limit: int) -> list[Hit]:
        """Return the best passages with all words of a text, or with any of them if none has all."""
        words = [f'"{word}"' for word in _WORDS.findall(text)[:MOST_WORDS]]
        if not words:
            return []
        words[-1] += "*"
        return self._find(" AND ".join(words), limit) or self._find(" OR ".join(words), limit)

    def _find(self, query: str, limit: int) -> list[Hit]:
        with self._lock:
            rows = self._connection.execute(
                "SELECT address, title, snippet(passages, 2, ?, ?, '…', ?) FROM passages WHERE passages MATCH ?"
                # A word in the title counts most.
                " ORDER BY bm25(passages, 0, 10, 1) LIMIT ?",
                (BEFORE, AFTER, _SNIPPET_TOKENS, query, limit),
            )
            return [Hit(*row) for row in rows]
