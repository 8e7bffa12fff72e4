"""The common case of chunked coding: a read that is one whole chunk. Everything else is for the parser.

Of a read's length only one head of a chunk can be right, so that a look at a table replaces parsing.
"""

from __future__ import annotations

LARGEST_READ = 8192


def _head(length: int) -> tuple[tuple[bytes, ...], int]:
    """The heads that a read of this length may begin with if it is one chunk (hex in either case), and their size."""
    for digits in range(1, 5):
        head = b"%x\r\n" % max(0, length - digits - 4)
        if len(head) == digits + 2 and length > digits + 4:
            return tuple({head, head.upper()}), len(head)
    return (), 0


_HEADS = [_head(length) for length in range(LARGEST_READ)]


def only_chunk(read: bytes) -> bytes | None:
    """The body, where this read, begun between two chunks, is one whole chunk without extensions; else None."""
    size = len(read)
    if size >= LARGEST_READ:
        return None
    heads, start = _HEADS[size]
    if read.startswith(heads) and read.endswith(b"\r\n"):
        return read[start:-2]
    return None
