"""The watermark of images: a faint periodic pattern of luminance that survives scaling, cropping and recompression.

A tile of 128 x 128 pixels is repeated over the image. It is a sum of waves of 5 to 16 pixels. Four in ten belong to the
synchronization pattern, which is the same in every installation: correlating with it gives scale and position. The
others carry 48 bits; which wave belongs to which bit, and its phase, depend on the operator's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from minitoolai.core.marks import CODE_BITS, Watermark

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

TILE = 128
_SHORTEST_PX, _LONGEST_PX = 5.3, 16.0
_MAX_K = int(TILE / _SHORTEST_PX)
_SYNC_SHARE = 0.4
#: Standard deviation of the pattern in grey levels, on flat and on busy parts of an image.
_LEAST_GAIN, _MOST_GAIN, _GAIN_PER_LEVEL = 2.4, 3.1, 0.06
_BLOCK = 16


class _Waves(msgspec.Struct, frozen=True):
    """Wave numbers of the tile in one half-plane, and the phases of the synchronization pattern."""

    ky: NDArray[Any]
    kx: NDArray[Any]
    is_sync: NDArray[Any]
    sync_phase: NDArray[Any]


@lru_cache(maxsize=1)
def _waves() -> _Waves:
    ky, kx = np.mgrid[-_MAX_K : _MAX_K + 1, 0 : _MAX_K + 1]
    length = np.hypot(ky, kx)
    inside = (length >= TILE / _LONGEST_PX) & (length <= TILE / _SHORTEST_PX) & ((kx > 0) | (ky > 0))
    ky, kx = ky[inside], kx[inside]
    random = np.random.default_rng(20261202)
    order = random.permutation(len(ky))
    is_sync = np.zeros(len(ky), bool)
    is_sync[order[: int(_SYNC_SHARE * len(ky))]] = True
    return _Waves(ky, kx, is_sync, random.uniform(0, 2 * np.pi, len(ky)))


@lru_cache(maxsize=32)
def _carriers(key: bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return for each wave the number of its bit (-1: synchronization) and the phase that means a one."""
    waves = _waves()
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(b"image" + key).digest(), "big"))
    places = random.permutation(np.flatnonzero(~waves.is_sync))
    bits = np.full(len(waves.ky), -1)
    bits[places] = np.arange(len(places)) % CODE_BITS
    return bits, random.uniform(0, 2 * np.pi, len(waves.ky))


def _wanted(mark: Watermark) -> NDArray[Any]:
    """Return the phases of all waves in this mark, with the tile at a position that differs from image to image.

    Without that, the marks of an image that is edited twice would lie on top of each other.
    """
    waves = _waves()
    bits, phase = _carriers(mark.key)
    sign = np.array([1 if mark.code >> bit & 1 else -1 for bit in range(CODE_BITS)])
    wanted = np.where(waves.is_sync, np.exp(1j * waves.sync_phase), sign[bits] * np.exp(1j * phase))
    shift = hashlib.sha256(mark.key + mark.code.to_bytes(8, "big")).digest()
    row, column = shift[0] % TILE, shift[1] % TILE
    turned: NDArray[Any] = wanted * np.exp(-2j * np.pi * (waves.ky * row + waves.kx * column) / TILE)
    return turned


def _tile(coefficients: NDArray[Any]) -> Floats:
    """Return the tile with these waves and standard deviation 1."""
    waves = _waves()
    spectrum = np.zeros((TILE, TILE), np.complex64)
    spectrum[waves.ky, waves.kx] = coefficients
    spectrum[-waves.ky, -waves.kx] = coefficients.conj()
    tile = np.fft.ifft2(spectrum).real
    clipped: Floats = np.clip(tile / tile.std(), -2.6, 2.6).astype(np.float32)
    return clipped


def embed(pixels: NDArray[np.uint8], mark: Watermark) -> NDArray[np.uint8]:
    """Return a copy of RGB pixels with the mark, which is stronger where the image is busy."""
    return _add(pixels, _tile(_wanted(mark)), _gains(pixels))


