"""Pixels of edits: the uploaded image and its mask, what an engine may change of them, and enlarging."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from minitoolai.engines.protocols import ImageRequest

    Floats = NDArray[np.float32]

#: The edge of a mask is softened over this share of the image's short side, inwards: nothing outside changes.
_SOFT_EDGE = 1 / 100
#: A square around a mask exceeds it by this share of it on each side, so that engines see its surroundings.
_CONTEXT = 0.25


def original(request: ImageRequest) -> Image.Image:
    """Return the uploaded image of an edit, RGB, of the size of the result."""
    from PIL import Image

    with Image.open(io.BytesIO(request.images[0]), formats=("PNG",)) as image:
        return image.convert("RGB")


def mask_of(request: ImageRequest) -> Image.Image | None:
    """Return the mask of an edit, grey: white is redrawn, black stays."""
    from PIL import Image

    if request.mask is None:
        return None
    with Image.open(io.BytesIO(request.mask), formats=("PNG",)) as image:
        return image.convert("L")


def merged(drawn: Image.Image, request: ImageRequest) -> Image.Image:
    """Return what an engine drew, with everything outside the mask as it was uploaded, to the bit."""
    from PIL import Image

    mask = mask_of(request)
    if mask is None:
        return drawn
    return Image.composite(drawn.convert("RGB"), original(request), _softened(mask))


def _softened(mask: Image.Image) -> Image.Image:
    """Return opacities that are 0 outside the mask and rise to 255 within a narrow edge inside it."""
    from PIL import ImageChops, ImageFilter

    radius = max(1.0, min(mask.size) * _SOFT_EDGE)
    inside = mask.point(lambda value: 255 if value else 0)
    blurred = inside.filter(ImageFilter.GaussianBlur(radius / 2)).point(lambda value: max(0, 2 * value - 255))
    # A mask of a few pixels would blur away.
    if not blurred.point(lambda value: 255 if value >= 128 else 0).getbbox():
        return mask
    return ImageChops.multiply(mask, blurred)


def square_around(mask: Image.Image) -> tuple[int, int, int]:
    """Return left, top and side of the square that a mask is redrawn in. It may exceed the image."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    side = min(round(max(right - left, bottom - top) * (1 + 2 * _CONTEXT)), max(mask.size))
    return (left + right - side) // 2, (top + bottom - side) // 2, side


def cropped(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    """Return a square part of an image. Beyond its edges, the outermost pixels repeat."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image)
    rows = np.clip(np.arange(top, top + side), 0, image.height - 1)
    columns = np.clip(np.arange(left, left + side), 0, image.width - 1)
    return Image.fromarray(pixels[rows][:, columns])


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the image with the masked part replaced by a smooth continuation of what surrounds it."""
    import numpy as np
    from PIL import Image

    weight = (1 - np.asarray(mask, np.float32) / 255).astype(np.float32)
    pixels = _smooth(np.asarray(image, np.float32), weight)
    return Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8))


def _smooth(pixels: Floats, weight: Floats) -> Floats:
    """Fill pixels of weight 0 from a picture of half the size, in which they are fewer, and so on."""
    import numpy as np

    height, width = weight.shape
    if weight.min() >= 1 or min(height, width) < 2:
        mean = (pixels * weight[..., None]).sum((0, 1)) / max(float(weight.sum()), 1e-6)
        return np.where(weight[..., None] > 0, pixels, mean.astype(np.float32))
    padded = np.pad(weight, ((0, height % 2), (0, width % 2)))
    coloured = np.pad(pixels * weight[..., None], ((0, height % 2), (0, width % 2), (0, 0)))
    halves = (slice(0, None, 2), slice(1, None, 2))
    sums = sum((padded[a, b] for a in halves for b in halves), np.zeros(1, np.float32))
    colours = sum((coloured[a, b] for a in halves for b in halves), np.zeros(1, np.float32))
    means = (colours / np.maximum(sums, 1e-6)[..., None]).astype(np.float32)
    small = _smooth(means, np.minimum(sums, 1).astype(np.float32))
    large = _doubled(small)[:height, :width]
    return (pixels * weight[..., None] + large * (1 - weight[..., None])).astype(np.float32)


def _doubled(small: Floats) -> Floats:
    """Return a picture of twice the size, interpolated linearly."""
    import numpy as np

    for axis in (0, 1):
        edge = [(1, 1) if i == axis else (0, 0) for i in range(3)]
        padded = np.pad(small, edge, mode="edge")
        before, after = (np.take(padded, range(i, i + small.shape[axis]), axis) for i in (0, 2))
        pair = np.stack([small * 0.75 + before * 0.25, small * 0.75 + after * 0.25], axis + 1)
        small = pair.reshape([n * 2 if i == axis else n for i, n in enumerate(small.shape)])
    return small


def enlarged(request: ImageRequest, large: bytes | None = None) -> Image.Image:
    """Return the uploaded image at the size of the request, by Lanczos's filter.

    `large`: the same image from an upscaler, which may have another factor.
    """
    from PIL import Image

    if large is None:
        image = original(request)
    else:
        with Image.open(io.BytesIO(large), formats=("PNG",)) as read:
            image = read.convert("RGB")
    return image.resize((request.width, request.height), Image.Resampling.LANCZOS)
