"""The watermark of images: a faint periodic pattern of luminance that survives scaling, cropping and recompression.

A tile of 128 x 128 pixels is repeated over the image. It is a sum of waves of 5 to 16 pixels. A quarter of them
belong to the synchronization pattern, which is the same in every installation: correlating with it gives scale and
position. The others carry 48 bits, as the signs of an error-correcting code; which wave carries which sign, and its
phase, depend on the operator's key.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from minitoolai.core.marks import CODE_BITS, Watermark
from minitoolai.engines.marks.convolution import SIGNS_PER_BIT, decode, encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

TILE = 128
_SHORTEST_PX, _LONGEST_PX = 5.3, 16.0
_MAX_K = int(TILE / _SHORTEST_PX)
_SYNC_SHARE = 0.25
#: Standard deviation of the pattern in grey levels, on flat and on busy parts of an image.
_LEAST_GAIN, _MOST_GAIN, _GAIN_PER_LEVEL = 2.4, 3.15, 0.06
_BLOCK = 16
#: How much the position of the tile depends on the bits, compared with the synchronization pattern.
_DATA_WEIGHT = 0.5
#: Bounds of the strength of one wave, compared with the mean.
_WEAKEST, _STRONGEST = 0.6, 1.8
#: Fine structure is the difference to the pixels at this distance; it keeps all waves of the pattern.
_REACH = 3
#: Positions of marks that are left out at most.
_MAX_MARKED = 200


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
    """Return for each wave the number of its sign (-1: synchronization), and the phase of a positive one."""
    waves = _waves()
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(b"image" + key).digest(), "big"))
    places = random.permutation(np.flatnonzero(~waves.is_sync))
    bits = np.full(len(waves.ky), -1)
    bits[places] = np.arange(len(places)) % (CODE_BITS * SIGNS_PER_BIT)
    return bits, random.uniform(0, 2 * np.pi, len(waves.ky))


def _wanted(mark: Watermark) -> NDArray[Any]:
    """Return the directions of all waves in this mark, with the tile at the origin."""
    waves = _waves()
    bits, phase = _carriers(mark.key)
    sign = encode(mark.code, CODE_BITS).reshape(-1)
    wanted: NDArray[Any] = np.where(waves.is_sync, np.exp(1j * waves.sync_phase), sign[bits] * np.exp(1j * phase))
    return wanted


def _fitted(pixels: NDArray[np.uint8], contrast: Floats, mark: Watermark) -> NDArray[Any]:
    """Return the waves of the tile as they fit this image best.

    The image itself disturbs the mark. So the tile is placed where the image happens to agree with it most, which is
    worth four standard deviations, and waves are stronger where the image would otherwise decide their phase.
    """
    waves = _waves()
    host, wanted = _host(pixels, contrast), _wanted(mark)
    phases = host / (np.abs(host) + 1e-9)
    agreement = _surface(phases * wanted.conj() * np.where(waves.is_sync, 1, _DATA_WEIGHT))
    # Where a mark is already, as in an image that is edited, a second one would cover it.
    for row, column in np.argwhere(_correlate(phases) > _MIN_SYNC)[:_MAX_MARKED]:
        agreement[_around(row, column)] = -np.inf
    row, column = np.unravel_index(int(agreement.argmax()), agreement.shape)
    turned = wanted * _turn(-int(row), -int(column))
    need = (phases * turned.conj()).imag ** 2 / (np.abs(host) + 0.1 * np.abs(host).mean() + 1e-9)
    strength = np.clip(need / (need.mean() + 1e-9), _WEAKEST, _STRONGEST)
    fitted: NDArray[Any] = turned * strength
    return fitted


def _host(pixels: NDArray[np.uint8], contrast: Floats) -> NDArray[Any]:
    """Return the waves of the image itself, as a detector sees them: fine structure only, at even contrast."""
    height, width = pixels.shape[:2]
    down, across = -(-height // TILE), -(-width // TILE)
    green = np.zeros((down * TILE + 2 * _REACH, across * TILE + 2 * _REACH), np.int16)
    green[_REACH : _REACH + height, _REACH : _REACH + width] = pixels[:, :, 1]
    fine = 4 * green[_REACH:-_REACH, _REACH:-_REACH]
    fine -= green[: -2 * _REACH, _REACH:-_REACH]
    fine -= green[2 * _REACH :, _REACH:-_REACH]
    fine -= green[_REACH:-_REACH, : -2 * _REACH]
    fine -= green[_REACH:-_REACH, 2 * _REACH :]
    # At the edges there is nothing to compare with.
    fine[:_REACH] = fine[max(height - _REACH, 0) :] = 0
    fine[:, :_REACH] = fine[:, max(width - _REACH, 0) :] = 0
    per_tile = TILE // _BLOCK
    even = np.zeros((down * per_tile, across * per_tile), np.float32)
    even[: contrast.shape[0], : contrast.shape[1]] = 1 / (contrast + 1)
    folded = np.zeros((TILE, TILE), np.float32)
    for top in range(down):
        factors = np.repeat(even[top * per_tile : (top + 1) * per_tile], _BLOCK, axis=1).repeat(_BLOCK, axis=0)
        strip = fine[top * TILE : (top + 1) * TILE] * factors
        folded += strip.reshape(TILE, across, TILE).sum(axis=1)
    waves = _waves()
    spectrum: NDArray[Any] = np.fft.rfft2(folded)[waves.ky, waves.kx]
    return spectrum


def _turn(row: int, column: int) -> NDArray[Any]:
    """Return the factors that move the waves of a tile by so many pixels up and to the left."""
    waves = _waves()
    turned: NDArray[Any] = np.exp(2j * np.pi * (waves.ky * row + waves.kx * column) / TILE)
    return turned


def _around(row: int, column: int) -> tuple[NDArray[Any], ...]:
    """Return the index of the positions that a mark at this one covers."""
    near = np.arange(-6, 7)
    return np.ix_((row + near) % TILE, (column + near) % TILE)


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
    contrast = _contrast(pixels)
    gains = np.clip(_LEAST_GAIN + _GAIN_PER_LEVEL * contrast, _LEAST_GAIN, _MOST_GAIN)
    return _add(pixels, _tile(_fitted(pixels, contrast, mark)), gains)


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


def _contrast(pixels: NDArray[np.uint8]) -> Floats:
    """Return the standard deviation of the green channel in each block of 16 x 16 pixels."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    step = _BLOCK // 4
    sample = pixels[::4, ::4, 1].astype(np.float32)
    sample = np.pad(sample, ((0, rows * step - sample.shape[0]), (0, columns * step - sample.shape[1])), mode="edge")
    deviation: Floats = sample.reshape(rows, step, columns, step).std(axis=(1, 3))
    return deviation


