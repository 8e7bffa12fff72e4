"""What the events of one stream share: everything but the piece of text in them.

An event that is byte for byte like one that was parsed, but for a piece of text without quotes and line ends, needs no
parser: it is what the other was.
"""

from __future__ import annotations

import msgspec

#: What stands around the text in the deltas that are most frequent.
_AROUND = (
    (b'{"content":"', b'"}'),
    (b'{"reasoning_content":"', b'"}'),
    (b'{"reasoning":"', b'"}'),
    (b'{"tool_calls":[{"index":0,"function":{"arguments":"', b'"}}]}'),
)


class Pattern(msgspec.Struct, frozen=True):
    """The bytes around the text, as the engine writes them and as the caller gets them."""

    before: bytes
    after: bytes
    ours_before: bytes
    ours_after: bytes
    #: The caller gets the engine's own bytes.
    is_same: bool
    #: Where the text stands in an event: from the front and, below zero, from the back. No event is shorter than both.
    start: int
    end: int


def pattern_of(theirs: bytes, ours: bytes, delta: bytes) -> Pattern | None:
    """From one parsed event, what is sent for it, and its only delta; None where that is not simple."""
    for key, tail in _AROUND:
        text = delta[len(key) : -len(tail)]
        if delta.startswith(key) and delta.endswith(tail) and text and b'"' not in text and b"\\" not in text:
            break
    else:
        return None
    if theirs.count(delta) != 1 or ours.count(delta) != 1 or theirs.count(b"\n") != 2:
        return None
    before, after = _around(theirs, delta, len(key), len(tail))
    ours_before, ours_after = _around(ours, delta, len(key), len(tail))
    return Pattern(before, after, ours_before, ours_after, theirs == ours, len(before), -len(after))


def _around(event: bytes, delta: bytes, key: int, tail: int) -> tuple[bytes, bytes]:
    at = event.index(delta)
    return event[: at + key], event[at + len(delta) - tail :]
