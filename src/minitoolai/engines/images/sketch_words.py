"""What the sketch model sees of a caption: the names nearest to it of things it can draw, as one vector.

Each word has a static vector, distilled once from all-MiniLM-L6-v2 (Apache-2.0), kept as int8; a caption is
the mean of its words. The model knows the names of its own things well and other words badly, so a caption
is first said in those names: one softmax over them instead of a text transformer.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LONGEST_TOKENS = 32
# Words that say nothing about a picture; a mean over few tokens cannot afford them.
EMPTY_WORDS = ("a", "an", "the", "of", "with", "and", ",", ".", "'", "!", "?", "-", ":", ";")
STYLES = ("3d style", "flat style", "noto style", "twemoji style")
STYLE = re.compile(rf"\b({'|'.join(STYLES)})\b", re.IGNORECASE)
# Of two names whose cosine to the caption differs by 0.05, the nearer has 12 times the weight.
TEMPERATURE = 0.02


class Words:
    """The tokenizer, the table of vectors and the names: `words.npz` and `tokenizer.json` in one folder."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        kept = np.load(folder / "words.npz")
        self._vectors: NDArray[np.int8] = kept["vectors"]
        self._scales: Floats = kept["scales"].astype(np.float32)
        self._tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens.no_padding()
        self._tokens.no_truncation()
        self._empty = {self._tokens.token_to_id(word) for word in EMPTY_WORDS}
        self.nothing: Floats = kept["nothing"]
        self.names: list[str] = kept["names"].tolist()
        sums = [self._sum(name) for name in self.names]
        self._name_sums = np.stack([vector for vector, _ in sums])
        self._name_counts: Floats = np.array([count for _, count in sums], np.float32)
        self._directions = _unit(self._name_sums)

    def embed(self, text: str, seed: int | None = None) -> Floats:
        """One caption, (192,), as the network was trained to see it: names, style words as they are.

        With a seed, a caption that names no style gets one of the four.
        """
        styles = STYLE.findall(text)
        if not styles and seed is not None:
            # All four at once would be a blur; the seed decides what the prompt leaves open.
            styles = [STYLES[seed % len(STYLES)]]
        style, style_count = self._sum(" ".join(styles))
        share = self._shares(text)
        named, count = share @ self._name_sums, float(share @ self._name_counts)
        mean: Floats = (named + style) / (count + style_count)
        return mean

    def meant(self, text: str, most: int = 3) -> list[tuple[str, float]]:
        """The things that a caption is taken to mean, most likely first, with their shares."""
        share = self._shares(text)
        return [(self.names[i], float(share[i])) for i in np.argsort(-share)[:most]]

    def _shares(self, text: str) -> Floats:
        """How much each name counts in a caption, (number of names,), summing to 1."""
        vector, _ = self._sum(STYLE.sub(" ", text))
        likeness = self._directions @ _unit(vector)
        weight = np.exp((likeness - likeness.max()) / TEMPERATURE)
        share: Floats = (weight / weight.sum()).astype(np.float32)
        return share

    def _sum(self, text: str) -> tuple[Floats, int]:
        """The sum of a text's telling words (192,) and how many they are; without any, of whatever it has."""
        ids = self._tokens.encode(text, add_special_tokens=False).ids
        telling = [token for token in ids if token not in self._empty]
        chosen = (telling or ids)[:LONGEST_TOKENS]
        if not chosen:
            return np.zeros(self._vectors.shape[1], np.float32), 0
        vectors = self._vectors[chosen] * self._scales[chosen, None]
        return vectors.sum(0, dtype=np.float32), len(chosen)


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = (vectors / np.maximum(length, 1e-6)).astype(np.float32)
    return unit
