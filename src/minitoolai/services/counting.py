"""Count tokens by the bytes of text, for answers and prompts that no engine counted."""

from __future__ import annotations

#: Bytes of text that one token stands for. Four are usual in the tokenizers in use; with five the count is rarely
#: above the true one, so that a caller seldom pays for the guess.
BYTES_PER_TOKEN = 5


def tokens_in(size: int) -> int:
    """Return the likely number of tokens in this many bytes of text, to the nearest."""
    return (size + BYTES_PER_TOKEN // 2) // BYTES_PER_TOKEN
