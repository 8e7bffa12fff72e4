"""Keep the text of a stream, so that it can be counted with the engine's tokenizer if its usage is missing.

Only streams of engines with a tokenizer are recorded. The text is kept as it is sent, still JSON-escaped and up to a
limit; it is decoded only if it must be counted.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from minitoolai.chat.stream.normalizer import ChunkNormalizer
from minitoolai.chat.templates import ChunkTemplate
from minitoolai.core.counting import message_texts

#: Bytes of text that are kept of each stream. The count of longer texts is extrapolated.
MOST_KEPT = 262_144


class _RecordedChoice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None


class _RecordedChunk(msgspec.Struct):
    choices: list[_RecordedChoice] = []


_decode_chunks = msgspec.json.Decoder(list[_RecordedChunk]).decode


class RecordingNormalizer(ChunkNormalizer):
    """Normalizer that keeps the text of the events it returns, one buffer per choice and field."""

    __slots__ = ("_between", "_buffer", "_buffers", "_is_feeding", "_known_template")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._buffers: dict[tuple[int, str], bytearray] = {}
        #: The last learned template, and the buffer of its choice and field.
        self._known_template: ChunkTemplate | None = None
        self._buffer = bytearray()
        #: The bytes between the texts of two of its events.
        self._between = b""
        #: Set while `feed` runs, which also matches templates but records all events itself.
        self._is_feeding = False

    def match_template(self, data: bytes) -> bytes | None:
        sent = ChunkNormalizer.match_template(self, data)
        if sent is not None and not self._is_feeding and len(self._buffer) < MOST_KEPT:
            template = self._template
            assert template is not None
            self._buffer += data[template.start : template.end]
        return sent

    def feed(self, data: bytes) -> bytes:
        self._is_feeding = True
        sent = super().feed(data)
        self._is_feeding = False
        if sent:
            self._record(sent)
        return sent

    def end(self) -> bytes:
        sent = super().end()
        if sent:
            self._record(sent)
        return sent

    def _record(self, block: bytes) -> None:
        template = self._template
        if template is not None and template is self._known_template:
            before, after = template.sent_before, template.sent_after
            if block.startswith(before) and block.endswith(after):
                texts = block[len(before) : -len(after)].split(self._between)
                # An event has only one empty line, so there is nothing else in between.
                if len(texts) == block.count(b"\n\n"):
                    if len(self._buffer) < MOST_KEPT:
                        self._buffer += b"".join(texts)
                    return
        for key, text in _texts_in(block):
            buffer = self._buffer_of(key)
            if len(buffer) < MOST_KEPT:
                buffer += json.dumps(text)[1:-1].encode()
        if template is not self._known_template:
            self._known_template = template
            if template is not None:
                ((key, _),) = _texts_in(template.sent_before + b"x" + template.sent_after)
                self._buffer = self._buffer_of(key)
                self._between = template.sent_after + template.sent_before

    def _buffer_of(self, key: tuple[int, str]) -> bytearray:
        return self._buffers.setdefault(key, bytearray())

    def texts(self) -> list[str]:
        """Return the text so far, one for each choice and field."""
        return [_unescape(bytes(buffer)) for buffer in self._buffers.values() if buffer]


def _texts_in(block: bytes) -> list[tuple[tuple[int, str], str]]:
    """Return every text in a block of events, with its choice and field."""
    return [
        ((choice.index, field), text)
        for chunk in _decode_chunks(b"[" + _as_list(block) + b"]")
        for choice in chunk.choices
        for field, value in (choice.delta or {}).items()
        for text in message_texts({field: value})
    ]


def _as_list(block: bytes) -> bytes:
    """Return the data of the events in a block, separated by commas."""
    return b",".join(line[5:] for line in block.split(b"\n") if line.startswith(b"data:") and line[5:].strip())


def _unescape(text: bytes) -> str:
    """Decode the inside of a JSON string, which may be cut in the middle of an escape."""
    try:
        decoded: str = json.loads(b'"' + text + b'"', strict=False)
    except ValueError:
        decoded = text.decode("utf-8", "replace")
    return decoded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
