"""OpenAI's tokenizers, which the catalog can name for an engine. Counted by the `tokenizers` package.

The vocabularies are part of this package, so nothing is downloaded. A tokenizer is loaded when it is first used, which
takes about a second and a hundred megabytes.
"""

from __future__ import annotations

import functools
import gzip
import threading
from base64 import b64decode
from pathlib import Path
from typing import Any, Final

#: Name in the catalog → the pattern that splits a text into words, each of which is encoded on its own.
_PATTERNS: Final = {
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "cl100k": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}


class BytePairTokenizer:
    """One of OpenAI's tokenizers. May be used from any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._encode: Any = None
        self._lock = threading.Lock()

    def load(self) -> None:
        """Read the vocabulary, unless that is done."""
        with self._lock:
            if self._encode is None:
                self._encode = _load(self.name).encode

    def count(self, text: str) -> int:
        """Return the number of tokens of this text."""
        if self._encode is None:
            self.load()
        return len(self._encode(text.encode("utf-8", "replace").decode()))


@functools.cache
def tokenizer_named(name: str) -> BytePairTokenizer:
    """Return the only tokenizer of this name in the process."""
    return BytePairTokenizer(name)


def _load(name: str) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    ranks = _read_ranks(name)
    tokenizer = Tokenizer(models.BPE(vocab=ranks, merges=_merges(ranks), ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_PATTERNS[name]), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, False, False)])
    return tokenizer


def _read_ranks(name: str) -> dict[str, int]:
    """Return token → rank, with one printable character per byte, as the `tokenizers` package writes them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    ranks = {}
    path = Path(__file__).with_name("vocabularies") / f"{name}_base.tiktoken.gz"
    for line in gzip.decompress(path.read_bytes()).splitlines():
        token, rank = line.split()
        ranks[b64decode(token).decode("latin-1").translate(characters)] = int(rank)
    return ranks


def _merges(ranks: dict[str, int]) -> list[tuple[str, str]]:
    """Return every way to make a token of two others, in order of rank.

    OpenAI's encoder merges any two tokens that together are a token, the lowest rank first.
    """
    merges: list[tuple[str, str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = [(token[:at], token[at:]) for at in range(1, len(token))]
        merges += [(left, right) for left, right in halves if left in ranks and right in ranks]
    return merges
