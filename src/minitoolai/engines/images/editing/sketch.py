"""Edits by the embedded model: noise on the latents of an upload, then the same sampling as for any other image.

The model works on squares of 256 pixels. A whole image is put into such a square; of a masked edit, the square around
the mask. Where a mask is to be redrawn completely, the thing of the prompt is drawn alone, cut out and put in place,
because the model draws single things on white well and unknown surroundings badly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from minitoolai.engines.images.codec import background_colour, encode_result, parameters_text
from minitoolai.engines.images.compose.layers import cut_out, recoloured
from minitoolai.engines.images.compose.picture import fit_layer, things_of
from minitoolai.engines.images.editing.pixels import cropped, filled, mask_of, original, square_around

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from minitoolai.engines.images.prompts.reader import Scene
    from minitoolai.engines.protocols import ImageRequest

    Floats = NDArray[np.float32]

#: Name of the embedded model.
MODEL = "minitoolai-sketch-1"
#: Side of the pictures that the model encodes and decodes, and of its latents.
SQUARE, LATENT_SIDE = 256, 16
#: From this strength on, the thing in a mask is drawn alone and put in place.
PLACED_FROM = 0.7
#: A thing that is put in place takes this share of the mask's box.
_SHARE_OF_BOX = 0.96


class EditedPart(NamedTuple):
    """The square of an image that is drawn anew: its place, its pixels, and which latents may change."""

    left: int
    top: int
    side: int
    image: Image.Image
    #: (1, 16, 16), 1 where everything may change; None: everywhere.
    free: Floats | None


def is_placed(request: ImageRequest, scene: Scene) -> bool:
    """Return True if the thing of a prompt is drawn alone and put into the mask."""
    return request.mask is not None and request.strength >= PLACED_FROM and bool(things_of(scene))


def part_of(request: ImageRequest) -> EditedPart:
    """Return the square of the uploaded image that the model works on."""
    import numpy as np
    from PIL import Image

    image, mask = original(request), mask_of(request)
    if mask is None:
        side = max(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        page = Image.new("RGB", (side, side), background_colour(image))
        page.paste(image, (-left, -top))
        return EditedPart(left, top, side, page, None)
    left, top, side = square_around(mask)
    shown = filled(image, mask) if request.strength >= PLACED_FROM else image
    small = cropped(mask, left, top, side).resize((LATENT_SIDE, LATENT_SIDE), Image.Resampling.BOX)
    # Every latent that the mask touches may change; the pixels outside are restored at the end.
    free = (np.asarray(small, np.float32) > 0).astype(np.float32)[None]
    return EditedPart(left, top, side, cropped(shown, left, top, side), free)


def to_square(image: Image.Image) -> Floats:
    """Return what the encoder reads: (3, 256, 256) from -1 to 1."""
    import numpy as np
    from PIL import Image

    small = image.resize((SQUARE, SQUARE), Image.Resampling.LANCZOS)
    pixels: Floats = (np.asarray(small, np.float32) / 127.5 - 1).transpose(2, 0, 1)
    return pixels


def redrawn(part: EditedPart, drawn: NDArray[np.uint8], before: NDArray[np.uint8], request: ImageRequest) -> bytes:
    """Return the PNG of an edit. `drawn`: the decoded result; `before`: the decoded original.

    What the small square loses of an upload (fine lines, print) is put back, the more of it the weaker the edit.
    """
    import numpy as np
    from PIL import Image

    def at_size(pixels: NDArray[np.uint8]) -> Floats:
        scaled = Image.fromarray(pixels).resize((part.side, part.side), Image.Resampling.LANCZOS)
        return np.asarray(scaled, np.float32)

    lost = np.asarray(part.image, np.float32) - at_size(before)
    pixels = at_size(drawn) + lost * (1 - request.strength) ** 2
    image = original(request)
    image.paste(Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8)), (part.left, part.top))
    return _encoded(image, request)


def placed(
    squares: Sequence[NDArray[np.uint8]], scene: Scene, rgb: Mapping[str, tuple[int, int, int]], request: ImageRequest
) -> bytes:
    """Fill the mask from its surroundings, put the things of the prompt on top, and return the PNG."""
    import numpy as np
    from PIL import Image

    mask = mask_of(request)
    assert mask is not None
    pixels = np.asarray(filled(original(request), mask), np.float32).copy()
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    width = (right - left) / len(squares)
    for i, (thing, square) in enumerate(zip(things_of(scene), squares, strict=True)):
        layer = cut_out(square)
        layer = recoloured(layer, rgb[thing.colour]) if thing.colour else layer
        layer = fit_layer(layer, width * _SHARE_OF_BOX, (bottom - top) * _SHARE_OF_BOX)
        tall, wide = layer.alpha.shape
        x, y = round(left + width * (i + 0.5) - wide / 2), round((top + bottom - tall) / 2)
        there = pixels[y : y + tall, x : x + wide]
        there += (layer.pixels[: len(there), : there.shape[1]] - there) * layer.alpha[
            : len(there), : there.shape[1], None
        ]
    return _encoded(Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8)), request)


def _encoded(image: Image.Image, request: ImageRequest) -> bytes:
    return encode_result(image, request, parameters_text(request, MODEL))


def kept(denoised: NDArray[Any], latents: NDArray[Any], free: Floats | None) -> NDArray[Any]:
    """Return a prediction in which latents outside the mask are those of the upload."""
    return denoised if free is None else latents + (denoised - latents) * free
