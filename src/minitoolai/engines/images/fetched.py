"""Pictures that strangers sent or named: is it one, of which kind, and not so large that unpacking it hurts."""

from __future__ import annotations

import io
import struct
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


#: What unpacking raises; a picture that Pillow cannot tell is an OSError, too.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)
#: Longest side of a picture for a model that looks at it: more would be scaled down there.
MOST_SIDE = 2048


class PictureFacts(msgspec.Struct, frozen=True):
    """What a picture says of itself. Pixels."""

    kind: Kind
    width: int
    height: int


def check_picture(data: bytes, *, field: str, most_pixels: int = MOST_PIXELS) -> PictureFacts:
    """What this is, by its own bytes and not by what somebody called it. InvalidRequest names `field`.

    Only its head is read: nothing is unpacked here.
    """
    from PIL import Image

    kind = next((kind for kind, magic, at in _MAGIC if data[at : at + len(magic)] == magic), None)
    if kind is None:
        raise InvalidRequest(f"{field} is not a jpg, png, webp or gif picture", param=field, code="invalid_image")
    try:
        # Pillow warns of large ones by itself; the bound here is ours, and harder.
        with Image.open(io.BytesIO(data), formats=(cast("str", kind).upper(),)) as picture:
            width, height = picture.size
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise _broken(kind, field) from error
    if width * height > most_pixels:
        raise InvalidRequest(
            f"{field} has {width} x {height} pixels; it may have {most_pixels:,}", param=field, code="image_too_large"
        )
    return PictureFacts(kind, width, height)


def plain_picture(data: bytes, *, field: str) -> bytes:
    """The picture as a PNG without transparency or frames, the right way up, no side longer than `MOST_SIDE`.

    InvalidRequest names `field` where it breaks off.
    """
    from PIL import Image, ImageOps

    kind = check_picture(data, field=field).kind
    file = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=(kind.upper(),)) as picture:
            picture.draft("RGB", (MOST_SIDE, MOST_SIDE))
            upright = ImageOps.exif_transpose(picture)
            if upright.has_transparency_data:
                page = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(page, upright.convert("RGBA"))
            plain = upright.convert("RGB")
            plain.thumbnail((MOST_SIDE, MOST_SIDE))
            plain.save(file, "png", compress_level=1)
    except _BROKEN as error:
        raise _broken(kind, field) from error
    return file.getvalue()


def _broken(kind: str, field: str) -> InvalidRequest:
    return InvalidRequest(f"{field} is a broken {kind} picture", param=field, code="invalid_image")
