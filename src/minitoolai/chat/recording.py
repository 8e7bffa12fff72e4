"""Keep the text of a stream, so that it can be counted with the engine's tokenizer if its usage is missing.

Only streams of engines with a tokenizer are recorded. The text is kept as it is sent, still JSON-escaped and up to a
limit; it is decoded only if it must be counted.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from minitoolai.chat.normalizer import ChunkNormalizer
from minitoolai.core.counting import find_texts, message_texts

#: Bytes of text that are kept of each stream. What follows is extrapolated.
MOST_KEPT = 262_144


class _Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_decode_chunks = msgspec.json.Decoder(list[_Chunk]).decode


class RecordingNormalizer(ChunkNormalizer):
    """Normalizer that keeps the text of what it returns, one buffer per choice and field."""

    __slots__ = ("_buffer", "_buffers", "_is_feeding", "_known_template")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._buffers: dict[tuple[int, str], bytearray] = {}
        #: The buffer of the field that was sent last, and the template whose text belongs there.
        self._buffer = bytearray()
        self._known_template: object = None
        #: `feed` matches templates, too, and records all that it returns.
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
        deltas = block.count(b'"delta":{')
        if self._template is self._known_template and self._template is not None and len(self._buffers) == 1:
            texts = find_texts(block)
            if len(texts) == deltas:
                if len(self._buffer) < MOST_KEPT:
                    self._buffer += b"".join(texts)
                return
        self._known_template = self._template
        for chunk in _decode_chunks(b"[" + _as_list(block) + b"]"):
            for choice in chunk.choices:
                for field, value in (choice.delta or {}).items():
                    for text in message_texts({field: value}):
                        self._buffer = self._buffers.setdefault((choice.index, field), bytearray())
                        if len(self._buffer) < MOST_KEPT:
                            self._buffer += json.dumps(text)[1:-1].encode()

    def texts(self) -> list[str]:
        """Return the text so far, one for each choice and field."""
        return [_unescape(bytes(buffer)) for buffer in self._buffers.values() if buffer]


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
