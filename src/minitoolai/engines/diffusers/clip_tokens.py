"""CLIP's tokenizer (byte pairs of lower-case words), from a folder of the weights or from the vocabulary in a wheel.

A single file of weights brings no vocabulary; all of Stable Diffusion's share CLIP's, which lies in open_clip_torch.
"""

from __future__ import annotations

import gzip
import json
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

from minitoolai.core.errors import EngineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
