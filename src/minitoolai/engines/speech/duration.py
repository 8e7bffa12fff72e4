"""Estimate how long the audio of an upstream lasts from its first bytes and its size, without decoding it."""

from __future__ import annotations

import struct

import msgspec

from minitoolai.core.inference import AudioFormat

#: Usual bytes per second of speech.
_USUAL: dict[str, float] = {"pcm": 48_000, "wav": 48_000, "flac": 24_000, "mp3": 16_000, "opus": 6_000, "aac": 12_000}
_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF)
#: Bit rates of MPEG audio layer III in kbit/s, by the field in its header: version 1, and versions 2 and 2.5.
_MP3_V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP3_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


class AudioRate(msgspec.Struct, frozen=True):
    """Bytes per second, whether the audio itself says so, and its whole length in bytes if it says that."""

    bytes_per_second: float
    is_stated: bool = False
    length: int | None = None


def usual_rate(audio_format: AudioFormat) -> AudioRate:
    """Return the rate to assume before any audio has arrived."""
    return AudioRate(_USUAL[audio_format], audio_format == "pcm")


def rate_of(audio_format: AudioFormat, begin: bytes) -> AudioRate:
    """Return the rate of audio that begins with these bytes."""
    if audio_format == "wav":
        return _wav(begin) or usual_rate("wav")
    if audio_format == "mp3":
        return _mp3(begin) or usual_rate("mp3")
    return usual_rate(audio_format)


def _wav(begin: bytes) -> AudioRate | None:
    form, data = begin.find(b"fmt "), begin.find(b"data")
    if not begin.startswith(b"RIFF") or form < 0 or data < 0 or len(begin) < max(form + 20, data + 8):
        return None
    rate = struct.unpack_from("<I", begin, form + 16)[0]
    size = struct.unpack_from("<I", begin, data + 4)[0]
    if not rate:
        return None
    return AudioRate(rate, True, None if size in _UNKNOWN_SIZES or size > 0x7FFFFF00 else data + 8 + size)


def _mp3(begin: bytes) -> AudioRate | None:
    at = 0
    if begin.startswith(b"ID3") and len(begin) >= 10:
        at = 10 + sum((byte & 127) << shift for byte, shift in zip(begin[6:10], (21, 14, 7, 0), strict=True))
    if len(begin) < at + 4 or begin[at] != 0xFF or begin[at + 1] & 0xE6 != 0xE2:
        return None
    table = _MP3_V1 if begin[at + 1] & 0x18 == 0x18 else _MP3_V2
    field = begin[at + 2] >> 4
    return AudioRate(table[field] * 125, True) if 0 < field < len(table) else None
