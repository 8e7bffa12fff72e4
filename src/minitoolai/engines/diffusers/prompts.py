"""Parse prompts in the syntax of Stable Diffusion: weights, BREAK, and texts longer than one window of 75 tokens.

`(word)` has weight 1.1, `[word]` 1/1.1 and `(word:1.3)` 1.3; brackets nest, and a backslash escapes one. A window ends
at BREAK or when it is full, preferably at a comma. All of this matches AUTOMATIC1111's web UI, for which most prompts
are written, but that weights are limited.
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

#: Tokens of a window, without its start and end marks.
WINDOW = 75
#: Move at most this many tokens after the last comma of a full window to the next one.
BACKTRACK = 20
#: Ignore deeper nesting, so that a text of brackets only is parsed quickly.
MAX_DEPTH = 32
STRONGER, WEAKER = 1.1, 1 / 1.1
#: A word's weight, all its brackets multiplied, is limited to this in both directions. Beyond it an image only breaks.
MAX_WEIGHT = 3.0
#: One bracket counts at most this much, so that products of many stay finite.
_MAX_FACTOR = 100.0
_PIECE = re.compile(
    r"""\\(?P<literal>[()\[\]\\])
      | (?P<open>[(\[])
      | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
      | (?P<close>[)\]])
      | (?P<text>[^\\()\[\]:]+|:|\\)""",
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


class PromptPart(NamedTuple):
    """A text and its weight. A text of None starts a new window."""

    text: str | None
    weight: float = 1.0


class Window(NamedTuple):
    """The tokens of one window, at most 75, without marks and padding, and the weight of each."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


def weighted_parts(prompt: str) -> list[PromptPart]:
    """Resolve the brackets of a prompt. Merges neighbours of equal weight; an empty prompt is one empty part.

    Every weight is finite and at most MAX_WEIGHT in size.
    """
    parts: list[PromptPart] = []
    open_round: list[int] = []
    open_square: list[int] = []

    def scale(start: int, factor: float) -> None:
        parts[start:] = [part._replace(weight=part.weight * factor) for part in parts[start:]]

    for piece in _PIECE.finditer(prompt):
        text = piece[0]
        if piece["literal"]:
            parts.append(PromptPart(piece["literal"]))
        elif piece["open"]:
            stack = open_round if text == "(" else open_square
            if len(stack) < MAX_DEPTH:
                stack.append(len(parts))
        elif piece["weight"] and open_round:
            scale(open_round.pop(), _limited(float(piece["weight"]), _MAX_FACTOR))
        elif text == ")" and open_round:
            scale(open_round.pop(), STRONGER)
        elif text == "]" and open_square:
            scale(open_square.pop(), WEAKER)
        else:
            parts.extend(_split_at_breaks(text))
    for start in open_round:
        scale(start, STRONGER)
    for start in open_square:
        scale(start, WEAKER)
    parts = [part._replace(weight=_limited(part.weight, MAX_WEIGHT)) for part in parts]
    return _merge(parts) or [PromptPart("")]


def _limited(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def _split_at_breaks(text: str) -> list[PromptPart]:
    """Split a text at its BREAKs."""
    parts: list[PromptPart] = []
    for i, piece in enumerate(_BREAK.split(text)):
        parts.extend([PromptPart(None)] * (i > 0) + [PromptPart(piece)] * bool(piece))
    return parts


def _merge(parts: list[PromptPart]) -> list[PromptPart]:
    joined: list[PromptPart] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last and last.text is not None and part.text is not None and last.weight == part.weight:
            joined[-1] = PromptPart(last.text + part.text, part.weight)
        else:
            joined.append(part)
    return joined


@dataclass
class _WindowFiller:
    """The windows filled so far, and the one being filled."""

    comma: int
    full: list[Window] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    #: Index of the last comma in this window, or -1.
    last_comma: int = -1

    def add(self, token: int, weight: float) -> None:
        if len(self.tokens) == WINDOW and token != self.comma:
            self._split_at_comma()
        elif len(self.tokens) == WINDOW:
            self.close()
        if token == self.comma:
            self.last_comma = len(self.tokens)
        self.tokens.append(token)
        self.weights.append(weight)

    def _split_at_comma(self) -> None:
        end = self.last_comma + 1
        if self.last_comma < 0 or WINDOW - self.last_comma > BACKTRACK:
            return self.close()
        tokens, weights = self.tokens[end:], self.weights[end:]
        del self.tokens[end:], self.weights[end:]
        self.close()
        self.tokens, self.weights = tokens, weights
        return None

    def close(self) -> None:
        self.full.append(Window(tuple(self.tokens), tuple(self.weights)))
        self.tokens, self.weights, self.last_comma = [], [], -1


def windows(prompt: str, encode: Callable[[str], list[int]], comma: int) -> list[Window]:
    """Split a prompt into one or more windows of at most 75 tokens. `encode` adds no marks; `comma` is its token."""
    filler = _WindowFiller(comma)
    for part in weighted_parts(prompt):
        if part.text is None:
            filler.close()
            continue
        for token in encode(part.text):
            filler.add(token, part.weight)
    if filler.tokens or not filler.full:
        filler.close()
    return filler.full


# ── CLIP's tokenizer ──────────────────────────────────────────────────────────────────────────────────────────

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_START, _END = "<|startoftext|>", "<|endoftext|>"
#: Number of merges in CLIP's vocabulary file: 49,408 tokens minus 2 x 256 bytes and the two marks.
_MERGES = 49_408 - 2 * 256 - 2


class ClipTokenizer:
    """CLIP's tokenizer: byte pairs of lower-case words, without marks. Knows the tokens of the marks and the comma."""

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        self._tokenizer = _tokenizer(vocabulary, merges)
        self.start, self.end = vocabulary[_START], vocabulary[_END]
        self.comma = vocabulary.get(",</w>", -1)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text of any length."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def tokenizer_of_folder(folder: Path) -> ClipTokenizer:
    """Load a tokenizer from vocab.json and merges.txt, or from tokenizer.json. Raises EngineError."""
    try:
        if (folder / "vocab.json").is_file():
            vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
            lines = (folder / "merges.txt").read_text("utf-8").splitlines()
            merges = [line.split() for line in lines if line and not line.startswith("#version")]
        else:
            model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
            vocabulary = model["vocab"]
            merges = [pair.split() if isinstance(pair, str) else pair for pair in model["merges"]]
        return ClipTokenizer(vocabulary, [(first, second) for first, second in merges])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{folder} contains no readable tokenizer: {error}") from error


def clip_tokenizer() -> ClipTokenizer:
    """Load CLIP's own 49,408 tokens from the open_clip_torch wheel. Raises EngineError if it is missing.

    A single file of weights contains no vocabulary, but all of Stable Diffusion's text encoders share CLIP's.
    """
    try:
        vocabulary = next(
            file for file in files("open_clip_torch") or [] if file.name == "bpe_simple_vocab_16e6.txt.gz"
        )
        lines = gzip.decompress(Path(str(vocabulary.locate())).read_bytes()).decode("utf-8").splitlines()
    except (PackageNotFoundError, StopIteration, OSError) as error:
        raise EngineError("CLIP's vocabulary is missing: install open_clip_torch, see docs/howto/gpu.md") from error
    pairs = [line.split() for line in lines[1 : 1 + _MERGES]]
    merges = [(first, second) for first, second in pairs]
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), _START, _END]
    return ClipTokenizer({token: number for number, token in enumerate(tokens)}, merges)


def _byte_letters() -> list[str]:
    """Return the letter that represents each byte: itself if printable, else a letter from 256 on."""
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
