"""Prompts as users of Stable Diffusion write them: weights, BREAK, and texts longer than one window of 75 tokens.

`(word)` counts 1.1 times, `[word]` 1/1.1 times, `(word:1.3)` 1.3 times; they nest, and a backslash takes a bracket at
its word. A window ends at BREAK or when it is full, rather at a comma than within a phrase. All of this is the
behaviour of AUTOMATIC1111's web UI, to which people write their prompts.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from minitoolai.core.errors import EngineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Tokens of a window between its start and its end mark.
WINDOW = 75
#: A full window gives back at most this many tokens after its last comma.
BACKTRACK = 20
#: Brackets open at once that count; nobody means more, and a text of brackets alone must not cost a second.
DEEPEST = 32
STRONGER, WEAKER = 1.1, 1 / 1.1
_PIECE = re.compile(
    r"""\\(?P<literal>[()\[\]\\])
      | (?P<open>[(\[])
      | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
      | (?P<close>[)\]])
      | (?P<text>[^\\()\[\]:]+|:|\\)""",
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Part(NamedTuple):
    """Some text and how much it counts; a text of None begins a new window."""

    text: str | None
    weight: float = 1.0


class Window(NamedTuple):
    """The tokens of one window, without marks and padding, at most 75, and how much each counts."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


def weighted_parts(prompt: str) -> list[Part]:
    """The prompt without its brackets. Neighbours of one weight are one part; an empty prompt is one empty part."""
    parts: list[Part] = []
    open_round: list[int] = []
    open_square: list[int] = []

    def weigh(since: int, factor: float) -> None:
        parts[since:] = [part._replace(weight=part.weight * factor) for part in parts[since:]]

    for piece in _PIECE.finditer(prompt):
        text = piece[0]
        if piece["literal"]:
            parts.append(Part(piece["literal"]))
        elif piece["open"]:
            stack = open_round if text == "(" else open_square
            if len(stack) < DEEPEST:
                stack.append(len(parts))
        elif piece["weight"] and open_round:
            weigh(open_round.pop(), float(piece["weight"]))
        elif text == ")" and open_round:
            weigh(open_round.pop(), STRONGER)
        elif text == "]" and open_square:
            weigh(open_square.pop(), WEAKER)
        else:
            parts.extend(_broken(text))
    for since in open_round:
        weigh(since, STRONGER)
    for since in open_square:
        weigh(since, WEAKER)
    return _joined(parts) or [Part("")]


def _broken(text: str) -> list[Part]:
    """A text at its BREAKs."""
    parts: list[Part] = []
    for i, piece in enumerate(_BREAK.split(text)):
        parts.extend([Part(None)] * (i > 0) + [Part(piece)] * bool(piece))
    return parts


def _joined(parts: list[Part]) -> list[Part]:
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last and last.text is not None and part.text is not None and last.weight == part.weight:
            joined[-1] = Part(last.text + part.text, part.weight)
        else:
            joined.append(part)
    return joined


@dataclass
class _Filling:
    """The window that is being filled, and those that are full."""

    comma: int
    full: list[Window] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    #: Where the last comma is; -1 for none, or for one that was counted in another window.
    last_comma: int = -1

    def add(self, token: int, weight: float) -> None:
        if len(self.tokens) == WINDOW and token != self.comma:
            self._make_room()
        elif len(self.tokens) == WINDOW:
            self.close()
        if token == self.comma:
            self.last_comma = len(self.tokens)
        self.tokens.append(token)
        self.weights.append(weight)

    def _make_room(self) -> None:
        kept = self.last_comma + 1
        if self.last_comma < 0 or WINDOW - self.last_comma > BACKTRACK:
            return self.close()
        tokens, weights = self.tokens[kept:], self.weights[kept:]
        del self.tokens[kept:], self.weights[kept:]
        self.close()
        self.tokens, self.weights = tokens, weights
        return None

    def close(self) -> None:
        self.full.append(Window(tuple(self.tokens), tuple(self.weights)))
        self.tokens, self.weights, self.last_comma = [], [], -1


def windows(prompt: str, encode: Callable[[str], list[int]], comma: int) -> list[Window]:
    """The prompt in windows of at most 75 tokens, at least one. `encode` knows no marks; `comma` is its token."""
    filling = _Filling(comma)
    for part in weighted_parts(prompt):
        if part.text is None:
            filling.close()
            continue
        for token in encode(part.text):
            filling.add(token, part.weight)
    if filling.tokens or not filling.full:
        filling.close()
    return filling.full


# (merged from clip_tokens) CLIP's tokenizer (byte pairs of lower-case words), from a folder of the weights or from the vocabulary in a wheel.
# (merged from clip_tokens)
# (merged from clip_tokens) A single file of weights brings no vocabulary; all of Stable Diffusion's share CLIP's, which lies in open_clip_torch.

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_START, _END = "<|startoftext|>", "<|endoftext|>"
#: Merges in CLIP's own file: the 49,408 tokens less 2 x 256 bytes and the two marks.
_MERGES = 49_408 - 2 * 256 - 2


class ClipTokens:
    """Text to tokens without marks; the marks and the comma are told."""

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        self._tokenizer = _tokenizer(vocabulary, merges)
        self.start, self.end = vocabulary[_START], vocabulary[_END]
        self.comma = vocabulary.get(",</w>", -1)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, any number."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def tokens_of_folder(folder: Path) -> ClipTokens:
    """From vocab.json and merges.txt, or from tokenizer.json. EngineError where neither can be read."""
    try:
        if (folder / "vocab.json").is_file():
            vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
            lines = (folder / "merges.txt").read_text("utf-8").splitlines()
            merges = [line.split() for line in lines if line and not line.startswith("#version")]
        else:
            model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
            vocabulary = model["vocab"]
            merges = [pair.split() if isinstance(pair, str) else pair for pair in model["merges"]]
        return ClipTokens(vocabulary, [(first, second) for first, second in merges])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{folder} holds no tokenizer that can be read: {error}") from error


def tokens_of_clip() -> ClipTokens:
    """CLIP's own 49,408 tokens. EngineError where the wheel is missing."""
    try:
        found = next(file for file in files("open_clip_torch") or [] if file.name == "bpe_simple_vocab_16e6.txt.gz")
        lines = gzip.decompress(Path(str(found.locate())).read_bytes()).decode("utf-8").splitlines()
    except (PackageNotFoundError, StopIteration, OSError) as error:
        raise EngineError("CLIP's vocabulary is missing: install open_clip_torch, see docs/howto/gpu.md") from error
    pairs = [line.split() for line in lines[1 : 1 + _MERGES]]
    merges = [(first, second) for first, second in pairs]
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), _START, _END]
    return ClipTokens({token: number for number, token in enumerate(tokens)}, merges)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte: printable ones for themselves, the others for letters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(hidden))]


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=_END))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer
