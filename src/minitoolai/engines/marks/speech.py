"""The watermark of speech: the loudness of small areas of time and frequency is raised or lowered by 1.2 decibels.

Sound is cut into frames of 21 ms. In each, bands of 47 Hz between 300 and 4,000 Hz are made louder or
quieter by a pattern that repeats after 96 frames. Four in ten areas form a pattern that is the same in every
installation and gives the position. The others form the operator's own pattern, and how far that is shifted in time
and frequency says the day. A few seconds of speech have no room for more.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from minitoolai.core.marks import SpeechWatermark

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ = 24_000
_FRAME = 512
#: How many frames are marked in one step.
_PIECE = 96
_PERIOD = 96
_FIRST_BIN, _BANDS = 7, 78
_SYNC_SHARE = 0.4
_GAIN_DB = 1.2
#: The change fades in and out within each frame, so that no frame ends with a step.
_FADE_SAMPLES = 96
_FADE = np.sin(np.pi / 2 * (np.arange(_FADE_SAMPLES) + 0.5) / _FADE_SAMPLES) ** 2
_FADE_IN, _FADE_OUT = _FADE.astype(np.float32), _FADE[::-1].astype(np.float32)
#: Days that can be distinguished; 20 years from 2026 on.
DAYS = _PERIOD * _BANDS
#: In standard deviations. Noise stays below 4.5 over all positions, and below 5 over all days. A fainter pattern is
#: enough if the operator's own is clear too.
_MIN_SYNC, _MIN_SYNC_OF_OURS, _MIN_KEY = 5.2, 3.8, 5.5
#: An area counts if it is this loud, relative to the loudest (power).
_MIN_POWER = 3e-6
#: The detector compares an area with this many on both sides in frequency: the start of a sound changes all of them.
_NEIGHBOURS = 4


class DetectedSpeech(msgspec.Struct, frozen=True):
    """A mark that was found: the key and the day if it is ours, and how clear it is."""

    sync: float
    key: bytes | None = None
    day: int | None = None
    clearness: float = 0.0


@lru_cache(maxsize=1)
def _sync() -> tuple[NDArray[Any], NDArray[Any]]:
    """Return which areas of the pattern belong to the synchronization, and their signs (0 elsewhere)."""
    random = np.random.default_rng(20261203)
    is_sync = random.random((_PERIOD, _BANDS)) < _SYNC_SHARE
    return is_sync, random.choice([-1.0, 1.0], (_PERIOD, _BANDS)) * is_sync


@lru_cache(maxsize=32)
def _own(key: bytes) -> NDArray[Any]:
    """Return the operator's own pattern."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(b"speech" + key).digest(), "big"))
    return random.choice([-1.0, 1.0], (_PERIOD, _BANDS))


@lru_cache(maxsize=4)
def _changes_of(mark: SpeechWatermark) -> NDArray[np.float32]:
    """Return the factors of a period and a piece, each twice: for the real and the imaginary part."""
    is_sync, sync_sign = _sync()
    shift = divmod(mark.day % DAYS, _BANDS)
    pattern = np.where(is_sync, sync_sign, np.roll(_own(mark.key), shift, (0, 1)))
    factors = np.repeat(10 ** (pattern * _GAIN_DB / 20) - 1, 2, axis=1).astype(np.float32)
    return np.concatenate([factors, factors[:_PIECE]])


