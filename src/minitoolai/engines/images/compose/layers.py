"""Cut a thing out of the white square that the model drew it on, and give it another colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

#: Differences from white, of 255, above which a pixel is the thing: at least, and at most, if the paper is not clean.
_FAINTEST, _INK = 9.0, 22.0
#: Close gaps in the outline up to twice this many pixels wide before filling, so that a white cat keeps its belly. The
#: wide one is used where the narrow one leaves the thing open: then the wide one covers this much more.
_NARROW, _WIDE, _LEAK = 3, 11, 1.25
#: A thing is pale if 70 of 100 of its pixels differ from white by less than this.
_PALE = 60.0
#: A recoloured thing is at least this saturated, unless the colour is a grey.
_SATURATION = 0.55
#: Hues within this many degrees of the main one are recoloured; a leaf on an apple is not.
_HUE_RANGE = 42.0


class Layer(NamedTuple):
    """A thing cut out: colours (h, w, 3) from 0 to 255, and opacity (h, w) from 0 to 1. Trimmed to the visible part."""

    pixels: Floats
    alpha: Floats


def cut_out(square: NDArray[np.uint8]) -> Layer:
    """Return the thing on a white square (S, S, 3) as a layer."""
    import numpy as np

    pixels = square.astype(np.float32)
    difference = 255 - pixels.min(axis=2)
    border = np.concatenate([difference[:3].ravel(), difference[-3:].ravel(), difference[:, :3].ravel()])
    ink = float(np.clip(np.percentile(border, 98) + 5, _FAINTEST, _INK))
    solid = _outline_filled(difference, difference > ink)
    inside = _eroded(solid, 2)
    strong = float(np.percentile(difference[inside], 60)) if inside.any() else ink
    solid = _without_smudges(solid, difference > max(2 * ink, min(strong / 2, _PALE)))
    inside = _eroded(solid, 2)
    # A pale edge is a mixture of the thing and the paper, so it is mostly transparent.
    edge = np.clip((difference - ink / 2) / (max(ink * 2, min(strong, 150.0)) - ink / 2), 0, 1) ** 1.3
    near = _dilated(solid, 2)
    alpha = np.where(inside, 1.0, np.where(near, edge, 0.0)).astype(np.float32)
    # Near the edge the colour is mixed with the paper.
    share = np.maximum(alpha, 0.25)[..., None]
    pixels = np.clip((pixels - 255 * (1 - share)) / share, 0, 255).astype(np.float32)
    return trimmed(Layer(pixels, alpha))


def _outline_filled(difference: Floats, inked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return all that is inside the outline of a thing, even if it is white there."""
    import numpy as np

    solid, wide = fill(_closed(inked, _NARROW)), fill(_closed(inked, _WIDE))
    if wide.sum() > solid.sum() * _LEAK:
        solid = wide
    if inked.any() and np.percentile(difference[inked], 70) < _PALE:
        # Parts of a pale thing are as white as the paper: fill between its outermost pixels.
        rows = np.logical_or.accumulate(solid, axis=1) & np.logical_or.accumulate(solid[:, ::-1], axis=1)[:, ::-1]
        columns = np.logical_or.accumulate(solid) & np.logical_or.accumulate(solid[::-1])[::-1]
        solid = rows & columns
    filled: NDArray[np.bool_] = solid
    return filled


