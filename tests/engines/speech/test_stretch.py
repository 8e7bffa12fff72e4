"""Speech is stretched to an exact length at the same pitch, and resampled without loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minitoolai.engines.speech.stretch import RATE_HZ, base_speed, resample, retimed, stretched

TONE_HZ = 440


def tone(seconds: float = 1.0, rate_hz: int = RATE_HZ) -> Any:
    return np.round(8000 * np.sin(2 * np.pi * TONE_HZ * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.int16)


def pitch_hz(samples: Any) -> float:
    """Return the loudest frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE_HZ / len(samples))


@pytest.mark.parametrize(
    ("speed", "base"), [(0.25, 0.25), (0.35, 0.25), (0.36, 0.5), (0.7, 0.5), (0.72, 1.0), (1.0, 1.0), (4.0, 1.0)]
)
def test_the_model_speaks_slowly_by_itself(speed: float, base: float) -> None:
    assert base_speed(speed) == base


@pytest.mark.parametrize("length", [12_000, 23_999, 30_000, 60_000])
def test_a_stretched_tone_has_the_length_asked_for_and_its_pitch(length: int) -> None:
    result = stretched(tone(), length)
    assert len(result) == length
    assert pitch_hz(result) == pytest.approx(TONE_HZ, rel=0.02)


def test_the_same_length_and_silence_stay_as_they_are() -> None:
    assert stretched(tone(), RATE_HZ) is not None
    assert (stretched(tone(), RATE_HZ) == tone()).all()
    assert len(stretched(tone(0), 500)) == 0


@pytest.mark.parametrize(("speed", "pitch"), [(1.0, 1.5), (2.0, 0.5), (0.5, 1.25)])
def test_speed_and_pitch_are_independent(speed: float, pitch: float) -> None:
    result = retimed(tone(), speed, pitch)
    assert len(result) == round(RATE_HZ / speed)
    assert pitch_hz(result) == pytest.approx(TONE_HZ * pitch, rel=0.03)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 48_000])
def test_resampling_keeps_a_tone(rate_hz: int) -> None:
    result = resample(tone(rate_hz=rate_hz), rate_hz)
    assert len(result) == RATE_HZ
    middle = slice(2_000, -2_000)
    assert np.abs(result[middle].astype(int) - tone()[middle].astype(int)).max() <= 40
