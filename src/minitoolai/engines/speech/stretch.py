"""Change the pace and the pitch of speech, and its sample rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from minitoolai.engines.speech.encoding import Samples

RATE_HZ = 24_000
#: Frames of 30 ms that overlap by half, each shifted by up to 10 ms to where it fits the one before.
_FRAME, _HOP, _SEARCH = 720, 360, 240
#: The model speaks slowly by itself, and exactly so at these speeds. Other speeds are reached by stretching.
_SLOW_SPEEDS = (0.25, 0.5)
_RANGE = 1.42


def base_speed(speed: float) -> float:
    """Return the speed at which the model itself speaks, before stretching."""
    return next((base for base in _SLOW_SPEEDS if speed <= base * _RANGE), 1.0)


def retimed(samples: Samples, speed: float, pitch: float) -> Samples:
    """Return the samples `speed` times as fast and `pitch` times as high. The length is exact."""
    length = round(len(samples) / speed)
    if pitch != 1:
        samples = stretched(samples, round(length * pitch))
        return _fitted(resample(samples, round(RATE_HZ * pitch)), length)
    return stretched(samples, length)


def stretched(samples: Samples, length: int) -> Samples:
    """Return speech of this length at the same pitch, by overlapping frames that fit (WSOLA)."""
    import numpy as np

    if len(samples) == length or not len(samples):
        return samples
    ratio = len(samples) / max(1, length)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / _FRAME)).astype(np.float32)
    source = np.pad(samples.astype(np.float32), (_SEARCH + _HOP, 2 * _FRAME + _SEARCH))
    output = np.zeros(length + 2 * _FRAME, np.float32)
    at = _SEARCH
    for start in range(0, length + _HOP, _HOP):
        wanted = source[at + _HOP : at + _HOP + _FRAME]
        middle = min(round(start * ratio) + _SEARCH, len(source) - _FRAME - _SEARCH)
        at = (
            middle
            if start == 0
            else middle - _SEARCH + _best_shift(source[middle - _SEARCH : middle + _SEARCH + _FRAME], wanted)
        )
        output[start : start + _FRAME] += source[at : at + _FRAME] * window
    # The first half frame is silence that the first window fades in from.
    return np.clip(np.rint(output[_HOP : _HOP + length]), -32768, 32767).astype(np.int16)


def _best_shift(around: NDArray[np.float32], wanted: NDArray[np.float32]) -> int:
    """Return where in `around` a frame fits best. Compares every fourth sample, which is enough for a voice."""
    import numpy as np

    step = 4
    size = len(wanted)
    if len(wanted) < _FRAME or len(around) < size:
        return _SEARCH
    coarse, goal = around[::step], wanted[::step]
    fit = np.correlate(coarse, goal, "valid")
    energy = np.cumsum(np.concatenate([[0.0], coarse.astype(np.float64) ** 2]))
    loudness = np.sqrt(energy[len(goal) :] - energy[: len(energy) - len(goal)] + 1.0)
    return int(np.argmax(fit / loudness)) * step


def resample(samples: Samples, rate_hz: int) -> Samples:
    """Convert audio to 24 kHz through its spectrum, which loses nothing that 24 kHz can represent."""
    import numpy as np

    if rate_hz == RATE_HZ or not len(samples):
        return samples
    # A second of silence at the end prevents wrap-around; whole seconds give both rates an integer length.
    seconds = len(samples) // rate_hz + 2
    spectrum = np.fft.rfft(samples, seconds * rate_hz)
    bins = seconds * RATE_HZ // 2 + 1
    kept = np.zeros(bins, spectrum.dtype)
    kept[: min(bins, len(spectrum))] = spectrum[:bins]
    audio = np.fft.irfft(kept, seconds * RATE_HZ) * (RATE_HZ / rate_hz)
    length = round(len(samples) * RATE_HZ / rate_hz)
    return np.clip(np.rint(audio[:length]), -32768, 32767).astype(np.int16)


def _fitted(samples: Samples, length: int) -> Samples:
    import numpy as np

    return samples[:length] if len(samples) >= length else np.pad(samples, (0, length - len(samples)))
