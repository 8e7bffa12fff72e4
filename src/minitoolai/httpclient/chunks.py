"""The common case of chunked coding: a read that is one whole chunk. Everything else is for the parser.

Of a read's length only one head of a chunk can be right, so that a look at a table replaces parsing.
"""

from __future__ import annotations

#: Longer reads are left to the parser.
LARGEST_READ = 8192


def _head(length: int) -> tuple[tuple[bytes, ...], int]:
    """The heads that a read of this length may begin with if it is one chunk (hex in either case), and their size."""
    for digits in range(1, 5):
        head = b"%x\r\n" % max(0, length - digits - 4)
        if len(head) == digits + 2 and length > digits + 4:
            return tuple({head, head.upper()}), len(head)
    return (), 0


#: By a read's length: see `_head`. Chunks with extensions begin with none of these.
HEADS = [_head(length) for length in range(LARGEST_READ)]
