"""The watermark of speech: the loudness of small areas of time and frequency is raised or lowered by 1.5 decibels.

Sound is cut into overlapping frames of 21 ms. In each, bands of 47 Hz between 300 and 4,000 Hz are made louder or
quieter by a pattern that repeats after 96 frames. Four in ten areas form a pattern that is the same in every
installation and gives the position. The others form the operator's own pattern, and how far that is shifted in time
and frequency says the day. A few seconds of speech have no room for more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from minitoolai.core.marks import SpeechWatermark

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ = 24_000
_FRAME, _HOP = 512, 256
#: How many samples are marked at once.
_PIECE = 32 * _HOP
_PERIOD = 96
_FIRST_BIN, _BANDS = 7, 78
_SYNC_SHARE = 0.4
_GAIN_DB = 1.5
_WINDOW = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / _FRAME)).astype(np.float32)
#: Days that can be told apart; 20 years from 2026 on.
DAYS = _PERIOD * _BANDS
#: In standard deviations. Noise stays below 4.5 over all positions, and below 5 over all days.
_MIN_SYNC, _MIN_KEY = 5.2, 5.5
#: An area counts if it is this loud, relative to the loudest (power).
_MIN_POWER = 1e-5


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
def _gains(mark: SpeechWatermark) -> NDArray[np.float32]:
    is_sync, sync_sign = _sync()
    shift = divmod(mark.day % DAYS, _BANDS)
    pattern = np.where(is_sync, sync_sign, np.roll(_own(mark.key), shift, (0, 1)))
    gains = np.ones((_PERIOD, _FRAME // 2 + 1), np.float32)
    gains[:, _FIRST_BIN : _FIRST_BIN + _BANDS] = 10 ** (pattern * _GAIN_DB / 20)
    return gains


class SpeechWatermarker:
    """Marks one stream of samples, block by block. The output lags by one hop and has the same length."""

    def __init__(self, mark: SpeechWatermark) -> None:
        self._gains = _gains(mark)
        self._frames = 0
        self._pending = np.zeros(_HOP, np.float32)
        self._tail = np.zeros(_HOP, np.float32)
        self._received = self._sent = 0

    def process(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return the marked samples that are complete."""
        # Arrays of this size stay in the processor's cache; larger ones take four times as long.
        parts = [self._process(samples[at : at + _PIECE]) for at in range(0, len(samples), _PIECE)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)

    def _process(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        self._received += len(samples)
        self._pending = np.concatenate([self._pending, samples.astype(np.float32)])
        count = (len(self._pending) - _FRAME) // _HOP + 1
        if count <= 0:
            return np.zeros(0, np.int16)
        frames = np.lib.stride_tricks.sliding_window_view(self._pending, _FRAME)[::_HOP][:count]
        spectra = np.fft.rfft(frames * _WINDOW, axis=1)
        spectra *= self._gains[(self._frames + np.arange(count)) % _PERIOD]
        parts = np.fft.irfft(spectra, _FRAME, axis=1) * _WINDOW
        joined = parts[:, :_HOP].copy()
        joined[0] += self._tail
        joined[1:] += parts[:-1, _HOP:]
        self._tail = parts[-1, _HOP:].astype(np.float32)
        self._pending = self._pending[count * _HOP :]
        block = joined.reshape(-1)
        if self._frames == 0:
            # The first hop is the silence in front of the stream.
            block = block[_HOP:]
        self._frames += count
        block = block[: self._received - self._sent]
        self._sent += len(block)
        marked: NDArray[np.int16] = np.clip(np.rint(block), -32768, 32767).astype(np.int16)
        return marked

    def finish(self) -> NDArray[np.int16]:
        """Return the remaining samples."""
        left = self._received - self._sent
        block = self.process(np.zeros(2 * _FRAME, np.int16))
        return block[:left]


def detect_speech(samples: NDArray[np.float32], keys: Sequence[bytes]) -> DetectedSpeech | None:
    """Return the mark in samples at 24 kHz, or None. A mark without a key belongs to another operator."""
    best, folded = -1.0, np.zeros((_PERIOD, _BANDS))
    for offset in range(0, _HOP, _HOP // 4):
        levels = _fold(_changes(samples[offset:]))
        surface = _correlate(levels, _sync()[1])
        # Shifts in frequency never occur, so they tell the noise.
        clearness = surface[:, 0] / (surface[:, 8:-8].std() + 1e-9)
        if clearness.max() > best:
            best, folded = float(clearness.max()), np.roll(levels, -int(clearness.argmax()), 0)
    if best < _MIN_SYNC:
        return None
    found = DetectedSpeech(best)
    rest = np.where(_sync()[0], 0.0, folded)
    for key in keys:
        surface = _correlate(rest, _own(key))
        clearness = float(surface.max() / (surface.std() + 1e-9))
        if clearness >= _MIN_KEY and clearness > found.clearness:
            row, column = np.unravel_index(int(surface.argmax()), surface.shape)
            found = DetectedSpeech(best, key, int(row) * _BANDS + int(column), clearness)
    return found


def _changes(samples: NDArray[np.float32]) -> NDArray[Any]:
    """Return how much louder each area is than those before and after it, in dB, filtered for correlation."""
    if len(samples) < _FRAME * 8:
        return np.zeros((1, _BANDS))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_HOP]
    power = np.abs(np.fft.rfft(frames * _WINDOW, axis=1)[:, _FIRST_BIN : _FIRST_BIN + _BANDS]) ** 2
    peak = power.max() + 1e-20
    loud = power > peak * _MIN_POWER
    change = _second_difference(10 * np.log10(power + peak * 1e-8))
    return _second_difference(np.clip(change, -12, 12) * loud)


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
