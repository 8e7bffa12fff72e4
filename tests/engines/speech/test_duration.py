"""The rate of audio is taken from its first bytes, if they say it."""

from __future__ import annotations

import struct
from typing import get_args

import pytest

from minitoolai.core.inference import AudioFormat
from minitoolai.engines.speech.duration import AudioRate, rate_of, usual_rate


def wav(bytes_per_second: int, size: int) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, bytes_per_second // 2, bytes_per_second, 2, 16)
    return b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + form + b"data" + struct.pack("<I", size)


@pytest.mark.parametrize("form", get_args(AudioFormat))
def test_before_the_first_byte_a_usual_rate_is_assumed(form: AudioFormat) -> None:
    assert rate_of(form, b"") == usual_rate(form)
    assert usual_rate(form).bytes_per_second > 0
    assert usual_rate(form).is_stated == (form == "pcm")


def test_a_wav_file_says_its_rate_and_its_length() -> None:
    assert rate_of("wav", wav(32_000, 64_000)) == AudioRate(32_000, True, 44 + 64_000)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFF0])
def test_a_wav_stream_has_no_length(size: int) -> None:
    assert rate_of("wav", wav(32_000, size)) == AudioRate(32_000, True, None)


@pytest.mark.parametrize("begin", [wav(32_000, 1)[:30], b"data fmt ", wav(0, 1), b"x" + wav(32_000, 1)])
def test_a_head_that_is_incomplete_or_wrong_says_nothing(begin: bytes) -> None:
    assert rate_of("wav", begin) == usual_rate("wav")


@pytest.mark.parametrize(
    ("head", "rate"),
    [
        # Version 1 at 128 kbit/s, version 2 at 64 kbit/s, and version 2.5 at 16 kbit/s.
        (b"\xff\xfb\x90\x00", 16_000),
        (b"\xff\xf3\x80\x00", 8_000),
        (b"\xff\xe3\x20\x00", 2_000),
    ],
)
def test_a_frame_of_mp3_says_its_bit_rate(head: bytes, rate: int) -> None:
    assert rate_of("mp3", head) == AudioRate(rate, True)
    tag = b"ID3\x04\x00\x00" + bytes((0, 0, 1, 2)) + bytes(130)
    assert rate_of("mp3", tag + head) == AudioRate(rate, True)


@pytest.mark.parametrize(
    "head", [b"\xff\xfb\x00\x00", b"\xff\xfb\xf0\x00", b"\xff\xfb", b"abcd", b"ID3\x04\x00\x00\x00"]
)
def test_an_mp3_without_a_fixed_bit_rate_says_nothing(head: bytes) -> None:
    assert rate_of("mp3", head) == usual_rate("mp3")
