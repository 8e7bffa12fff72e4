"""The looks of the fifteen image models: backdrop, colours, lines, light and finish of each.

The sketch model stands in for all of them, so each name draws in a look of its own: the same prompt and seed give
pictures that a person can tell apart. A look never changes the subject, and hardly the colour of a thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    #: Mostly float32; intermediate results may be wider.
    Floats = NDArray[Any]

Colour = tuple[int, int, int]
#: A thing takes this share of a look's colours; its background takes all.
_ON_THINGS = 0.45


#: Change colours of this many rows at a time.
_ROWS = 128


class Look(NamedTuple):
    """How a model draws."""

    #: Styles of the sketch model to choose from.
    styles: tuple[str, ...]
    #: Colours of the plain backdrop, from the middle outwards or from top to bottom.
    backdrop: tuple[Colour, Colour]
    #: radial, vertical, rays, dots, batik, bokeh, stone, grid, paper or split.
    pattern: str = "radial"
    contrast: float = 1.0
    saturation: float = 1.0
    #: Multiplied with the colours.
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    #: Darken the corners by this share; negative values brighten them.
    vignette: float = 0.0
    #: Colour and width, in thousandths of the short side, of a line around things.
    outline: tuple[Colour, float] | None = None
    #: Share of a soft glow.
    glow: float = 0.0
    #: Strength of the grain, of 255.
    grain: float = 0.0
    #: halftone, pencil, posterize, relief, scanlines, oil, sharpen or "".
    finish: str = ""


PLAIN = Look(("3d style", "flat style", "noto style", "twemoji style"), ((255, 255, 255), (255, 255, 255)), "none")

LOOKS: dict[str, Look] = {
    "realvision": Look(("3d style",), ((238, 240, 243), (178, 188, 200)), vignette=0.22, contrast=1.05),
    "juggernaut": Look(
        ("3d style",),
        ((96, 58, 34), (16, 15, 20)),
        contrast=1.25,
        vignette=0.55,
        tint=(1.06, 0.95, 0.86),
        finish="sharpen",
    ),
    "autismmix": Look(
        ("flat style",),
        ((255, 214, 236), (248, 160, 206)),
        "rays",
        saturation=1.25,
        outline=((70, 24, 70), 9),
        tint=(1.05, 0.97, 1.05),
    ),
    "dreamshaper": Look(
        ("noto style",), ((214, 176, 250), (66, 44, 132)), "bokeh", glow=0.55, saturation=1.15, tint=(0.98, 0.90, 1.16)
    ),
    "valhalla": Look(
        ("noto style",),
        ((128, 138, 146), (58, 66, 74)),
        "stone",
        saturation=0.45,
        contrast=1.1,
        tint=(0.90, 0.98, 1.06),
        finish="relief",
        vignette=0.35,
    ),
    "mixrealistic": Look(
        ("3d style",), ((246, 230, 206), (206, 176, 142)), "vertical", contrast=0.82, tint=(1.06, 1.0, 0.9), grain=11
    ),
    "campursari": Look(
        ("twemoji style",),
        ((236, 206, 150), (120, 72, 36)),
        "batik",
        outline=((88, 48, 20), 6),
        tint=(1.08, 0.96, 0.78),
        saturation=0.9,
    ),
    "reality": Look(("noto style",), ((190, 222, 236), (126, 166, 104)), "split", saturation=0.92, vignette=0.1),
    "extrarealistic": Look(
        ("3d style",), ((70, 120, 190), (6, 12, 40)), contrast=1.32, saturation=1.35, finish="sharpen", vignette=0.3
    ),
    "realism": Look(
        ("noto style",), ((240, 234, 220), (222, 212, 192)), "paper", saturation=0.35, contrast=1.1, finish="pencil"
    ),
    "realgirls": Look(
        ("noto style",), ((255, 240, 236), (250, 196, 192)), "bokeh", glow=0.35, contrast=0.88, tint=(1.06, 0.97, 0.98)
    ),
    "realityreborn": Look(
        ("3d style",), ((20, 120, 128), (8, 26, 40)), "grid", tint=(0.84, 1.05, 1.10), contrast=1.15, finish="scanlines"
    ),
    "amigo": Look(
        ("flat style",),
        ((255, 226, 70), (250, 186, 30)),
        "dots",
        saturation=1.4,
        contrast=1.15,
        outline=((20, 18, 20), 11),
        finish="halftone",
    ),
    "simplemix": Look(("flat style",), ((196, 236, 220), (196, 236, 220)), "none", finish="posterize", contrast=0.95),
    "beautifulrealistic": Look(
        ("3d style",), ((255, 226, 160), (226, 122, 66)), "vertical", glow=0.4, tint=(1.14, 0.98, 0.80), vignette=0.2
    ),
}


def look_of(model: str) -> Look:
    """Return the look of a model of the catalog. Models that the operator adds are drawn plainly."""
    return LOOKS.get(model, PLAIN)


# ── the backdrop ──────────────────────────────────────────────────────────────────────────────────────────────


def paint_backdrop(look: Look, plain: Colour | None, width: int, height: int, seed: int) -> Floats:
    """Return the background (height, width, 3) of an image whose prompt names none, or only the colour `plain`."""
    import numpy as np

    first, last = np.array(look.backdrop[0], np.float32), np.array(look.backdrop[1], np.float32)
    if plain is not None:
        first = last = np.array(plain, np.float32)
        if look.pattern not in ("none", "vertical"):
            first, last = np.minimum(first * 1.08 + 10, 255), last * 0.86
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y / height - 0.5, (x - width / 2) / height
    share = _pattern(look.pattern, x, y, seed)
    backdrop: Floats = first + (last - first) * np.clip(share, 0, 1)[..., None]
    return backdrop.astype(np.float32)


def _pattern(pattern: str, x: Floats, y: Floats, seed: int) -> Floats:
    """Return the share of the second colour at each place."""
    import numpy as np

    distance = np.sqrt(x * x + y * y) / 0.72
    random = np.random.Generator(np.random.PCG64(seed % 2**64))
    share = distance**1.4
    if pattern == "none":
        share = np.zeros_like(x)
    elif pattern == "vertical":
        share = y + 0.5
    elif pattern == "rays":
        share = (np.sin(np.arctan2(y, x) * 12) > 0) * 0.65 + distance * 0.3
    elif pattern == "dots":
        share = (np.sin(x * 70) * np.sin(y * 70) > 0.35) * 0.9
    elif pattern == "grid":
        lines = np.maximum(np.abs(np.sin(x * 32)) > 0.985, np.abs(np.sin(y * 32)) > 0.985)
        share = distance - lines * 0.35
    elif pattern == "split":
        share = np.clip((y - 0.12) * 9 + 0.5, 0, 1)
    elif pattern == "batik":
        u, v = (x * 5) % 1 - 0.5, (y * 5) % 1 - 0.5
        radius, angle = np.sqrt(u * u + v * v), np.arctan2(v, u)
        petal = np.abs(radius - 0.27 - 0.12 * np.cos(4 * angle)) < 0.035
        share = petal * 0.75 + (radius < 0.07) * 0.9 + distance * 0.3
    elif pattern == "bokeh":
        share = y + 0.5
        for _ in range(26):
            cx, cy = (random.random() - 0.5) * (x.max() - x.min()), random.random() - 0.5
            size = 0.03 + 0.07 * random.random()
            near = np.clip((size - np.sqrt((x - cx) ** 2 + (y - cy) ** 2)) / 0.012, 0, 1)
            share = share - near * (0.15 + 0.3 * random.random())
    elif pattern in ("stone", "paper"):
        strength = 0.8 if pattern == "stone" else 0.5
        share = (
            distance * 0.5
            + (_noise(x.shape, 60, random) - 0.5) * strength
            + _noise(x.shape, 9, random) * strength * 0.6
        )
    result: Floats = share.astype(np.float32)
    return result


def _noise(shape: tuple[int, ...], cells: int, random: np.random.Generator) -> Floats:
    import numpy as np
    from PIL import Image

    coarse = Image.fromarray(random.random((cells, cells), np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


# ── colours, lines, light and finish ──────────────────────────────────────────────────────────────────────────


def finished(pixels: Floats, alpha: Floats, look: Look, seed: int) -> Floats:
    """Apply a look to a composed image (h, w, 3). `alpha` (h, w) is where the things are."""
    import numpy as np

    if look is PLAIN:
        return pixels
    short = min(pixels.shape[:2])
    for first in range(0, len(pixels), _ROWS):
        # In bands, because each intermediate result of a large image takes 20 MB.
        band = pixels[first : first + _ROWS]
        share = 1 - (1 - _ON_THINGS) * alpha[first : first + _ROWS]
        band += (_graded(band, look) - band) * share[..., None]
    if look.finish:
        pixels = _FINISHES[look.finish](pixels, alpha, short)
    if look.outline is not None:
        colour, width = look.outline
        ring = np.clip(_blurred(alpha, short * width / 1500) * 6, 0, 1) * (1 - alpha)
        pixels += (np.array(colour, np.float32) - pixels) * ring[..., None]
    if look.glow:
        soft = _blurred_colours(pixels, short / 40)
        pixels = pixels + (255 - pixels) * soft / 255 * look.glow * 0.6
    if look.vignette:
        y = np.linspace(-1, 1, pixels.shape[0], dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, pixels.shape[1], dtype=np.float32)[None, :]
        pixels *= (1 - look.vignette * np.clip((x * x + y * y) / 2, 0, 1))[..., None]
    if look.grain:
        random = np.random.Generator(np.random.PCG64(seed % 2**64))
        pixels += (random.random(pixels.shape[:2], np.float32) - 0.5)[..., None] * (look.grain * 2)
    return np.clip(pixels, 0, 255, out=pixels)


def _graded(pixels: Floats, look: Look) -> Floats:
    import numpy as np

    grey = pixels @ np.array((0.30, 0.59, 0.11), np.float32)
    coloured = grey[..., None] + (pixels - grey[..., None]) * look.saturation
    graded: Floats = np.clip(((coloured - 128) * look.contrast + 128) * np.array(look.tint, np.float32), 0, 255)
    return graded


def _blurred(values: Floats, radius: float) -> Floats:
    """Blur values from 0 to 1."""
    import numpy as np
    from PIL import Image, ImageFilter

    image = Image.fromarray((values.clip(0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius))).astype(np.float32) / 255


def _blurred_colours(pixels: Floats, radius: float) -> Floats:
    """Blur colours, at a quarter of the size, because the result is smooth."""
    import numpy as np
    from PIL import Image, ImageFilter

    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((max(1, width // 4), max(1, height // 4)))
    blurred = small.filter(ImageFilter.GaussianBlur(radius / 4)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(blurred).astype(np.float32)


def _sharpened(pixels: Floats, alpha: Floats, short: int) -> Floats:
    """Raise local contrast."""
    import numpy as np

    result: Floats = np.clip(pixels + (pixels - _blurred_colours(pixels, short / 50)) * 0.6, 0, 255)
    return result


def _posterized(pixels: Floats, alpha: Floats, short: int) -> Floats:
    """Reduce to few tones, with a long shadow behind the things."""
    import numpy as np

    shadow = np.zeros_like(alpha)
    step = max(1, short // 64)
    for i in range(1, 12):
        shadow[i * step :, i * step :] = np.maximum(shadow[i * step :, i * step :], alpha[: -i * step, : -i * step])
    toned = np.round(pixels / 255 * 5) / 5 * 255
    result: Floats = toned * (1 - 0.14 * shadow * (1 - alpha))[..., None]
    return result


def _relief(pixels: Floats, alpha: Floats, short: int) -> Floats:
    """Light the image from the upper left, as if it were carved."""
    import numpy as np

    grey = pixels.mean(axis=-1)
    step = max(1, short // 300)
    slope = np.zeros_like(grey)
    slope[step:, step:] = grey[step:, step:] - grey[:-step, :-step]
    result: Floats = np.clip(pixels + slope[..., None] * 0.9, 0, 255)
    return result


def _pencilled(pixels: Floats, alpha: Floats, short: int) -> Floats:
    """Draw lines where the brightness changes, and hatch the dark parts."""
    import numpy as np

    grey = pixels.mean(axis=-1)
    soft = _blurred_colours(np.repeat((255 - grey)[..., None], 3, axis=2), short / 60).mean(axis=-1)
    dodge = np.clip(grey * 255 / np.maximum(255 - soft, 1), 0, 255)
    y, x = np.mgrid[0 : grey.shape[0], 0 : grey.shape[1]].astype(np.float32)
    hatch = np.sin((x + y) * (560 / short)) * np.clip((190 - grey) / 190, 0, 1) * 46
    paper = np.array((247, 242, 230), np.float32) / 255
    drawn = (dodge * 0.75 + grey * 0.25 + hatch)[..., None] * paper
    result: Floats = np.clip(drawn * 0.82 + pixels * 0.18, 0, 255)
    return result


def _scanned(pixels: Floats, alpha: Floats, short: int) -> Floats:
    """Shift the colours apart and darken every other line, as on a screen."""
    import numpy as np

    shift = max(1, short // 170)
    shifted = pixels.copy()
    shifted[:, shift:, 0], shifted[:, :-shift, 2] = pixels[:, :-shift, 0], pixels[:, shift:, 2]
    rows = 0.86 + 0.14 * np.sin(np.arange(pixels.shape[0], dtype=np.float32) * (900 / short))
    result: Floats = shifted * rows[:, None, None]
    return result


def _halftoned(pixels: Floats, alpha: Floats, short: int) -> Floats:
    """Print the darker tones as dots."""
    import numpy as np

    y, x = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]].astype(np.float32)
    wave = 400 / short
    screen = (np.sin((x + y) * wave) * np.sin((x - y) * wave) + 1) * 127
    grey = pixels.mean(axis=-1)
    dots = np.clip((screen - grey * 1.2) / 40, 0, 1) * 0.5
    result: Floats = np.round(pixels / 255 * 4) / 4 * 255 * (1 - dots * 0.7)[..., None]
    return result


def painted(pixels: Floats, alpha: Floats, short: int) -> Floats:
    """Paint with visible strokes: the most frequent colour of each neighbourhood, on canvas."""
    import numpy as np
    from PIL import Image, ImageFilter

    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize(
        (max(1, width * 256 // short), max(1, height * 256 // short))
    )
    strokes = np.asarray(small.filter(ImageFilter.MedianFilter(7)).resize((width, height), Image.Resampling.BICUBIC))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    canvas = (np.sin(x * (900 / short)) + np.sin(y * (900 / short))) * 3
    noise = _noise((height, width), 90, np.random.Generator(np.random.PCG64(1)))
    result: Floats = np.clip(strokes + canvas[..., None] + ((noise - 0.5) * 18)[..., None], 0, 255).astype(np.float32)
    return result


_FINISHES = {
    "sharpen": _sharpened,
    "posterize": _posterized,
    "relief": _relief,
    "pencil": _pencilled,
    "scanlines": _scanned,
    "halftone": _halftoned,
}


def in_style(pixels: Floats, alpha: Floats, style: str) -> Floats:
    """Apply a style that the prompt asks for: painting, drawing or flat. Others need no finish."""
    short = min(pixels.shape[:2])
    finish = {"painting": painted, "drawing": _pencilled}.get(style)
    return pixels if finish is None else finish(pixels, alpha, short)
