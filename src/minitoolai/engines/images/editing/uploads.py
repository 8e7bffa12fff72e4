"""Decode the uploads of edits: every file of a caller becomes a plain PNG, so engines never see bytes of callers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import EditInputs
from minitoolai.engines.images.codec import DECODE_ERRORS, broken_image, inspect_image

if TYPE_CHECKING:
    from PIL import Image

#: Most pixels of an upload, by its header: decoding takes three to four bytes for each.
MAX_UPLOAD_PIXELS = 24_000_000
#: Longest side of further images, which show what to include.
MAX_REFERENCE_SIDE = 2048


class Uploads:
    """The decoded uploads of one request: the image to change, further images, and the mask."""

    def __init__(self, images: list[Image.Image], mask: Image.Image | None) -> None:
        """Raise InvalidRequest if the mask has another size than the image, or leaves nothing to redraw."""
        self._images, self._mask = images, mask
        if mask is None:
            return
        if mask.size != images[0].size:
            raise InvalidRequest(
                f"mask has {mask.width} x {mask.height} pixels, but image has {images[0].width} x {images[0].height}; "
                "send a mask of the same size",
                param="mask",
            )
        if mask.getbbox() is None:
            raise InvalidRequest(
                "mask leaves nothing to redraw; make the parts to redraw transparent, or white in a mask without "
                "transparency",
                param="mask",
            )

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height of the image to change."""
        return self._images[0].size

    def prepared(self, width: int, height: int) -> EditInputs:
        """Return what engines get, for a result of this size. Another aspect ratio is cropped at the centre."""
        from PIL import Image, ImageOps

        first, *others = self._images
        mask = self._mask
        if first.size != (width, height):
            first = ImageOps.fit(first, (width, height), Image.Resampling.LANCZOS)
            mask = mask and ImageOps.fit(mask, (width, height), Image.Resampling.BOX)
        for other in others:
            other.thumbnail((MAX_REFERENCE_SIDE, MAX_REFERENCE_SIDE))
        return EditInputs(tuple(_png(one) for one in (first, *others)), None if mask is None else _png(mask))

    def unscaled(self) -> EditInputs:
        """Return the first image as it is, to be enlarged."""
        return EditInputs((_png(self._images[0]),))


def read_uploads(images: list[Path], mask: Path | None, *, is_edit: bool) -> Uploads:
    """Decode the uploads of a request. Call this in a thread.

    Without a mask, the transparent parts of an image to edit are the mask. Raises InvalidRequest.
    """
    decoded = [_decoded(path, "image") for path in images]
    if mask is not None:
        return Uploads([_opaque(image) for image in decoded], _redrawn(_decoded(mask, "mask")))
    if is_edit and (holes := _holes(decoded[0])) is not None:
        return Uploads([decoded[0].convert("RGB"), *(_opaque(image) for image in decoded[1:])], holes)
    return Uploads([_opaque(image) for image in decoded], None)


def _decoded(path: Path, field: str) -> Image.Image:
    """Return an upload, turned upright, as RGB or RGBA. Its type is decided by its bytes."""
    from PIL import Image, ImageOps

    data = path.read_bytes()
    if not data:
        raise InvalidRequest(f"{field} is empty; send an image", param=field, code="invalid_image")
    kind = inspect_image(data, field=field, max_pixels=MAX_UPLOAD_PIXELS).kind
    try:
        with Image.open(io.BytesIO(data), formats=(kind.upper(),)) as image:
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGBA" if upright.has_transparency_data else _mode(upright))
    except DECODE_ERRORS as error:
        raise broken_image(kind, field) from error


def _mode(image: Image.Image) -> str:
    return "L" if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;") else "RGB"


def _opaque(image: Image.Image) -> Image.Image:
    """Return an image as RGB, on white where it is transparent."""
    from PIL import Image

    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _holes(image: Image.Image) -> Image.Image | None:
    """Return the transparent parts of an image as a mask, or None if there are none."""
    from PIL import ImageChops

    if image.mode != "RGBA":
        return None
    holes = ImageChops.invert(image.getchannel("A"))
    return holes if holes.getbbox() else None


def _redrawn(mask: Image.Image) -> Image.Image:
    """Return a mask as grey, white where it is to be redrawn: transparent parts or, if there are none, white ones."""
    return _holes(mask) or (_opaque(mask) if mask.mode == "RGBA" else mask).convert("L")


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
