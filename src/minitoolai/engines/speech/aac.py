"""Encode speech as AAC-LC in ADTS frames, 24 kHz mono, at a constant quality of about 64 kbit/s.

libsndfile has no AAC, and a library that has would triple the size of the installation. Speech needs little of the
format: long windows, three code books, no prediction, and scale factors that follow the loudness of each band.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = tuple[NDArray[np.int64], NDArray[np.int64]]

FRAME = 1024
_WINDOW = np.sin(np.pi / (2 * FRAME) * (np.arange(2 * FRAME) + 0.5))
_TWIDDLE = np.exp(-1j * np.pi * np.arange(2 * FRAME) / (2 * FRAME)) * _WINDOW
_PHASE = 2 * np.exp(-1j * np.pi * (FRAME + 1) * (np.arange(FRAME) + 0.5) / (2 * FRAME))
#: First line of each scale factor band of long windows at 24 kHz, and the end.
_BANDS = np.array(
    [
        0,
        4,
        8,
        12,
        16,
        20,
        24,
        28,
        32,
        36,
        40,
        44,
        52,
        60,
        68,
        76,
        84,
        92,
        100,
        108,
        116,
        124,
        136,
        148,
        160,
        172,
        188,
        204,
        220,
    ]
    + [240, 260, 284, 308, 336, 364, 396, 432, 468, 508, 552, 600, 652, 704, 768, 832, 896, 960, 1024]
)
_COUNT = len(_BANDS) - 1
_BAND_OF_LINE = np.repeat(np.arange(_COUNT), np.diff(_BANDS))
_BAND_OF_PAIR = _BAND_OF_LINE[::2]
#: A scale factor of 100 leaves the lines as they are.
_NEUTRAL = 100
_LARGEST_STEP = 20
#: The largest number in the loudest band of a frame, and how fast quieter bands get coarser.
_LARGEST, _SLOPE, _SMALLEST = 12.49, 0.35, 1.6
#: Bands this much quieter than the loudest one of the frame, or than full scale, are left out.
_MASKED, _SILENT = 1e-3, 12.0
#: The largest number in each book.
_LIMITS = {6: 4, 8: 7, 10: 12}


@cache
def _tables() -> tuple[Codes, dict[int, Codes]]:
    """Return the codes of scale factors and of pairs, each as numbers and lengths."""
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="ascii"))

    def codes(words: str) -> Codes:
        each = words.split()
        return np.array([int(code, 2) for code in each]), np.array([len(code) for code in each])

    return codes(data["scale_factors"]), {book: codes(data[f"book{book}"]) for book in _LIMITS}


class AacEncoder:
    """Encodes one stream. The output begins with a frame in which the first window fades in."""

    def __init__(self) -> None:
        self._before: NDArray[Any] = np.zeros(FRAME, np.int16)
        self._pending: NDArray[Any] = np.zeros(0, np.int16)

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        """Return the frames that are complete."""
        samples = np.concatenate([self._pending, samples])
        count = len(samples) // FRAME
        self._pending = samples[count * FRAME :]
        if not count:
            return b""
        blocks = np.concatenate([self._before, samples[: count * FRAME]]).reshape(-1, FRAME)
        self._before = blocks[-1]
        return _frames(np.concatenate([blocks[:-1], blocks[1:]], axis=1))

    def finish(self) -> bytes:
        """Return the last frames."""
        return self.encode(np.zeros(-len(self._pending) % FRAME + FRAME, np.int16))


def _frames(windows: NDArray[Any]) -> bytes:
    lines = (np.fft.fft(windows * _TWIDDLE, axis=1)[:, :FRAME] * _PHASE).real
    loudness = np.abs(lines)
    peaks = np.maximum.reduceat(loudness, _BANDS[:-1], axis=1)
    loudest = peaks.max(axis=1, keepdims=True)
    is_heard = peaks > np.maximum(loudest * _MASKED, _SILENT)
    factors = _scale_factors(peaks, loudest, is_heard)
    scale = 2.0 ** (-3 / 16 * (factors - _NEUTRAL))
    numbers = np.floor(loudness**0.75 * scale[:, _BAND_OF_LINE] + 0.4054).astype(np.int64)
    numbers *= is_heard[:, _BAND_OF_LINE]
    largest = np.maximum.reduceat(numbers, _BANDS[:-1], axis=1)
    books = np.select([largest == 0, largest <= _LIMITS[6], largest <= _LIMITS[8]], [0, 6, 8], 10)
    numbers *= np.where(lines < 0, -1, 1)
    return b"".join(_frame(*each) for each in zip(numbers, books, factors, strict=True))


def _scale_factors(peaks: NDArray[Any], loudest: NDArray[Any], is_heard: NDArray[Any]) -> NDArray[np.int64]:
    """Return the scale factor of each band. One that is not heard repeats the one before; steps are limited."""
    wanted = np.clip(_LARGEST * (peaks / np.maximum(loudest, 1)) ** _SLOPE, _SMALLEST, _LARGEST)
    exact = _NEUTRAL + 16 / 3 * np.log2(np.maximum(peaks, 1e-9) ** 0.75 / wanted)
    factors = np.where(is_heard, np.clip(np.ceil(exact), 1, 255), -1).astype(np.int64)
    # A higher factor is coarser and always allowed, so raise the lower one of two neighbours.
    for band in range(1, _COUNT):
        factors[:, band] = np.where(factors[:, band] < 0, factors[:, band - 1], factors[:, band])
        factors[:, band] = np.maximum(factors[:, band], factors[:, band - 1] - _LARGEST_STEP)
    for band in range(_COUNT - 2, -1, -1):
        factors[:, band] = np.maximum(factors[:, band], factors[:, band + 1] - _LARGEST_STEP)
    return np.clip(factors, 1, 255)


def _frame(numbers: NDArray[np.int64], books: NDArray[np.int64], factors: NDArray[np.int64]) -> bytes:
    scale_codes, pair_codes = _tables()
    coded = np.flatnonzero(books)
    bands = int(coded[-1]) + 1 if len(coded) else 0
    first = int(factors[coded[0]]) if len(coded) else _NEUTRAL
    # One channel (000), its number (0000), the first scale factor, long window, sine shape, bands, no prediction.
    values: list[Any] = [np.array([0, first, 0, bands, 0])]
    lengths: list[Any] = [np.array([7, 8, 4, 6, 1])]
    for book, length in _sections(books[:bands]):
        full, rest = divmod(length, 31)
        values.append(np.array([book, *[31] * full, rest]))
        lengths.append(np.array([4, *[5] * (full + 1)]))
    steps = np.diff(factors[coded], prepend=first) + _LARGEST_STEP
    values += [scale_codes[0][steps], np.zeros(1, np.int64)]
    # No pulses, no noise shaping, no gain control.
    lengths += [scale_codes[1][steps], np.full(1, 3)]
    value, size = _coded_pairs(numbers.reshape(-1, 2), books[_BAND_OF_PAIR], pair_codes)
    # The end of the block (111).
    payload = _packed(np.concatenate([*values, value, np.array([7])]), np.concatenate([*lengths, size, np.array([3])]))
    total = len(payload) + 7
    # ADTS: sync word, MPEG-4, no checksum, AAC-LC, 24 kHz (6), one channel, size, variable bit rate.
    header = 0xFFF1 << 40 | 1 << 38 | 6 << 34 | 1 << 30 | total << 13 | 0x7FF << 2
    return header.to_bytes(7, "big") + payload


def _coded_pairs(pairs: NDArray[np.int64], books: NDArray[np.int64], pair_codes: dict[int, Codes]) -> Codes:
    """Return the codes of all pairs, and their lengths; 0 where a band is left out."""
    value, size = np.zeros(len(pairs), np.int64), np.zeros(len(pairs), np.int64)
    for book, limit in _LIMITS.items():
        at = np.flatnonzero(books == book)
        chosen = pairs[at]
        if book == 6:
            index = (chosen[:, 0] + limit) * (2 * limit + 1) + chosen[:, 1] + limit
            value[at], size[at] = pair_codes[book][0][index], pair_codes[book][1][index]
            continue
        index = np.abs(chosen[:, 0]) * (limit + 1) + np.abs(chosen[:, 1])
        code, bits = pair_codes[book][0][index], pair_codes[book][1][index]
        for column in (0, 1):
            has_sign = chosen[:, column] != 0
            code = np.where(has_sign, code << 1 | (chosen[:, column] < 0), code)
            bits = bits + has_sign
        value[at], size[at] = code, bits
    return value, size


def _sections(books: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the runs of bands with the same book."""
    if not len(books):
        return []
    starts = np.flatnonzero(np.diff(books, prepend=-1))
    ends = np.append(starts[1:], len(books))
    return [(int(books[start]), int(end - start)) for start, end in zip(starts, ends, strict=True)]


def _packed(values: NDArray[np.int64], lengths: NDArray[np.int64]) -> bytes:
    """Return the bits of all values, the highest first, filled to a whole byte."""
    ends = np.cumsum(lengths)
    shifts = np.repeat(ends, lengths) - 1 - np.arange(ends[-1])
    return np.packbits((np.repeat(values, lengths) >> shifts & 1).astype(np.uint8)).tobytes()
