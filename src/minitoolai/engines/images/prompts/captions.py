"""From a caption to the sketch model's input: one vector, made of the names that the model knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MAX_TOKENS = 32
# Words without visual meaning; they would dominate the mean of a few tokens.
STOP_WORDS = ("a", "an", "the", "of", "with", "and", ",", ".", "'", "!", "?", "-", ":", ";")
STYLES = ("3d style", "flat style", "noto style", "twemoji style")
STYLE = re.compile(rf"\b({'|'.join(STYLES)})\b", re.IGNORECASE)
# A difference of 0.05 in the cosine to the caption means 12 times the weight.
TEMPERATURE = 0.02


class CaptionEncoder:
    """Encodes captions as one vector, with `words.npz` and `tokenizer.json` from one folder.

    Each word has a static vector, distilled from all-MiniLM-L6-v2 (Apache-2.0) and stored as int8; a caption is the
    mean of its words. The model knows the names of its own subjects well and other words badly, so a caption is first
    mapped to those names: one softmax over them instead of a text transformer.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np
        from tokenizers import Tokenizer

        stored = np.load(folder / "words.npz")
        self._vectors: NDArray[np.int8] = stored["vectors"]
        self._scales: Floats = stored["scales"].astype(np.float32)
        self._tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens.no_padding()
        self._tokens.no_truncation()
        self._stop_tokens = {self._tokens.token_to_id(word) for word in STOP_WORDS}
        self.empty: Floats = stored["nothing"]
        self.names: list[str] = stored["names"].tolist()
        self._index = {name: i for i, name in enumerate(self.names)}
        sums = [self._sum(name) for name in self.names]
        self._name_sums = np.stack([vector for vector, _ in sums])
        self._name_counts: Floats = np.array([count for _, count in sums], np.float32)
        self._directions = _unit(self._name_sums)

    def embed(self, text: str, seed: int | None = None) -> Floats:
        """Return the vector of a caption, (192,), as the network was trained on it: names, and style words unchanged.

        With a seed, a caption that names no style gets one of the four.
        """
        styles = STYLE.findall(text)
        if not styles and seed is not None:
            # A mix of all four would be a blur, so the seed chooses one.
            styles = [STYLES[seed % len(STYLES)]]
        style, style_count = self._sum(" ".join(styles))
        share = self._shares(text)
        names, count = share @ self._name_sums, float(share @ self._name_counts)
        mean: Floats = (names + style) / (count + style_count)
        return mean

    def embed_name(self, name: str, style: str) -> Floats:
        """Return the vector of exactly one of the model's names, in one of the four styles, or in none."""
        at = self._index[name]
        style_sum, style_count = self._sum(style) if style else (self._name_sums[at] * 0, 0)
        mean: Floats = (self._name_sums[at] + style_sum) / (self._name_counts[at] + style_count)
        return mean

    def nearest_names(self, text: str, count: int = 3) -> list[tuple[str, float]]:
        """Return the names that a caption is mapped to, most likely first, with their shares."""
        import numpy as np

        share = self._shares(text)
        return [(self.names[i], float(share[i])) for i in np.argsort(-share)[:count]]

    def _shares(self, text: str) -> Floats:
        """Return the weight of each name in a caption, (number of names,), summing to 1."""
        import numpy as np

        vector, _ = self._sum(STYLE.sub(" ", text))
        similarity = self._directions @ _unit(vector)
        weight = np.exp((similarity - similarity.max()) / TEMPERATURE)
        share: Floats = (weight / weight.sum()).astype(np.float32)
        return share

    def _sum(self, text: str) -> tuple[Floats, int]:
        """Return the sum (192,) and number of a text's vectors without stop words, or of all if none remain."""
        import numpy as np

        ids = self._tokens.encode(text, add_special_tokens=False).ids
        content = [token for token in ids if token not in self._stop_tokens]
        chosen = (content or ids)[:MAX_TOKENS]
        if not chosen:
            return np.zeros(self._vectors.shape[1], np.float32), 0
        vectors = self._vectors[chosen] * self._scales[chosen, None]
        return vectors.sum(0, dtype=np.float32), len(chosen)


def _unit(vectors: Floats) -> Floats:
    import numpy as np

    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = (vectors / np.maximum(length, 1e-6)).astype(np.float32)
    return unit