# ── detection ─────────────────────────────────────────────────────────────────────────────────────────────────

#: The scale is searched on a square of this many pixels in the middle of the image.
_WINDOW = 512
_SMALLEST_SCALE, _LARGEST_SCALE = 0.42, 2.2
#: Peak of the correlation with the synchronization pattern, in standard deviations, over all scales and positions.
_MIN_SYNC = 6.3
#: For a scale that is tried because it is common.
_COMMON_SCALES = (1.0, 0.5, 0.75, 2.0, 1.5, 1.25, 0.8, 2 / 3, 0.625, 1.1, 0.9)
#: Agreement of the waves with the best code, in standard deviations. Noise, as a wrong key sees it, gives 7.2 on
#: average. It exceeds 7.8 once in 500 times, and 8.1 once in 15,000 times; of those the check bits refuse nearly all.
_MIN_AGREEMENT, _MIN_AGREEMENT_IF_FAINT = 7.8, 8.1
#: How many scales and positions are tried if the synchronization pattern is too faint.
_FAINT_SCALES, _FAINT_PLACES = 4, 3
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
    tried = [(float(_sync(middle, scale).max()), scale) for scale in scales or _COMMON_SCALES]
    if max(tried)[0] < _MIN_SYNC + 2 and scales is None:
        scale = _SMALLEST_SCALE
        while scale < _LARGEST_SCALE:
            tried.append((float(_sync(middle, scale).max()), scale))
            scale *= 1 + _step(middle, scale)
    tried.sort(reverse=True)
    marks: list[Detected] = []
    if tried[0][0] >= _MIN_SYNC:
        marks = _read_marks(plane, tried[0][1], keys)
    if all(mark.code is None for mark in marks):
        marks += _read_faint(plane, [scale for _, scale in tried[:_FAINT_SCALES]], keys)
    return marks


