"""Captions for training, and what the network sees of them: the mean of their tokens' static vectors."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from prepare import STYLES
from tokenizers import Tokenizer
from torch import Tensor

CAPTIONS_PER_PICTURE = 64
LONGEST = 32
# Words that say nothing about a picture; a mean over few tokens cannot afford them.
EMPTY = ("a", "an", "the", "of", "with", "and", ",", ".", "'", "!", "?", "-", ":", ";")


class Words:
    """The table of token vectors, with the pooling that the engine repeats in numpy."""

    def __init__(self, work: Path) -> None:
        self.tokens = Tokenizer.from_file(str(work / "minilm/tokenizer.json"))
        self.tokens.no_padding()
        self.tokens.no_truncation()
        self.table = torch.from_numpy(np.load(work / "words.npy").astype(np.float32))
        self.empty = {self.tokens.token_to_id(word) for word in EMPTY}
        self.unknown = self.tokens.token_to_id("[UNK]")

    def embed(self, texts: list[str]) -> Tensor:
        """(B, 192), the mean vector of each text's telling tokens."""
        rows = []
        for encoded in self.tokens.encode_batch(texts, add_special_tokens=False):
            telling = [token for token in encoded.ids if token not in self.empty]
            ids = (telling or encoded.ids or [self.unknown])[:LONGEST]
            rows.append(self.table[ids].mean(0))
        return torch.stack(rows)


def caption_of(thing: dict, dice: random.Random) -> str:
    """One caption: mostly the name, at times with keywords or part of it or keywords only; often a style."""
    name, words, kind = thing["name"], thing["words"], dice.random()
    words = [word for word in words if sum(letter.isalpha() for letter in word) > 2]
    parts = name.split()
    if kind < 0.55 or (len(words) < 2 and len(parts) < 3):
        text = name
    elif kind < 0.65 and len(parts) > 2:
        text = " ".join(part for part in parts if part != dice.choice(parts))
    elif kind < 0.85 and words:
        text = ", ".join([name, *dice.sample(words, min(dice.choice((1, 2)), len(words)))])
    elif words:
        text = " ".join(dice.sample(words, min(dice.choice((2, 3)), len(words))))
    else:
        text = name
    style = ", " + list(STYLES.values())[thing["style"]]
    return text + (style if dice.random() < 0.6 else "")


def bank(work: Path, words: Words, seed: int = 0) -> Tensor:
    """Caption vectors (N, CAPTIONS_PER_PICTURE, 192) float16, made once: a training step costs no Python."""
    dice = random.Random(seed)
    things = json.loads((work / "things.json").read_text())
    rows = [words.embed([caption_of(t, dice) for _ in range(CAPTIONS_PER_PICTURE)]).half() for t in things]
    return torch.stack(rows)
