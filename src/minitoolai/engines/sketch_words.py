"""What the sketch model sees of a caption: the mean of its tokens' static vectors. No network is asked.

The vectors were distilled once from all-MiniLM-L6-v2 (Apache-2.0) and are kept as int8, a scale per token.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LONGEST_TOKENS = 32
UNKNOWN = 100  # [UNK] of BERT's vocabulary
# Words that say nothing about a picture; a mean over few tokens cannot afford them.
EMPTY_WORDS = ("a", "an", "the", "of", "with", "and", ",", ".", "'", "!", "?", "-", ":", ";")


class Words:
    """The tokenizer and the table of vectors, from `words.npz` and `tokenizer.json` in one folder."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        kept = np.load(folder / "words.npz")
        self._vectors: NDArray[np.int8] = kept["vectors"]
        self._scales: NDArray[np.float32] = kept["scales"].astype(np.float32)
        self._tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens.no_padding()
        self._tokens.no_truncation()
        self._empty = {self._tokens.token_to_id(word) for word in EMPTY_WORDS}

    def embed(self, text: str) -> NDArray[np.float32]:
        """One caption, (192,); a text without any telling word is the mean of whatever it has."""
        ids = self._tokens.encode(text, add_special_tokens=False).ids
        telling = [token for token in ids if token not in self._empty]
        chosen = (telling or ids or [UNKNOWN])[:LONGEST_TOKENS]
        vectors = self._vectors[chosen] * self._scales[chosen, None]
        mean: NDArray[np.float32] = vectors.mean(0, dtype=np.float32)
        return mean