def _refine(plane: Floats, scale: float) -> float:
    """Return the scale near this one that fits the whole image best."""
    span = _step(_middle(plane), scale) * 0.6
    for _ in range(3):
        tried = [scale * (1 + span * step) for step in (-1, -0.5, 0, 0.5, 1)]
        scale = max(tried, key=lambda each: float(_sync(plane, each).max()))
        span /= 2.2
    return scale


def _read_marks(plane: Floats, scale: float, keys: Sequence[bytes]) -> list[Detected]:
    """Read every mark at about this scale."""
    scale = _refine(plane, scale)
    spectrum = _spectrum(plane, scale)
    marks: list[Detected] = []
    places: list[tuple[int, int]] = []
    for _ in range(_MAX_MARKS):
        surface = _correlate(spectrum)
        for place in places:
            surface[_around(*place)] = 0
        row, column = (int(index) for index in np.unravel_index(int(surface.argmax()), surface.shape))
        sync = float(surface[row, column])
        if sync < _MIN_SYNC:
            break
        places.append((row, column))
        marks.append(_decode(spectrum, row, column, Detected(scale, sync), keys))
        spectrum = _without(spectrum, row, column, marks[-1])
    return marks


def _read_faint(plane: Floats, scales: Sequence[float], keys: Sequence[bytes]) -> list[Detected]:
    """Read a mark with a synchronization pattern that is too faint. Accept its bits only if the code fits well."""
    for scale in map(functools.partial(_refine, plane), scales):
        spectrum = _spectrum(plane, scale)
        surface = _correlate(spectrum)
        for _ in range(_FAINT_PLACES):
            row, column = (int(index) for index in np.unravel_index(int(surface.argmax()), surface.shape))
            mark = _decode(spectrum, row, column, Detected(scale, float(surface[row, column])), keys)
            if mark.agreement >= _MIN_AGREEMENT_IF_FAINT:
                return [mark]
            surface[_around(row, column)] = 0
    return []


def _without(spectrum: NDArray[Any], row: int, column: int, mark: Detected) -> NDArray[Any]:
    """Return the phases without those of a mark that was found, so that a second mark below it can be read."""
    waves = _waves()
    known = waves.is_sync if mark.key is None else np.ones(len(waves.ky), bool)
    phase = waves.sync_phase.copy()
    if mark.key is not None and mark.code is not None:
        bits, bit_phase = _carriers(mark.key)
        sign = np.where(encode(mark.code, CODE_BITS).reshape(-1) > 0, 0, np.pi)
        phase = np.where(waves.is_sync, phase, bit_phase + sign[bits])
    wave = np.exp(1j * phase) * _turn(-row, -column) * known
    rest = spectrum - wave * (spectrum * wave.conj()).real[known].mean()
    phases: NDArray[Any] = rest / (np.abs(rest) + 1e-9)
    return phases


def _decode(spectrum: NDArray[Any], row: int, column: int, found: Detected, keys: Sequence[bytes]) -> Detected:
    turned = spectrum * _turn(row, column)
    best = found
    weight = _weights(turned)
    for key in keys:
        bits, phase = _carriers(key)
        is_bit = bits >= 0
        values = (turned * np.exp(-1j * phase)).real[is_bit] * weight[is_bit]
        sums = np.bincount(bits[is_bit], values, CODE_BITS * SIGNS_PER_BIT).astype(np.float32)
        code, total = decode(sums.reshape(CODE_BITS, SIGNS_PER_BIT))
        agreement = total / float(np.sqrt((sums**2).sum()) + 1e-9)
        if agreement >= _MIN_AGREEMENT and agreement > best.agreement:
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


