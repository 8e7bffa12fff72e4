"""Templates of chunks, which spare the parser.

The chunks of a stream usually differ only in their text. If a chunk has the same bytes as one that was parsed before,
apart from a text without quotes and line ends, it has the same structure and need not be parsed.
"""

from __future__ import annotations

import msgspec

#: Parse at most this many events that could be forwarded unparsed, in order to learn a template.
MAX_TEMPLATE_PARSES = 32
#: The bytes before and after the text in the most frequent deltas.
_TEXT_DELTAS = (
    (b'{"content":"', b'"}'),
    (b'{"reasoning_content":"', b'"}'),
    (b'{"reasoning":"', b'"}'),
    (b'{"tool_calls":[{"index":0,"function":{"arguments":"', b'"}}]}'),
)


class ChunkTemplate(msgspec.Struct, frozen=True):
    """Bytes of a chunk before and after its text, as received from the engine and as sent to the caller."""

    before: bytes
    after: bytes
    sent_before: bytes
    sent_after: bytes
    #: The chunk is forwarded unchanged.
    is_unchanged: bool
    #: Slice indexes of the text in a received event. `end` is negative, counted from the end of the event.
    start: int
    end: int
    #: Least number of bytes of a received event that matches.
    size: int


def template_of(received: bytes, sent: bytes, delta: bytes) -> ChunkTemplate | None:
    """Make a template from a parsed event, the event sent for it, and its only delta.

    Return None if the delta is not one of the frequent forms, or does not occur exactly once in both events.
    """
    for key, tail in _TEXT_DELTAS:
        text = delta[len(key) : -len(tail)]
        if delta.startswith(key) and delta.endswith(tail) and text and b'"' not in text and b"\\" not in text:
            break
    else:
        return None
    if received.count(delta) != 1 or sent.count(delta) != 1 or received.count(b"\n") != 2:
        return None
    before, after = _split_around_text(received, delta, len(key), len(tail))
    sent_before, sent_after = _split_around_text(sent, delta, len(key), len(tail))
    return ChunkTemplate(
        before, after, sent_before, sent_after, received == sent, len(before), -len(after), len(before) + len(after)
    )


def _split_around_text(event: bytes, delta: bytes, key: int, tail: int) -> tuple[bytes, bytes]:
    at = event.index(delta)
    return event[: at + key], event[at + len(delta) - tail :]


#: Stands for the absence of a template.
NO_TEMPLATE = ChunkTemplate(b"", b"", b"", b"", False, 0, 0, 0)
