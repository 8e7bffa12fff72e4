"""Compose the picture of a scene: background, things with their shadows, look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from minitoolai.engines.images.compose.backgrounds import Ground, lit, paint_background, sides_of
from minitoolai.engines.images.compose.layers import Layer, cut_out, recoloured
from minitoolai.engines.images.compose.looks import PLAIN, Look, finished, in_style, paint_backdrop

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from minitoolai.engines.images.prompts.reader import Scene

    Floats = NDArray[np.float32]

#: A thing takes at most this share of the short side if it is alone, or stands in a place.
_ALONE, _IN_A_PLACE = 0.80, 0.62
#: How far a thing overlaps its support, as a share of the support's height.
_OVERLAP = 0.22


class Thing(NamedTuple):
    """One thing to draw with the model: its name, its colour ("" for its own), and whether others stand on it."""

    name: str
    colour: str = ""
    is_support: bool = False


class _Placed(NamedTuple):
    """A layer with its place: left and top in pixels."""

    layer: Layer
    left: int
    top: int


def things_of(scene: Scene) -> list[Thing]:
    """Return what the model has to draw for a scene, one entry for each copy."""
    things = [Thing(subject.name, subject.colour) for subject in scene.subjects for _ in range(subject.number)]
    if scene.support is not None and things:
        things.insert(0, Thing(scene.support.name, scene.support.colour, is_support=True))
    return things


def is_plain(scene: Scene, look: Look) -> bool:
    """Return True if the model's own square is the picture: one thing in its own colour, without a place or a look."""
    things = things_of(scene)
    one = len(things) <= 1 and not (things and things[0].colour)
    return (
        one and look is PLAIN and not (scene.background or scene.plain) and scene.style not in ("painting", "drawing")
    )


def compose(
    scene: Scene,
    squares: Sequence[NDArray[np.uint8]],
    rgb: Mapping[str, tuple[int, int, int]],
    look: Look,
    *,
    width: int,
    height: int,
    seed: int,
) -> NDArray[np.uint8]:
    """Return the picture (height, width, 3) of a scene whose things were drawn on these white squares, in order."""
    import numpy as np

    if scene.background:
        name = "sunset" if scene.light == "sunset" and scene.background == "sea" else scene.background
        pixels, ground = paint_background(name, scene.light, width, height, seed)
    else:
        plain = rgb[scene.plain] if scene.plain else None
        pixels, ground = paint_backdrop(look, plain, width, height, seed), Ground(has_shadow=look.pattern != "none")
    layers = []
    # A prompt without a known thing has one all the same: what its words are nearest to.
    things = things_of(scene) or [Thing("")] * len(squares)
    for i, (thing, square) in enumerate(zip(things, squares, strict=True)):
        layer = cut_out(square)
        if i > 0 and thing == things[i - 1] and i % 2:
            # Two of a kind look at each other.
            layer = Layer(layer.pixels[:, ::-1], layer.alpha[:, ::-1])
        layers.append(recoloured(layer, rgb[thing.colour]) if thing.colour else layer)
    alpha = np.zeros((height, width), np.float32)
    in_a_place = bool(scene.background)
    if layers and scene.support is not None:
        placed = _on_support(layers[0], layers[1:], width, height, ground)
    else:
        placed = _side_by_side(layers, width, height, ground, in_a_place=in_a_place)
    for one in placed:
        if ground.has_shadow:
            _shadow(pixels, one)
        _paste(pixels, alpha, one)
    if scene.light == "night" and in_a_place and scene.background != "night":
        dimmed = lit(pixels, "night")
        pixels = pixels + (dimmed - pixels) * (alpha * 0.35)[..., None]
    pixels = finished(in_style(pixels, alpha, scene.style), alpha, look, seed)
    picture: NDArray[np.uint8] = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
    return picture


# ── places ────────────────────────────────────────────────────────────────────────────────────────────────────


def fit_layer(layer: Layer, width: float, height: float) -> Layer:
    """Scale a layer so that it just fits."""
    import numpy as np
    from PIL import Image

    tall, wide = layer.alpha.shape
    scale = min(width / wide, height / tall)
    size = max(1, round(wide * scale)), max(1, round(tall * scale))
    channels = np.concatenate([layer.pixels, layer.alpha[..., None] * 255], axis=-1)
    scaled = np.asarray(
        Image.fromarray(np.rint(channels.clip(0, 255)).astype(np.uint8), "RGBA").resize(size, Image.Resampling.BICUBIC)
    ).astype(np.float32)
    alpha = scaled[..., 3] / 255
    # A steeper edge, because enlarging makes it soft.
    alpha = np.clip((alpha - 0.5) * max(1.0, min(scale, 3.0)) + 0.5, 0, 1)
    return Layer(scaled[..., :3], alpha.astype(np.float32))