def _step(plane: Floats, scale: float) -> float:
    """Return how much larger the next scale to try may be: the shortest wave may drift by half a period."""
    side: int = max(plane.shape)
    return 0.5 * TILE * scale / (_MAX_K * side)


def _middle(plane: Floats) -> Floats:
    top, left = max(0, (plane.shape[0] - _WINDOW) // 2), max(0, (plane.shape[1] - _WINDOW) // 2)
    return np.ascontiguousarray(plane[top : top + _WINDOW, left : left + _WINDOW])


def _whiten(grey: Floats) -> Floats:
    """Return the fine structure, divided by its local strength, so that edges do not drown the mark."""
    fine = grey - _box(grey, 4)
    return (fine / (np.sqrt(np.maximum(_box(fine * fine, 6), 0)) + 1.0)).astype(np.float32)


def _box(plane: Floats, radius: int) -> Floats:
    """Return the mean of a square around each pixel."""
    size = 2 * radius + 1
    for axis in (0, 1):
        width = [(0, 0), (0, 0)]
        width[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(plane, width, mode="edge"), axis=axis, dtype=np.float32)
        ahead = total[size:] if axis == 0 else total[:, size:]
        behind = total[:-size] if axis == 0 else total[:, :-size]
        plane = (ahead - behind) / np.float32(size)
    return plane


def _spectrum(plane: Floats, scale: float) -> NDArray[Any]:
    """Return the phases of all waves at this scale: a Fourier transform at exactly their frequencies."""
    waves = _waves()
    ky, kx = waves.ky, waves.kx
    wave = (np.arange(_MAX_K + 1)[:, None] * (2 * np.pi / (TILE * scale))).astype(np.float32)
    height, width = plane.shape
    angle = wave * np.arange(max(height, width), dtype=np.float32)
    turns = np.vstack([np.cos(angle), np.sin(angle)])
    full = (turns[:, :height] @ plane) @ turns[:, :width].T
    size = _MAX_K + 1
    cc, cs, sc, ss = full[:size, :size], full[:size, size:], full[size:, :size], full[size:, size:]
    rows = np.abs(ky)
    positive = ky >= 0
    values = np.where(positive, cc[rows, kx] - ss[rows, kx], cc[rows, kx] + ss[rows, kx]) - 1j * np.where(
        positive, cs[rows, kx] + sc[rows, kx], cs[rows, kx] - sc[rows, kx]
    )
    phases: NDArray[Any] = values / (np.abs(values) + 1e-9)
    return phases


def _correlate(phases: NDArray[Any]) -> Floats:
    """Return the agreement with the synchronization pattern for each position of the tile, in standard deviations."""
    waves = _waves()
    return _surface(phases * np.exp(-1j * waves.sync_phase) * waves.is_sync)


def _surface(agreement: NDArray[Any]) -> Floats:
    """Return the sum of the agreement of all waves for each position of the tile, in standard deviations."""
    waves = _waves()
    placed = np.zeros((TILE, _MAX_K + 1), np.complex64)
    placed[waves.ky, waves.kx] = agreement
    # Column 0, like all others, has only one of each pair of conjugates.
    placed[:, 0] *= 2
    surface: NDArray[Any] = np.fft.irfft(np.fft.ifft(placed, axis=0), TILE, axis=1)
    deviation = np.sqrt(2 * (np.abs(agreement) ** 2).sum()) + 1e-9
    scaled: Floats = (surface * (TILE * TILE / deviation)).astype(np.float32, copy=False)
    return scaled


def _sync(plane: Floats, scale: float) -> Floats:
    return _correlate(_spectrum(plane, scale))