def _add(pixels: NDArray[np.uint8], tile: Floats, gain: Floats) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    wide = np.tile(tile, (1, -(-width // TILE)))[:, :width]
    marked = np.empty_like(pixels)
    for top in range(0, height, TILE):
        strip = pixels[top : top + TILE]
        rows = len(strip)
        first = top // _BLOCK
        strength = np.repeat(gain[first : first + TILE // _BLOCK], _BLOCK, axis=0)[:rows]
        delta = np.rint(wide[:rows] * np.repeat(strength, _BLOCK, axis=1)[:, :width]).astype(np.int16)
        total = strip + delta[:, :, None]
        np.clip(total, 0, 255, out=total)
        marked[top : top + rows] = total
    return marked


def _gains(pixels: NDArray[np.uint8]) -> Floats:
    """Return the strength for each block of 16 x 16 pixels, from the contrast of its green channel."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    step = _BLOCK // 4
    sample = pixels[::4, ::4, 1].astype(np.float32)
    sample = np.pad(sample, ((0, rows * step - sample.shape[0]), (0, columns * step - sample.shape[1])), mode="edge")
    deviation = sample.reshape(rows, step, columns, step).std(axis=(1, 3))
    gains: Floats = np.clip(_LEAST_GAIN + _GAIN_PER_LEVEL * deviation, _LEAST_GAIN, _MOST_GAIN)
    return gains


# ── detection ─────────────────────────────────────────────────────────────────────────────────────────────────

#: The scale is searched on a square of this many pixels in the middle of the image.
_WINDOW = 512
_SMALLEST_SCALE, _LARGEST_SCALE, _SCALE_STEP = 0.42, 2.2, 0.005
#: Peak of the correlation with the synchronization pattern, in standard deviations, over all scales and positions.
_MIN_SYNC = 6.3
#: For a scale that is tried because it is common.
_COMMON_SCALES = (1.0, 0.5, 0.75, 2.0, 1.5, 1.25, 0.8, 2 / 3, 0.625, 1.1, 0.9)
#: Mean agreement of the waves with their bits. Noise gives 0.27 on average, a wrong key the same.
_MIN_AGREEMENT = 0.36
#: Longer sides are scaled down first.
_MAX_SIDE = 1536
#: How many marks to look for.
_MAX_MARKS = 3
#: Waves are weighted by their length in so many bands.
_BANDS = 6


class Detected(msgspec.Struct, frozen=True):
    """A mark that was found: its code if the key is ours, else None; the scale, and how clear it is."""

    scale: float
    sync: float
    key: bytes | None = None
    code: int | None = None
    agreement: float = 0.0


def detect(grey: Floats, keys: Sequence[bytes], *, scales: Iterable[float] | None = None) -> list[Detected]:
    """Return the marks in a luminance image of unknown scale and position, at most three.

    A mark without a code belongs to another operator, or is too damaged to read.
    """
    plane = _whiten(grey)
    middle = _middle(plane)
    best: tuple[float, float] | None = None
    for scale in scales if scales is not None else _COMMON_SCALES:
        sync = _sync(middle, scale).max()
        if best is None or sync > best[0]:
            best = sync, scale
    assert best is not None
    if best[0] < _MIN_SYNC + 2 and scales is None:
        count = int(np.log(_LARGEST_SCALE / _SMALLEST_SCALE) / np.log1p(_SCALE_STEP))
        for scale in _SMALLEST_SCALE * (1 + _SCALE_STEP) ** np.arange(count):
            sync = _sync(middle, scale).max()
            if sync > best[0]:
                best = sync, float(scale)
    if best[0] < _MIN_SYNC:
        return []
    return _read_marks(plane, best[1], keys)


def _read_marks(plane: Floats, scale: float, keys: Sequence[bytes]) -> list[Detected]:
    """Refine the scale on the whole image, then read every mark at it."""
    span = _SCALE_STEP * 0.6
    for _ in range(3):
        tried = [scale * (1 + span * step) for step in (-1, -0.5, 0, 0.5, 1)]
        scale = max(tried, key=lambda each: float(_sync(plane, each).max()))
        span /= 2.2
    spectrum = _spectrum(plane, scale)
    marks: list[Detected] = []
    places: list[tuple[int, int]] = []
    for _ in range(_MAX_MARKS):
        surface = _correlate(spectrum)
        for row, column in places:
            rows, columns = np.arange(row - 6, row + 7) % TILE, np.arange(column - 6, column + 7) % TILE
            surface[np.ix_(rows, columns)] = 0
        row, column = (int(index) for index in np.unravel_index(int(surface.argmax()), surface.shape))
        sync = float(surface[row, column])
        if sync < _MIN_SYNC:
            break
        places.append((row, column))
        marks.append(_decode(spectrum, row, column, Detected(scale, sync), keys))
        spectrum = _without(spectrum, row, column, marks[-1])
    return marks


def _without(spectrum: NDArray[Any], row: int, column: int, mark: Detected) -> NDArray[Any]:
    """Return the phases without those of a mark that was found, so that a second mark below it can be read."""
    waves = _waves()
    known = waves.is_sync if mark.key is None else np.ones(len(waves.ky), bool)
    phase = waves.sync_phase.copy()
    if mark.key is not None and mark.code is not None:
        bits, bit_phase = _carriers(mark.key)
        sign = np.array([0 if mark.code >> bit & 1 else np.pi for bit in range(CODE_BITS)])
        phase = np.where(waves.is_sync, phase, bit_phase + sign[bits])
    wave = np.exp(1j * phase - 2j * np.pi * (waves.ky * row + waves.kx * column) / TILE) * known
    rest = spectrum - wave * (spectrum * wave.conj()).real[known].mean()
    phases: NDArray[Any] = rest / (np.abs(rest) + 1e-9)
    return phases


def _decode(spectrum: NDArray[Any], row: int, column: int, found: Detected, keys: Sequence[bytes]) -> Detected:
    waves = _waves()
    turned = spectrum * np.exp(2j * np.pi * (waves.ky * row + waves.kx * column) / TILE)
    best = found
    weight = _weights(turned)
    for key in keys:
        bits, phase = _carriers(key)
        is_bit = bits >= 0
        values = (turned * np.exp(-1j * phase)).real[is_bit] * weight[is_bit]
        sums = np.bincount(bits[is_bit], values, CODE_BITS)
        counts = np.bincount(bits[is_bit], weight[is_bit], CODE_BITS)
        agreement = float(np.mean(np.abs(sums) / counts))
        if agreement >= _MIN_AGREEMENT and agreement > best.agreement:
            code = sum(1 << bit for bit in range(CODE_BITS) if sums[bit] > 0)
            best = Detected(found.scale, found.sync, key, code, agreement)
    return best


def _weights(turned: NDArray[Any]) -> NDArray[Any]:
    """Return how clear waves of each length are, judged by those of the synchronization pattern.

    The image itself is strongest in long waves, and compression removes short ones.
    """
    waves = _waves()
    length = np.hypot(waves.ky, waves.kx)
    band = ((length - length.min()) / (length.max() - length.min() + 1e-9) * _BANDS).astype(int)
    agreement = (turned * np.exp(-1j * waves.sync_phase)).real[waves.is_sync]
    counts = np.bincount(band[waves.is_sync], minlength=_BANDS)
    means = np.bincount(band[waves.is_sync], agreement, _BANDS) / np.maximum(counts, 1)
    weights: NDArray[Any] = np.maximum(means, 0.05)[band]
    return weights


def _middle(plane: Floats) -> Floats:
    top, left = max(0, (plane.shape[0] - _WINDOW) // 2), max(0, (plane.shape[1] - _WINDOW) // 2)
    return np.ascontiguousarray(plane[top : top + _WINDOW, left : left + _WINDOW])


def _whiten(grey: Floats) -> Floats:
    """Return the fine structure, divided by its local strength, so that edges do not drown the mark."""
    fine = grey - _box(grey, 4)
    return (fine / (np.sqrt(_box(fine * fine, 6)) + 1.0)).astype(np.float32)


def _box(plane: Floats, radius: int) -> Floats:
    """Return the mean of a square around each pixel."""
    size = 2 * radius + 1
    for axis in (0, 1):
        width = [(0, 0), (0, 0)]
        width[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(plane, width, mode="edge"), axis=axis, dtype=np.float64)
        ahead = total[size:] if axis == 0 else total[:, size:]
        behind = total[:-size] if axis == 0 else total[:, :-size]
        plane = ((ahead - behind) / size).astype(np.float32)
    return plane


def _spectrum(plane: Floats, scale: float) -> NDArray[Any]:
    """Return the phases of all waves at this scale: a Fourier transform at exactly their frequencies."""
    waves = _waves()
    period = TILE * scale
    height, width = plane.shape
    wave = np.arange(_MAX_K + 1)[:, None] * (2 * np.pi / period)
    down, across = wave * np.arange(height), wave * np.arange(width)
    half = np.vstack([np.cos(down), np.sin(down)]).astype(np.float32) @ plane
    full = half @ np.vstack([np.cos(across), np.sin(across)]).astype(np.float32).T
    size = _MAX_K + 1
    cc, cs, sc, ss = full[:size, :size], full[:size, size:], full[size:, :size], full[size:, size:]
    positive = (cc - ss) - 1j * (cs + sc)
    negative = (cc + ss) - 1j * (cs - sc)
    ky = np.abs(waves.ky)
    values = np.where(waves.ky >= 0, positive[ky, waves.kx], negative[ky, waves.kx])
    phases: NDArray[Any] = values / (np.abs(values) + 1e-9)
    return phases


def _correlate(spectrum: NDArray[Any]) -> NDArray[Any]:
    """Return the agreement with the synchronization pattern for each position of the tile, in standard deviations."""
    waves = _waves()
    sync = waves.is_sync
    placed = np.zeros((TILE, TILE), np.complex64)
    placed[waves.ky[sync], waves.kx[sync]] = (spectrum * np.exp(-1j * waves.sync_phase))[sync]
    surface: NDArray[Any] = np.fft.ifft2(placed).real
    scaled: NDArray[Any] = surface * (TILE * TILE / np.sqrt(sync.sum() / 2))
    return scaled


def _sync(plane: Floats, scale: float) -> NDArray[Any]:
    return _correlate(_spectrum(plane, scale))