def _without_smudges(solid: NDArray[np.bool_], strong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leave out parts without any strong pixel: faint smudges on the paper beside a thing."""
    import numpy as np

    kept = solid & strong
    before = -1
    while (now := int(kept.sum())) != before:
        before = now
        kept = _spread(kept, solid)
        kept = _spread(np.ascontiguousarray(kept.T), np.ascontiguousarray(solid.T)).T
    return kept if kept.any() else solid


def trimmed(layer: Layer) -> Layer:
    """Cut away rows and columns in which nothing is visible. An empty layer stays as it is."""
    import numpy as np

    rows, columns = np.nonzero(layer.alpha.max(axis=1) > 0.1)[0], np.nonzero(layer.alpha.max(axis=0) > 0.1)[0]
    if len(rows) == 0 or len(columns) == 0:
        return layer
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Layer(layer.pixels[part], layer.alpha[part])


def fill(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask with its holes filled: all that the border cannot reach."""
    import numpy as np

    free = ~solid
    outside = np.zeros_like(free)
    outside[[0, -1]], outside[:, [0, -1]] = free[[0, -1]], free[:, [0, -1]]
    before = -1
    while (now := int(outside.sum())) != before:
        before = now
        outside = _spread(outside, free)
        outside = _spread(outside.T, free.T).T
    return ~outside


def _spread(reached: NDArray[np.bool_], free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return all free cells in a row's run of free cells of which one is reached."""
    import numpy as np

    height, width = free.shape
    run = np.cumsum(~free, axis=1) + (np.arange(height) * (width + 1))[:, None]
    hit = np.bincount(run.ravel(), weights=(reached & free).ravel(), minlength=height * (width + 1)) > 0
    spread: NDArray[np.bool_] = hit[run] & free
    return spread


def _dilated(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    import numpy as np

    for _ in range(by):
        padded = np.pad(mask, 1)
        mask = padded[1:-1, 1:-1] | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    return mask


def _eroded(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    return ~_dilated(~mask, by)


def _closed(mask: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    import numpy as np

    margin = gap + 1
    closed = _eroded(_dilated(np.pad(mask, margin), gap), gap)
    return closed[margin:-margin, margin:-margin]


# ── colour ────────────────────────────────────────────────────────────────────────────────────────────────────


def recoloured(layer: Layer, rgb: tuple[int, int, int]) -> Layer:
    """Give the main colour of a thing another hue; shading, outlines and parts of other hues stay."""
    import numpy as np

    hue, saturation, value = _to_hsv(layer.pixels)
    target_hue, target_saturation, target_value = (
        float(one.ravel()[0]) for one in _to_hsv(np.array([[rgb]], np.float32))
    )
    weight = saturation * value * layer.alpha
    colourful = float((weight > 0.15).sum()) / max(1.0, float((layer.alpha > 0.5).sum()))
    if colourful > 0.2:
        histogram = np.bincount((hue * 36).astype(int).ravel() % 36, weights=weight.ravel(), minlength=36)
        smooth = histogram + np.roll(histogram, 1) + np.roll(histogram, -1)
        main = (int(smooth.argmax()) + 0.5) / 36
        distance = np.abs((hue - main + 0.5) % 1 - 0.5) * 360
        share = np.clip(1.6 - distance / _HUE_RANGE, 0, 1) * np.clip(saturation * 5, 0, 1)
        # Warm things have one hue in light and another in shade.
    else:
        share = np.clip(value * 2.2 - 0.25, 0, 1)
    chosen = share * layer.alpha > 0.5
    mean = float(value[chosen].mean()) if chosen.any() else 0.7
    shaded = np.clip(value / max(mean, 0.2) * target_value, 0, 1)
    if target_value < 0.3:
        shaded = np.clip(value * 0.42, 0, 0.5)
    elif target_saturation < 0.1 and target_value > 0.9:
        shaded = np.clip(0.72 + (value - mean) * 0.5 + 0.2, 0, 1)
    if target_saturation < 0.12:
        new_saturation = np.full_like(saturation, target_saturation)
    else:
        new_saturation = np.clip(np.maximum(saturation, _SATURATION) / max(_SATURATION, 0.8) * target_saturation, 0, 1)
    painted = _to_rgb(np.full_like(hue, target_hue), new_saturation, shaded)
    mixed = layer.pixels + (painted - layer.pixels) * share[..., None]
    return Layer(mixed.astype(np.float32), layer.alpha)


def _to_hsv(pixels: Floats) -> tuple[Floats, Floats, Floats]:
    """Return hue, saturation and value, each from 0 to 1, of colours from 0 to 255."""
    import numpy as np

    red, green, blue = (pixels[..., i] / 255 for i in range(3))
    value, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    span = value - low
    safe = np.maximum(span, 1e-6)
    hue = np.where(
        value == red,
        (green - blue) / safe % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = np.where(span < 1e-6, 0, hue / 6)
    return hue.astype(np.float32), (span / np.maximum(value, 1e-6)).astype(np.float32), value.astype(np.float32)


def _to_rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    import numpy as np

    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + hue * 6) % 6
        channels.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    pixels: Floats = (np.stack(channels, axis=-1) * 255).astype(np.float32)
    return pixels
