"""Paint backgrounds: beach, forest, city and others, at any size, from a seed. Each fills the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import ImageDraw

    #: Mostly float32; intermediate results may be wider.
    Floats = NDArray[Any]

#: Paint with this many pixels on the short side, and enlarge afterwards: a background is out of focus.
WORKING_SIDE = 384
Colour = tuple[int, int, int]


class Ground(NamedTuple):
    """Where things stand: the height of their feet, from 0 at the top to 1, and whether they cast a shadow."""

    feet: float = 0.9
    has_shadow: bool = True


class _Canvas:
    """A canvas to paint on, with the random numbers of one image."""

    def __init__(self, width: int, height: int, seed: int) -> None:
        import numpy as np

        scale = WORKING_SIDE / min(width, height)
        self.width, self.height = max(8, round(width * scale)), max(8, round(height * scale))
        self.random = np.random.Generator(np.random.PCG64(seed % 2**64))
        self.pixels: Floats = np.zeros((self.height, self.width, 3), np.float32)
        self.y = (np.arange(self.height, dtype=np.float32) / self.height)[:, None]
        self.x = (np.arange(self.width, dtype=np.float32) / self.height)[None, :]
        #: Width over height.
        self.aspect = self.width / self.height

    def gradient(self, top: float, bottom: float, *colours: Colour) -> None:
        """Fill a band with a vertical gradient of two or more colours."""
        import numpy as np

        first, last = round(top * self.height), round(bottom * self.height)
        if last <= first:
            return
        places, steps = np.linspace(0, 1, len(colours)), np.linspace(0, 1, last - first)
        rows = np.stack([np.interp(steps, places, [colour[i] for colour in colours]) for i in range(3)], axis=-1)
        self.pixels[first:last] = rows[:, None].astype(np.float32)

    def noise(self, cells_x: float, cells_y: float) -> Floats:
        """Return smooth noise from 0 to 1 with about so many cells."""
        import numpy as np
        from PIL import Image

        size = max(2, round(cells_x)), max(2, round(cells_y))
        coarse = Image.fromarray(self.random.random((size[1], size[0]), np.float32))
        return np.asarray(coarse.resize((self.width, self.height), Image.Resampling.BICUBIC)).clip(0, 1)

    def clouds_of(self, cells: float = 4) -> Floats:
        """Return fractal noise from 0 to 1."""
        total: Floats = self.noise(cells * self.aspect, cells)
        for i in range(1, 4):
            total = total + self.noise(cells * self.aspect * 2**i, cells * 2**i) * 0.5**i
        return total / 1.875

    def mix(self, colour: Colour | Floats, share: Floats) -> None:
        """Mix a colour, or a picture, into the canvas by a share (h, w)."""
        import numpy as np

        wanted = np.asarray(colour, np.float32)
        self.pixels += (wanted - self.pixels) * share[..., None]

    def ridge(self, base: float, height: float, cells: float, *, sharp: float = 0.0) -> Floats:
        """Return a mask of all that is below a line of hills."""
        import numpy as np

        count = max(2, round(cells * self.aspect) + 1)
        heights = self.random.random(count)
        line = np.interp(np.linspace(0, count - 1, self.width), np.arange(count), heights)
        smooth = np.convolve(np.pad(line, 24, "edge"), np.ones(49) / 49, "valid")
        line = line * sharp + smooth * (1 - sharp)
        edge = base - height * line
        mask: Floats = np.clip((self.y - edge[None, :]) * self.height, 0, 1).astype(np.float32)
        return mask

    def draw(self, paint: Callable[[ImageDraw.ImageDraw], None]) -> None:
        """Draw shapes with Pillow at twice the size, so that their edges are smooth."""
        import numpy as np
        from PIL import Image, ImageDraw

        image = Image.fromarray(self.pixels.clip(0, 255).astype(np.uint8)).resize((self.width * 2, self.height * 2))
        paint(ImageDraw.Draw(image))
        self.pixels = np.asarray(image.resize((self.width, self.height), Image.Resampling.BOX)).astype(np.float32)

    def disc(self, x: float, y: float, radius: float, soft: float) -> Floats:
        """Return a soft disc; x is in units of the height."""
        import numpy as np

        distance = np.sqrt((self.x - x) ** 2 + (self.y - y) ** 2)
        mask: Floats = np.clip((radius - distance) / soft, 0, 1).astype(np.float32)
        return mask

    def points(self, count: int, top: float, bottom: float, colour: Colour, size: float = 1.0) -> None:
        """Scatter points of light."""
        points = self.random.random((count, 3))

        def paint(pen: ImageDraw.ImageDraw) -> None:
            for x, y, bright in points:
                radius = size * (0.5 + bright)
                place = x * self.width * 2, (top + y * (bottom - top)) * self.height * 2
                box = (place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius)
                pen.ellipse(box, fill=tuple(round(c * (0.5 + bright / 2)) for c in colour))

        self.draw(paint)


def _sky(c: _Canvas, horizon: float, *colours: Colour, clouds: float = 0.8) -> None:
    import numpy as np

    c.gradient(0, 1, *colours)
    if clouds:
        share = np.clip((c.clouds_of(3) - 0.52) * 4, 0, 1) * clouds * np.clip((horizon - c.y) / horizon + 0.2, 0, 1)
        c.mix((255, 255, 255), share.astype(np.float32))


def _beach(c: _Canvas) -> Ground:
    import numpy as np

    _sky(c, 0.45, (84, 170, 232), (205, 236, 250))
    c.gradient(0.45, 0.68, (28, 120, 180), (90, 205, 205))
    c.mix((255, 255, 255), ((c.noise(8 * c.aspect, 60) > 0.72) & (c.y > 0.45) & (c.y < 0.68)).astype(np.float32) * 0.4)
    shore = c.ridge(0.70, 0.04, 5)
    c.mix((250, 250, 245), c.ridge(0.685, 0.04, 5))
    sand = np.array((236, 208, 150), np.float32) + ((c.clouds_of(30) - 0.5) * 40)[..., None]
    c.mix(sand, shore)
    return Ground(0.92)


def _sea(c: _Canvas) -> Ground:
    import numpy as np

    _sky(c, 0.5, (98, 165, 225), (215, 232, 244))
    c.gradient(0.5, 1.0, (40, 110, 165), (12, 60, 110))
    waves = c.noise(10 * c.aspect, 70)
    c.mix((190, 225, 240), (np.clip((waves - 0.62) * 3, 0, 0.6) * (c.y > 0.5)).astype(np.float32))
    return Ground(0.86, has_shadow=False)


def _underwater(c: _Canvas) -> Ground:
    import numpy as np

    c.gradient(0, 1, (70, 190, 215), (16, 95, 150), (6, 40, 80))
    rays = np.clip(np.sin((c.x - c.y * 0.4) * 22 + c.noise(3, 3) * 5) - 0.3, 0, 1) * np.clip(0.75 - c.y, 0, 1)
    c.mix((210, 245, 250), (rays * 0.5).astype(np.float32))
    c.mix((200, 180, 130), c.ridge(0.95, 0.10, 4) * 0.8)
    for _ in range(7):
        x, height = c.random.random() * c.aspect, 0.08 + c.random.random() * 0.14
        colour = ((230, 100, 120), (240, 160, 90), (160, 90, 190))[int(c.random.integers(3))]
        for part in range(4):
            c.mix(colour, c.disc(x + (part - 1.5) * 0.025, 0.98 - height * c.random.random(), 0.03, 0.01) * 0.8)
    c.points(40, 0.1, 0.9, (200, 240, 250), 2.5)
    return Ground(0.86, has_shadow=False)


def _air(c: _Canvas) -> Ground:
    _sky(c, 1.0, (66, 140, 222), (150, 205, 245), (214, 236, 250), clouds=1.0)
    return Ground(0.82, has_shadow=False)


def _night(c: _Canvas) -> Ground:
    c.gradient(0, 1, (6, 8, 34), (18, 26, 74), (44, 50, 104))
    c.points(round(170 * c.aspect), 0, 0.8, (255, 255, 240), 1.6)
    x = c.aspect * (0.14 if c.random.random() < 0.5 else 0.84)
    c.mix((120, 130, 190), c.disc(x, 0.17, 0.2, 0.2) * 0.5)
    c.mix((250, 244, 214), c.disc(x, 0.17, 0.075, 0.006))
    c.mix((14, 16, 40), c.ridge(0.92, 0.12, 5))
    return Ground(0.93, has_shadow=False)


def _space(c: _Canvas) -> Ground:
    import numpy as np

    c.gradient(0, 1, (5, 4, 20), (14, 8, 38))
    for colour in ((120, 40, 150), (30, 80, 170), (190, 70, 110)):
        c.mix(colour, np.clip((c.clouds_of(3) - 0.5) * 2.4, 0, 0.65).astype(np.float32))
    c.points(round(260 * c.aspect), 0, 1, (255, 255, 255), 1.5)
    x = c.aspect * (0.12 + 0.76 * c.random.random())
    c.mix((205, 150, 100), c.disc(x, 0.14, 0.09, 0.006))
    c.mix((60, 30, 40), c.disc(x + 0.035, 0.165, 0.085, 0.09) * 0.6)
    return Ground(0.82, has_shadow=False)


def _forest(c: _Canvas) -> Ground:
    import numpy as np

    _sky(c, 0.6, (165, 210, 190), (225, 240, 205), clouds=0)
    shades = ((120, 165, 130), (70, 125, 85), (30, 82, 52))
    for row, shade in enumerate(shades):
        base = 0.62 + row * 0.07
        trees = [
            (c.random.random(), 0.6 + c.random.random() * 0.6) for _ in range(round((22 - row * 5) * c.aspect) + 2)
        ]

        def paint(
            pen: ImageDraw.ImageDraw,
            trees: list[tuple[float, float]] = trees,
            base: float = base,
            shade: Colour = shade,
            row: int = row,
        ) -> None:
            for place, size in trees:
                x, bottom = place * c.width * 2, base * c.height * 2
                tall = size * (0.38 + row * 0.14) * c.height * 2
                pen.rectangle((x - tall * 0.03, bottom - tall * 0.2, x + tall * 0.03, bottom), fill=(70, 48, 34))
                for level in range(3):
                    y, half = bottom - tall * (0.12 + level * 0.27), tall * (0.24 - level * 0.055)
                    pen.polygon([(x - half, y), (x + half, y), (x, y - tall * 0.42)], fill=shade)

        c.draw(paint)
    grass = np.array((58, 110, 52), np.float32) + ((c.clouds_of(25) - 0.5) * 60)[..., None]
    c.mix(grass, c.ridge(0.78, 0.03, 6))
    c.mix(
        (255, 250, 200),
        (np.clip(np.sin((c.x + c.y * 0.5) * 9) - 0.45, 0, 1) * np.clip(0.8 - c.y, 0, 1) * 0.5).astype(np.float32),
    )
    return Ground(0.93)


def _meadow(c: _Canvas) -> Ground:
    import numpy as np

    _sky(c, 0.55, (92, 168, 230), (206, 234, 248))
    c.mix((140, 185, 130), c.ridge(0.60, 0.12, 4))
    c.mix((112, 176, 84), c.ridge(0.66, 0.08, 3))
    grass = np.array((92, 162, 62), np.float32) + ((c.noise(90 * c.aspect, 30) - 0.5) * 46)[..., None]
    c.mix(grass, c.ridge(0.72, 0.05, 3))
    return Ground(0.92)


def _garden(c: _Canvas) -> Ground:
    ground = _meadow(c)
    for colour in ((235, 70, 90), (250, 205, 60), (250, 250, 250), (190, 100, 210), (245, 140, 180)):
        c.points(round(55 * c.aspect), 0.72, 1.0, colour, 5)
    return ground


def _mountains(c: _Canvas) -> Ground:
    import numpy as np

    _sky(c, 0.6, (110, 170, 225), (222, 234, 242))
    far = c.ridge(0.62, 0.42, 6, sharp=0.9)
    c.mix((132, 148, 176), far)
    near = c.ridge(0.72, 0.40, 4, sharp=0.9)
    snow = np.clip((0.52 + c.noise(14 * c.aspect, 14) * 0.12 - c.y) * 30, 0, 1).astype(np.float32)
    c.mix((94, 106, 128), near)
    c.mix((246, 249, 252), np.minimum(near, snow))
    c.mix((104, 132, 92), c.ridge(0.80, 0.06, 4))
    grass = np.array((120, 128, 96), np.float32) + ((c.clouds_of(22) - 0.5) * 70)[..., None]
    c.mix(grass, c.ridge(0.86, 0.04, 4))
    return Ground(0.94)


def _desert(c: _Canvas) -> Ground:
    import numpy as np

    _sky(c, 0.55, (110, 178, 226), (250, 226, 178), clouds=0)
    c.mix((255, 248, 215), c.disc(c.aspect * 0.82, 0.16, 0.07, 0.02))
    for base, height, colour in (
        (0.62, 0.10, (222, 172, 104)),
        (0.74, 0.12, (212, 152, 82)),
        (0.86, 0.10, (232, 178, 106)),
    ):
        dune = np.array(colour, np.float32) + ((c.noise(6 * c.aspect, 80) - 0.5) * 22)[..., None]
        c.mix(dune, c.ridge(base, height, 2.5))
    return Ground(0.93)


def _city(c: _Canvas) -> Ground:
    _sky(c, 0.7, (120, 165, 215), (230, 225, 220))
    for base, shade, floors in ((0.72, (150, 160, 180), 0.5), (0.78, (92, 104, 130), 0.42)):
        houses, x = [], 0.0
        while x < c.aspect:
            wide = 0.07 + c.random.random() * 0.09
            houses.append((x, wide, base - (0.12 + c.random.random() * floors), int(c.random.integers(1, 1000))))
            x += wide + 0.006

        def paint(
            pen: ImageDraw.ImageDraw, houses: list[tuple[float, float, float, int]] = houses, shade: Colour = shade
        ) -> None:
            scale = c.height * 2
            for left, wide, top, seed in houses:
                tone = tuple(min(255, value + seed % 24) for value in shade)
                pen.rectangle((left * scale, top * scale, (left + wide) * scale, scale), fill=tone)
                y = top + 0.02
                while y < 0.76:
                    for i in range(max(1, int(wide / 0.025)) - 1):
                        at = (left + 0.012 + i * 0.025) * scale
                        lit = (seed * 31 + round(y * 1000) * 7 + i * 13) % 5 < 2
                        fill = (250, 222, 140) if lit else tuple(value - 22 for value in tone)
                        pen.rectangle((at, y * scale, at + 0.012 * scale, (y + 0.016) * scale), fill=fill)
                    y += 0.036

        c.draw(paint)
    c.gradient(0.78, 0.83, (176, 174, 172), (150, 148, 148))
    c.gradient(0.83, 1, (86, 88, 94), (62, 64, 70))
    return Ground(0.94)


def _snow(c: _Canvas) -> Ground:
    _sky(c, 0.5, (150, 188, 222), (226, 236, 244))
    c.mix((190, 206, 222), c.ridge(0.58, 0.24, 5, sharp=0.7))
    c.mix((222, 232, 241), c.ridge(0.68, 0.08, 3))
    c.mix((243, 247, 251), c.ridge(0.76, 0.06, 3))
    c.points(round(150 * c.aspect), 0, 1, (255, 255, 255), 2.6)
    return Ground(0.93)


def _room(c: _Canvas) -> Ground:
    import numpy as np

    c.gradient(0, 0.74, (232, 220, 200), (214, 198, 174))
    wood = np.array((158, 110, 72), np.float32) + ((c.noise(4 * c.aspect, 60) - 0.5) * 46)[..., None]
    c.mix(wood, np.broadcast_to((c.y > 0.76).astype(np.float32), (c.height, c.width)))
    middle = c.aspect * (0.26 if c.random.random() < 0.5 else 0.74)

    def paint(pen: ImageDraw.ImageDraw) -> None:
        s = c.height * 2
        pen.rectangle((0, 0.735 * s, c.width * 2, 0.765 * s), fill=(248, 244, 236))
        left, right = (middle - 0.17) * s, (middle + 0.17) * s
        pen.rectangle((left - 8, 0.10 * s - 8, right + 8, 0.52 * s + 8), fill=(250, 248, 242))
        pen.rectangle((left, 0.10 * s, right, 0.52 * s), fill=(160, 208, 240))
        pen.rectangle((left, 0.42 * s, right, 0.52 * s), fill=(140, 186, 120))
        pen.rectangle(((left + right) / 2 - 4, 0.10 * s, (left + right) / 2 + 4, 0.52 * s), fill=(250, 248, 242))
        pen.rectangle((left, 0.30 * s - 4, right, 0.30 * s + 4), fill=(250, 248, 242))

    c.draw(paint)
    return Ground(0.94)


def _table(c: _Canvas) -> Ground:
    import numpy as np

    c.gradient(0, 0.66, (196, 186, 172), (226, 216, 200))
    c.mix((255, 248, 230), c.disc(c.aspect * 0.3, 0.2, 0.5, 0.5) * 0.7)
    grain = c.noise(3 * c.aspect, 90) * 0.7 + c.noise(14 * c.aspect, 140) * 0.3
    wood = np.array((150, 96, 54), np.float32) + ((grain - 0.5) * 86)[..., None]
    planks = (np.abs(((c.y - 0.66) * 7) % 1 - 0.5) > 0.47) * 40.0
    wood = wood - planks[..., None]
    c.mix(wood.astype(np.float32), np.broadcast_to((c.y > 0.66).astype(np.float32), (c.height, c.width)))
    c.mix((96, 58, 30), np.broadcast_to(((c.y > 0.66) & (c.y < 0.675)).astype(np.float32), (c.height, c.width)))
    return Ground(0.90)


def _road(c: _Canvas) -> Ground:
    import numpy as np

    _meadow(c)
    centre = c.aspect / 2
    down = np.clip((c.y - 0.62) / 0.38, 0, 1)
    half = 0.02 + down * 0.62
    offset = np.abs(c.x - centre)
    is_below = c.y > 0.62
    c.mix((84, 86, 92), (np.clip((half - offset) * c.height, 0, 1) * is_below).astype(np.float32))
    c.mix((240, 240, 236), ((np.abs(offset - half * 0.94) < half * 0.025) * is_below).astype(np.float32))
    dashes = (np.sin(8 / (down + 0.12)) > 0) & (offset < half * 0.025) & is_below
    c.mix((248, 220, 110), dashes.astype(np.float32))
    return Ground(0.92)


def _sunset(c: _Canvas) -> Ground:
    import numpy as np

    c.gradient(0, 0.62, (60, 50, 110), (196, 84, 110), (252, 160, 84), (254, 214, 130))
    c.mix((255, 190, 150), np.clip((c.noise(5 * c.aspect, 16) - 0.55) * 2.5, 0, 0.5).astype(np.float32) * (c.y < 0.6))
    x = c.aspect * (0.3 + 0.4 * c.random.random())
    c.mix((255, 236, 170), c.disc(x, 0.55, 0.30, 0.30) * 0.6)
    c.mix((255, 246, 205), c.disc(x, 0.55, 0.085, 0.008))
    c.gradient(0.62, 1, (150, 84, 96), (58, 40, 74))
    shine = np.clip(1 - np.abs(c.x - x) / 0.16, 0, 1) * (c.noise(14 * c.aspect, 80) > 0.5) * (c.y > 0.62)
    c.mix((255, 205, 140), (shine * 0.7).astype(np.float32))
    c.mix((34, 24, 44), c.ridge(0.90, 0.05, 3))
    return Ground(0.93, has_shadow=False)


def _rain(c: _Canvas) -> Ground:
    import numpy as np

    _city(c)
    c.mix((58, 70, 92), np.full((c.height, c.width), 0.55, np.float32))
    drops = c.random.random((round(220 * c.aspect), 3))

    def paint(pen: ImageDraw.ImageDraw) -> None:
        for x, y, size in drops:
            at = x * c.width * 2, y * c.height * 2
            pen.line((at[0], at[1], at[0] - 5 - size * 8, at[1] + 18 + size * 26), fill=(190, 206, 224), width=1)

    c.draw(paint)
    c.mix((150, 166, 186), (np.clip((c.noise(12 * c.aspect, 40) - 0.55) * 2, 0, 0.5) * (c.y > 0.83)).astype(np.float32))
    return Ground(0.94)


def _fire(c: _Canvas) -> Ground:
    import numpy as np

    c.gradient(0, 1, (24, 6, 8), (110, 20, 10), (220, 90, 20))
    c.mix((255, 190, 60), np.clip((c.clouds_of(5) + c.y - 1.12) * 3, 0, 0.9).astype(np.float32))
    c.points(round(70 * c.aspect), 0.1, 0.9, (255, 190, 90), 2.2)
    c.mix((40, 14, 12), c.ridge(0.93, 0.08, 7, sharp=0.6))
    return Ground(0.93, has_shadow=False)


def _stage(c: _Canvas) -> Ground:
    import numpy as np

    folds = np.sin(c.x * 60) * 0.5 + 0.5
    curtain = (
        np.array((130, 16, 30), np.float32) * (0.45 + 0.55 * np.broadcast_to(folds, (c.height, c.width)))[..., None]
    )
    c.mix(curtain.astype(np.float32), np.ones((c.height, c.width), np.float32))
    c.gradient(0.8, 1, (120, 82, 52), (70, 46, 30))
    cone = np.clip(1 - np.abs(c.x - c.aspect / 2) / (0.08 + c.y * 0.42), 0, 1)
    c.mix((255, 244, 214), (cone * 0.55).astype(np.float32))
    return Ground(0.92)


_PAINTERS: dict[str, Callable[[_Canvas], Ground]] = {
    "beach": _beach,
    "sea": _sea,
    "underwater": _underwater,
    "sky": _air,
    "night": _night,
    "space": _space,
    "forest": _forest,
    "meadow": _meadow,
    "garden": _garden,
    "mountains": _mountains,
    "desert": _desert,
    "city": _city,
    "snow": _snow,
    "room": _room,
    "table": _table,
    "road": _road,
    "sunset": _sunset,
    "rain": _rain,
    "fire": _fire,
    "stage": _stage,
}
BACKGROUNDS = tuple(_PAINTERS)


def paint_background(name: str, light: str, width: int, height: int, seed: int) -> tuple[Floats, Ground]:
    """Return a background (height, width, 3) from 0 to 255, and where things stand in it."""
    import numpy as np
    from PIL import Image

    canvas = _Canvas(width, height, seed)
    ground = _PAINTERS[name](canvas)
    if light and light != name:
        canvas.pixels = lit(canvas.pixels, light)
        if light == "night" and name not in ("underwater", "space", "room", "table", "stage"):
            canvas.points(round(60 * canvas.aspect), 0, 0.35, (255, 255, 240), 1.5)
    small = Image.fromarray(canvas.pixels.clip(0, 255).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32), ground


def lit(pixels: Floats, light: str) -> Floats:
    """Return colours in the light of the night or of the evening."""
    import numpy as np

    grey = pixels.mean(axis=-1, keepdims=True)
    if light == "night":
        muted = pixels * 0.55 + grey * 0.45
        tint, added = np.array((0.30, 0.37, 0.58), np.float32), np.array((4, 6, 22), np.float32)
    else:
        muted, tint, added = pixels, np.array((1.12, 0.80, 0.66), np.float32), np.array((16, 2, 0), np.float32)
    coloured: Floats = np.clip(muted * tint + added, 0, 255).astype(np.float32)
    return coloured


def sides_of(count: int, aspect: float) -> tuple[int, int]:
    """Return the columns and rows in which so many things fit an image of this aspect best."""
    columns = min(count, max(1, round(math.sqrt(count * aspect)) or 1))
    if aspect >= 0.7:
        columns = min(count, max(columns, 3 if count <= 3 else columns))
    return columns, -(-count // columns)
