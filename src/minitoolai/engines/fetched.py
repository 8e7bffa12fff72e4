"""Pictures that strangers sent or named: is it one, of which kind, and not so large that unpacking it hurts."""

from __future__ import annotations

import io
from typing import Literal, cast

import msgspec

from minitoolai.core.errors import InvalidRequest

Kind = Literal["jpeg", "png", "webp", "gif"]

#: What unpacking may cost: 50 megapixels are 150 MB in memory.
MOST_PIXELS = 50_000_000
_MAGIC: tuple[tuple[Kind, bytes, int], ...] = (
    ("png", b"\x89PNG\r\n\x1a\n", 0),
    ("jpeg", b"\xff\xd8\xff", 0),
    ("gif", b"GIF87a", 0),
    ("gif", b"GIF89a", 0),
    ("webp", b"WEBP", 8),
)


class PictureFacts(msgspec.Struct, frozen=True):
    """What a picture says of itself. Pixels."""

    kind: Kind
    width: int
    height: int


def check_picture(data: bytes, *, field: str, most_pixels: int = MOST_PIXELS) -> PictureFacts:
    """What this is, by its own bytes and not by what somebody called it. InvalidRequest names `field`.

    Only its head is read: nothing is unpacked here.
    """
    from PIL import Image, UnidentifiedImageError

    kind = next((kind for kind, magic, at in _MAGIC if data[at : at + len(magic)] == magic), None)
    if kind is None:
        raise InvalidRequest(f"{field} is not a jpg, png, webp or gif picture", param=field, code="invalid_image")
    try:
        # Pillow warns of large ones by itself; the bound here is ours, and harder.
        with Image.open(io.BytesIO(data), formats=(cast("str", kind).upper(),)) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidRequest(f"{field} is a broken {kind} picture", param=field, code="invalid_image") from error
    if width * height > most_pixels:
        raise InvalidRequest(
            f"{field} has {width} x {height} pixels; it may have {most_pixels:,}", param=field, code="image_too_large"
        )
    return PictureFacts(kind, width, height)
