"""Count tokens with OpenAI's tokenizers, which the catalog can name for an engine.

The package `bpe-openai` is optional, because it takes 75 MB of disk and 130 MB of memory. Without it, tokens are
estimated from the bytes of the text.
"""

from __future__ import annotations

import functools
import threading
from importlib import util
from typing import Any

from minitoolai.core.counting import Tokenizer


class OpenAITokenizer:
    """One of OpenAI's tokenizers. May be used from any thread. Loaded when first used, which takes about a second."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._encode: Any = None
        self._lock = threading.Lock()

    def count(self, text: str) -> int:
        """Return the number of tokens of this text, in which special tokens count as text."""
        if self._encode is None:
            self._load()
        return len(self._encode(text.encode("utf-8", "replace").decode()))

    def _load(self) -> None:
        with self._lock:
            if self._encode is None:
                from bpe_openai import get_encoding

                self._encode = get_encoding(f"{self.name}_base").encode_ordinary


def why_no_tokenizers(package: str = "bpe_openai") -> str | None:
    """Return the reason and the remedy if the tokenizers are not installed, else None."""
    if util.find_spec(package) is not None:
        return None
    return (
        "its package is not installed, so text without a reported usage is counted by its bytes; pip install bpe-openai"
    )


@functools.cache
def tokenizer_named(name: str) -> Tokenizer | None:
    """Return the only tokenizer of this name in the process, or None if its package is not installed."""
    return None if why_no_tokenizers() else OpenAITokenizer(name)