class _Buffers(threading.local):
    """Arrays for one piece, one set for each thread.

    They hold nothing between two pieces. The system takes longer to provide fresh arrays than the arithmetic takes.
    """

    def __init__(self) -> None:
        # Bins outside the bands stay 0.
        self.change = np.zeros((_PIECE, _FRAME // 2 + 1), np.complex64)
        self.spectra: NDArray[Any] = np.empty_like(self.change)
        self.sound = np.empty((_PIECE, _FRAME), np.float32)
        self.delta: NDArray[Any] = np.empty_like(self.sound)


_BUFFERS = _Buffers()


class SpeechWatermarker:
    """Marks one stream of samples, block by block. The output lags by less than a frame and has the same length.

    A second of sound takes about 0.14 ms, in single precision.
    """

    def __init__(self, mark: SpeechWatermark) -> None:
        self._factors = _changes_of(mark)
        self._frames = 0
        self._pending = np.zeros(0, np.int16)

    def process(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return the marked samples that are complete."""
        samples = np.concatenate([self._pending, samples])
        count = len(samples) // _FRAME
        self._pending = samples[count * _FRAME :]
        marked = np.empty((count, _FRAME), np.int16)
        frames = samples[: count * _FRAME].reshape(count, _FRAME)
        for at in range(0, count, _PIECE):
            self._mark(frames[at : at + _PIECE], marked[at : at + _PIECE])
        return marked.reshape(-1)

    def _mark(self, frames: NDArray[np.int16], marked: NDArray[np.int16]) -> None:
        count = len(frames)
        change, spectra = _BUFFERS.change[:count], _BUFFERS.spectra[:count]
        sound, delta = _BUFFERS.sound[:count], _BUFFERS.delta[:count]
        sound[:] = frames
        np.fft.rfft(sound, axis=1, out=spectra)
        factors = self._factors[self._frames % _PERIOD :][:count]
        np.multiply(_bands(spectra), factors, out=_bands(change))
        np.fft.irfft(change, _FRAME, axis=1, out=delta)
        delta[:, :_FADE_SAMPLES] *= _FADE_IN
        delta[:, -_FADE_SAMPLES:] *= _FADE_OUT
        sound += delta
        np.rint(sound, out=sound)
        np.clip(sound, -32768, 32767, out=sound)
        marked[:] = sound
        self._frames += count

    def finish(self) -> NDArray[np.int16]:
        """Return the remaining samples."""
        left = len(self._pending)
        return self.process(np.zeros(-left % _FRAME, np.int16))[:left]


def _bands(spectra: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Return the real and imaginary parts of the marked bands, side by side."""
    return spectra.view(np.float32)[:, 2 * _FIRST_BIN : 2 * (_FIRST_BIN + _BANDS)]


def detect_speech(samples: NDArray[np.float32], keys: Sequence[bytes]) -> DetectedSpeech | None:
    """Return the mark in samples at 24 kHz, or None. A mark without a key belongs to another operator."""
    tried = {offset: _aligned(samples, offset) for offset in range(0, _FRAME, _FRAME // 8)}
    for step in (_FRAME // 16, _FRAME // 32, _FRAME // 64):
        middle = max(tried, key=lambda offset: tried[offset][0])
        for offset in ((middle - step) % _FRAME, (middle + step) % _FRAME):
            tried[offset] = _aligned(samples, offset)
    best, folded = max(tried.values(), key=lambda each: each[0])
    if best < _MIN_SYNC_OF_OURS:
        return None
    found = DetectedSpeech(best)
    rest = np.where(_sync()[0], 0.0, folded)
    for key in keys:
        surface = _correlate(rest, _own(key))
        clearness = float(surface.max() / (surface.std() + 1e-9))
        if clearness >= _MIN_KEY and clearness > found.clearness:
            row, column = np.unravel_index(int(surface.argmax()), surface.shape)
            found = DetectedSpeech(best, key, int(row) * _BANDS + int(column), clearness)
    return found if found.key is not None or best >= _MIN_SYNC else None


def _aligned(samples: NDArray[np.float32], offset: int) -> tuple[float, NDArray[Any]]:
    """Return how clear the synchronization pattern is if frames begin at this offset, and the areas of one period."""
    levels = _fold(_changes(samples[offset:]))
    surface = _correlate(levels, _sync()[1])
    # Shifts in frequency never occur, so they show the noise.
    clearness = surface[:, 0] / (surface[:, 8:-8].std() + 1e-9)
    return float(clearness.max()), np.roll(levels, -int(clearness.argmax()), 0)


def _changes(samples: NDArray[np.float32]) -> NDArray[Any]:
    """Return how much louder each area is than those before and after it, in dB, filtered for correlation."""
    if len(samples) < _FRAME * 8:
        return np.zeros((1, _BANDS))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_FRAME]
    # No window, like the marker: each area is then changed by exactly its factor.
    power = np.abs(np.fft.rfft(frames, axis=1)[:, _FIRST_BIN : _FIRST_BIN + _BANDS]) ** 2
    peak = power.max() + 1e-20
    loud = power > peak * _MIN_POWER
    change = np.clip(_second_difference(10 * np.log10(power + peak * 1e-8)), -12, 12) * loud
    change = np.clip((change - _smoothed(change)) * loud, -6, 6)
    return _second_difference(change)


def _smoothed(change: NDArray[Any]) -> NDArray[Any]:
    """Return the mean of each area and its neighbours in frequency."""
    size = 2 * _NEIGHBOURS + 1
    padded = np.pad(change, ((0, 0), (_NEIGHBOURS, _NEIGHBOURS)), mode="edge")
    mean: NDArray[Any] = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1).mean(axis=2)
    return mean


def _second_difference(level: NDArray[Any]) -> NDArray[Any]:
    padded = np.pad(level, ((1, 1), (0, 0)), mode="edge")
    difference: NDArray[Any] = level - (padded[:-2] + padded[2:]) / 2
    return difference


def _fold(levels: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of all repetitions of the pattern."""
    padded = np.pad(levels, ((0, -len(levels) % _PERIOD), (0, 0)))
    folded: NDArray[Any] = padded.reshape(-1, _PERIOD, _BANDS).sum(axis=0)
    return folded


def _correlate(levels: NDArray[Any], pattern: NDArray[Any]) -> NDArray[Any]:
    """Return the agreement with the pattern for each shift in time and frequency."""
    surface: NDArray[Any] = np.fft.ifft2(np.fft.fft2(levels) * np.fft.fft2(pattern).conj()).real
    return surface
