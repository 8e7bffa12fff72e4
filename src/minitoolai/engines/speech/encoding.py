"""Encode 16-bit mono samples at 24 kHz as mp3, wav, flac, opus, aac or pcm, as a stream without seeking back."""

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
    from minitoolai.engines.speech.aac import AacEncoder

    Samples = NDArray[np.int16]

RATE_HZ = 24_000
#: libsndfile's options. Compression level 0.6 means 64 kbit/s, which is plenty for speech at this rate.
_CONTAINERS: dict[str, dict[str, Any]] = {
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.6},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
_UNKNOWN_LENGTH = 0xFFFFFFFF
#: Of the frames that libsndfile writes: header (24 kHz, mono, 64 kbit/s), bytes, samples, and the encoder's delay.
_MP3_HEADER, _MP3_FRAME_BYTES, _MP3_SAMPLES, _MP3_DELAY = b"\xff\xf3\x84\xc4", 192, 576, 576


def wav_header(comment: str = "", length: int | None = None) -> bytes:
    """Return a WAV header with a comment. If the length in samples is unknown, players read to the end of the stream.

    The comment comes before the samples, because players would play all data after them in a stream of unknown length.
    """
    form = struct.pack("<HHIIHH", 1, 1, RATE_HZ, RATE_HZ * 2, 2, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    if comment:
        text = comment.encode("ascii", "replace") + b"\0"
        info = b"INFOICMT" + struct.pack("<I", len(text)) + text + bytes(len(text) % 2)
        chunks += b"LIST" + struct.pack("<I", len(info)) + info
    size = _UNKNOWN_LENGTH if length is None else min(2 * length, _UNKNOWN_LENGTH)
    total = min(len(chunks) + 8 + size, _UNKNOWN_LENGTH)
    return b"RIFF" + struct.pack("<I", total) + chunks + b"data" + struct.pack("<I", size)


def flac_with_length(audio: bytes, length: int) -> bytes:
    """Return the beginning of a FLAC stream with its number of samples, a field of 36 bits in its first block."""
    at = len(b"fLaC") + 4 + 10
    fields = int.from_bytes(audio[at : at + 8], "big")
    return audio[:at] + (fields & ~0xFFFFFFFFF | length).to_bytes(8, "big") + audio[at + 8 :]


def mp3_info_frame(length: int) -> bytes:
    """Return a silent frame with the number of frames, and how many samples to skip at the start and the end.

    Decoders know it as LAME's. Without it they would play the padding of the encoder: a fifteenth of a second.
    """
    frames = -(-length // _MP3_SAMPLES) + 2
    padding = frames * _MP3_SAMPLES - _MP3_DELAY - length
    size = (frames + 1) * _MP3_FRAME_BYTES
    tag = b"Info" + struct.pack(">III", 3, frames, size) + b"LAME3.100" + bytes(12)
    tag += (_MP3_DELAY << 12 | padding).to_bytes(3, "big") + bytes(4) + struct.pack(">I", size) + bytes(4)
    return (_MP3_HEADER + bytes(9) + tag).ljust(_MP3_FRAME_BYTES, b"\0")


def id3_tag(comment: str) -> bytes:
    """Return an ID3v2.4 tag with a comment, to precede an mp3 or aac stream."""
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
    """Encodes one stream of audio in constant memory, marked if `mark` is given.

    If `length`, the number of all samples, is known at the start, headers tell it.
    """

    def __init__(self, audio_format: AudioFormat, mark: SpeechMark | None = None, length: int | None = None) -> None:
        comment = mark.comment if mark else ""
        self._header = wav_header(comment, length) if audio_format == "wav" else b""
        self._flac_length = length if audio_format == "flac" else None
        self._watermarker: SpeechWatermarker | None = None
        if mark is not None:
            from minitoolai.engines.marks.speech import SpeechWatermarker

            self._watermarker = SpeechWatermarker(mark.watermark)
            if audio_format in ("mp3", "aac"):
                self._header = id3_tag(comment)
        if audio_format == "mp3" and length is not None:
            self._header += mp3_info_frame(length)
        self._output = _AppendOnlyFile()
        self._file: Any = None
        self._aac: AacEncoder | None = None
        if audio_format == "aac":
            from minitoolai.engines.speech.aac import AacEncoder

            self._aac = AacEncoder()
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
        if self._aac is not None:
            return header + self._aac.encode(samples)
        if self._file is None:
            return header + samples.astype("<i2", copy=False).tobytes()
        if len(samples):
            self._file.write(samples)
        return header + self._read_new()

    def _read_new(self) -> bytes:
        audio = self._output.read_new()
        if audio and self._flac_length is not None:
            audio, self._flac_length = flac_with_length(audio, self._flac_length), None
        return audio

    def finish(self) -> bytes:
        """Return the remaining bytes."""
        rest = b"" if self._watermarker is None else self._encode(self._watermarker.finish())
        header, self._header = self._header, b""
        if self._aac is not None:
            return rest + header + self._aac.finish()
        if self._file is None:
            return rest + header
        self._file.close()
        return rest + header + self._read_new()
