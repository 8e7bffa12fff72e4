"""16-bit mono samples at 24 kHz to mp3, wav, flac, opus or pcm, as a stream that is never rewound."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

from minitoolai.core.inference import AudioFormat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.int16]

RATE_HZ = 24_000
#: libsndfile's names. 0.6 on its scale of compression is 64 kbit/s, plenty for a voice at this rate.
_CONTAINERS: dict[str, dict[str, Any]] = {
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.6},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
_UNKNOWN_LENGTH = 0xFFFFFFFF


def wav_head() -> bytes:
    """The head of a WAV whose length nobody knows yet: both lengths say so, and players read to the end."""
    form = struct.pack("<HHIIHH", 1, 1, RATE_HZ, RATE_HZ * 2, 2, 16)
    riff = b"RIFF" + struct.pack("<I", _UNKNOWN_LENGTH) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    return riff + b"data" + struct.pack("<I", _UNKNOWN_LENGTH)


class _Sink(io.RawIOBase):
    """A file to libsndfile, a stream to us: what it writes at the end is kept, what it rewrites is not.

    The rewritten heads would tell lengths and checksums; all three formats play without.
    """

    def __init__(self) -> None:
        self._fresh = bytearray()
        self._length = 0
        self._at = 0
        self._drop_first = False

    def drop_first_frame(self) -> None:
        """An mp3 begins with an empty frame, to be filled in at the end; unfilled, it would be a moment of silence."""
        self._drop_first = True

    def write(self, data: Any) -> int:
        block = bytes(data)
        if self._at == self._length:
            self._length += len(block)
            if self._drop_first and not any(block[4:]):
                block = b""
            self._drop_first = False
            self._fresh += block
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def take(self) -> bytes:
        """What was written since the last call."""
        data = bytes(self._fresh)
        self._fresh.clear()
        return data


class AudioEncoder:
    """One stream of audio. Memory does not grow with its length."""

    def __init__(self, form: AudioFormat) -> None:
        self._head = wav_head() if form == "wav" else b""
        self._sink = _Sink()
        self._file: Any = None
        if form in _CONTAINERS:
            import soundfile

            if form == "mp3":
                self._sink.drop_first_frame()
            self._file = soundfile.SoundFile(self._sink, "w", RATE_HZ, 1, **_CONTAINERS[form])

    def encode(self, samples: Samples) -> bytes:
        """What can be sent of the audio so far."""
        head, self._head = self._head, b""
        if self._file is None:
            return head + samples.astype("<i2", copy=False).tobytes()
        if len(samples):
            self._file.write(samples)
        return self._sink.take()

    def finish(self) -> bytes:
        """The rest."""
        head, self._head = self._head, b""
        if self._file is None:
            return head
        self._file.close()
        return self._sink.take()
