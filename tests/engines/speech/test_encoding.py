"""Tests of audio encoding as a stream."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from minitoolai.core.inference import AudioFormat
from minitoolai.engines.speech.encoding import RATE_HZ, AudioEncoder, wav_header
from minitoolai.engines.speech.stretch import resample
from tests.support.speech import decoded

FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)


def tone(seconds: float, hertz: float = 440.0) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (np.sin(2 * np.pi * hertz * time_s) * 8000).astype(np.int16)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_parts_of_any_length_make_one_file(audio_format: AudioFormat) -> None:
    encoder, samples = AudioEncoder(audio_format), tone(6.0)
    cuts = np.cumsum([0, 1, 0, 100, 24_001, 3, 60_000])
    parts = [encoder.encode(part) for part in np.split(samples, cuts)]
    audio = b"".join([*parts, encoder.finish()])
    assert decoded(audio, audio_format) == pytest.approx(len(samples), rel=0.02)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_bytes_are_available_before_the_end(audio_format: AudioFormat) -> None:
    encoder = AudioEncoder(audio_format)
    sizes = [len(encoder.encode(tone(1.5))) for _ in range(6)]
    # aac has a variable bit rate, and a tone needs little.
    assert all(size > (1000 if audio_format == "aac" else 3000) for size in sizes), sizes


def test_a_wav_header_comes_with_the_first_samples_only() -> None:
    encoder = AudioEncoder("wav")
    assert encoder.encode(tone(0.1)).startswith(wav_header())
    assert not encoder.encode(tone(0.1)).startswith(b"RIFF")
    assert encoder.finish() == b""


def test_an_mp3_begins_without_an_empty_frame() -> None:
    encoder = AudioEncoder("mp3")
    audio = encoder.encode(tone(1.0))
    assert audio[:2] == b"\xff\xf3"
    assert any(audio[4:192])


def test_resampling_preserves_length_pitch_and_loudness() -> None:
    rate_hz = 22_050
    time_s = np.arange(3 * rate_hz + 17) / rate_hz
    source = (np.sin(2 * np.pi * 1000 * time_s) * 8000).astype(np.int16)
    made = resample(source, rate_hz)
    assert len(made) == round(len(source) * RATE_HZ / rate_hz)
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(made)) / RATE_HZ) * 8000
    middle = slice(2000, -2000)
    assert np.abs(made[middle] - expected[middle]).max() < 80