def _side_by_side(
    layers: Sequence[Layer], width: int, height: int, ground: Ground, *, in_a_place: bool
) -> list[_Placed]:
    """Place things in rows, the last row on the ground."""
    if not layers:
        return []
    columns, rows = sides_of(len(layers), width / height)
    share = (_IN_A_PLACE if in_a_place else _ALONE) if len(layers) == 1 else 0.86
    cell_width = width * 0.94 / columns
    room = ground.feet if in_a_place else 0.94
    cell_height = height * (room - 0.06) / rows
    limit = min(width, height) * (share if len(layers) == 1 else 0.74 if len(layers) == 2 else 0.62)
    fitted = [fit_layer(layer, min(cell_width * 0.94, limit), min(cell_height * 0.94, limit)) for layer in layers]
    tallest = max(layer.alpha.shape[0] for layer in fitted)
    placed = []
    for i, layer in enumerate(fitted):
        row, column = divmod(i, columns)
        in_row = min(columns, len(layers) - row * columns)
        tall, wide = layer.alpha.shape
        centre = width / 2 + (column - (in_row - 1) / 2) * cell_width
        if in_a_place:
            bottom = height * ground.feet - (rows - 1 - row) * cell_height
        else:
            bottom = height / 2 + (row - (rows - 1) / 2) * cell_height + tallest / 2
        placed.append(_Placed(layer, round(centre - wide / 2), round(bottom - tall)))
    return placed


def _on_support(support: Layer, layers: Sequence[Layer], width: int, height: int, ground: Ground) -> list[_Placed]:
    """Place things on top of another one."""
    side = min(width, height)
    under = fit_layer(support, min(width * 0.9, side * 0.78), side * 0.46)
    tall, wide = under.alpha.shape
    bottom = height * ground.feet
    placed = [_Placed(under, round(width / 2 - wide / 2), round(bottom - tall))]
    top = bottom - tall * (1 - _OVERLAP)
    limit = min(side * 0.44, top - height * 0.04)
    for i, layer in enumerate(layers):
        fitted = fit_layer(layer, min(limit, max(wide, side * 0.4) / len(layers)), limit)
        high, broad = fitted.alpha.shape
        centre = width / 2 + (i - (len(layers) - 1) / 2) * max(wide, side * 0.4) / len(layers)
        placed.append(_Placed(fitted, round(centre - broad / 2), round(top - high)))
    return placed


def _window(placed: _Placed, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the part of the canvas that a layer covers, and the part of the layer that is inside."""
    tall, wide = placed.layer.alpha.shape
    top, left = max(0, placed.top), max(0, placed.left)
    bottom, right = min(shape[0], placed.top + tall), min(shape[1], placed.left + wide)
    inside = slice(top - placed.top, bottom - placed.top), slice(left - placed.left, right - placed.left)
    return (slice(top, bottom), slice(left, right)), inside


def _paste(pixels: Floats, alpha: Floats, placed: _Placed) -> None:
    import numpy as np

    there, inside = _window(placed, alpha.shape)
    cover = placed.layer.alpha[inside]
    pixels[there] += (placed.layer.pixels[inside] - pixels[there]) * cover[..., None]
    alpha[there] = np.maximum(alpha[there], cover)


def _shadow(pixels: Floats, placed: _Placed) -> None:
    """Darken the ground under a thing."""
    import numpy as np

    tall, wide = placed.layer.alpha.shape
    middle_x, middle_y = placed.left + wide / 2, placed.top + tall * 0.985
    half_x, half_y = wide * 0.52, max(3.0, min(tall, wide) * 0.075)
    top, bottom = max(0, int(middle_y - half_y)), min(pixels.shape[0], int(middle_y + half_y) + 1)
    left, right = max(0, int(middle_x - half_x)), min(pixels.shape[1], int(middle_x + half_x) + 1)
    if top >= bottom or left >= right:
        return
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    distance = ((x - middle_x) / half_x) ** 2 + ((y - middle_y) / half_y) ** 2
    pixels[top:bottom, left:right] *= (1 - 0.42 * np.clip(1 - distance, 0, 1))[..., None]
