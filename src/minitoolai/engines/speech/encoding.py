"""Encode 16-bit mono samples at 24 kHz as mp3, wav, flac, opus or pcm, as a stream without seeking back."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

from minitoolai.core.inference import AudioFormat
from minitoolai.core.marks import SpeechMark

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from minitoolai.engines.marks.speech import SpeechWatermarker

    Samples = NDArray[np.int16]

RATE_HZ = 24_000
#: libsndfile's options. Compression level 0.6 means 64 kbit/s, which is plenty for speech at this rate.
_CONTAINERS: dict[str, dict[str, Any]] = {
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.6},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
_UNKNOWN_LENGTH = 0xFFFFFFFF


def wav_header(comment: str = "") -> bytes:
    """Return a WAV header of unknown length, with a comment. Players then read to the end of the stream.

    The comment comes before the samples, because players would play all data after them in a stream of unknown length.
    """
    form = struct.pack("<HHIIHH", 1, 1, RATE_HZ, RATE_HZ * 2, 2, 16)
    riff = b"RIFF" + struct.pack("<I", _UNKNOWN_LENGTH) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    if comment:
        text = comment.encode("ascii", "replace") + b"\0"
        info = b"INFOICMT" + struct.pack("<I", len(text)) + text + bytes(len(text) % 2)
        riff += b"LIST" + struct.pack("<I", len(info)) + info
    return riff + b"data" + struct.pack("<I", _UNKNOWN_LENGTH)


def id3_tag(comment: str) -> bytes:
    """Return an ID3v2.4 tag with a comment, to precede an mp3 stream."""
    text = b"\x03eng\0" + comment.encode()
    frame = b"COMM" + _synchsafe(len(text)) + b"\0\0" + text
    return b"ID3\x04\0\0" + _synchsafe(len(frame)) + frame


def _synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


class _AppendOnlyFile(io.RawIOBase):
    """A file for libsndfile that keeps appended data and ignores rewrites.

    The rewritten headers would contain lengths and checksums; all three formats play without them.
    """

    def __init__(self) -> None:
        self._unread = bytearray()
        self._length = 0
        self._position = 0
        self._drop_first = False

    def drop_first_frame(self) -> None:
        """Skip the placeholder frame at the start of an mp3, which would play as a moment of silence."""
        self._drop_first = True

    def write(self, data: Any) -> int:
        block = bytes(data)
        if self._position == self._length:
            self._length += len(block)
            if self._drop_first and not any(block[4:]):
                block = b""
            self._drop_first = False
            self._unread += block
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._length)[whence]
        return self._position

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read_new(self) -> bytes:
        """Return the bytes appended since the last call."""
        data = bytes(self._unread)
        self._unread.clear()
        return data


class AudioEncoder:
    """Encodes one stream of audio in constant memory, marked if `mark` is given."""

    def __init__(self, audio_format: AudioFormat, mark: SpeechMark | None = None) -> None:
        comment = mark.comment if mark else ""
        self._header = wav_header(comment) if audio_format == "wav" else b""
        self._watermarker: SpeechWatermarker | None = None
        if mark is not None:
            from minitoolai.engines.marks.speech import SpeechWatermarker

            self._watermarker = SpeechWatermarker(mark.watermark)
            if audio_format == "mp3":
                self._header = id3_tag(comment)
        self._output = _AppendOnlyFile()
        self._file: Any = None
        if audio_format in _CONTAINERS:
            import soundfile

            if audio_format == "mp3":
                self._output.drop_first_frame()
            self._file = soundfile.SoundFile(self._output, "w", RATE_HZ, 1, **_CONTAINERS[audio_format])
            if comment and audio_format != "mp3":
                self._file.comment = comment

    def encode(self, samples: Samples) -> bytes:
        """Encode samples and return the bytes that can be sent already."""
        return self._encode(samples if self._watermarker is None else self._watermarker.process(samples))

    def _encode(self, samples: Samples) -> bytes:
        header, self._header = self._header, b""
        if self._file is None:
            return header + samples.astype("<i2", copy=False).tobytes()
        if len(samples):
            self._file.write(samples)
        return header + self._output.read_new()

    def finish(self) -> bytes:
        """Return the remaining bytes."""
        rest = b"" if self._watermarker is None else self._encode(self._watermarker.finish())
        header, self._header = self._header, b""
        if self._file is None:
            return rest + header
        self._file.close()
        return rest + header + self._output.read_new()
