"""Finished pictures: from a model's own pixels to a PNG of the asked size that says how it was drawn."""

from __future__ import annotations

import io
import struct
from collections.abc import Container
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from minitoolai import __version__
from minitoolai.core.errors import EngineError, InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from minitoolai.engines.protocols import ImageRequest

#: More than twice the largest picture on offer, on each side.
MOST_PIXELS = 4096 * 4096


def parameters_text(
    request: ImageRequest, model: str, *, schedule: str = "", left_out: Container[str] = frozenset()
) -> str:
    """The text AUTOMATIC1111 writes beside its pictures and others read; `model` is what really drew it.

    `schedule`: where another was taken than the scheduler's own. `left_out`: facts that the engine did not honour.
    """
    negative = request.negative_prompt if "Negative prompt" not in left_out else ""
    negative = f"\nNegative prompt: {negative}" if negative else ""
    facts = {
        "Steps": request.steps,
        "Sampler": request.scheduler,
        **({"Schedule type": schedule} if schedule else {}),
        "CFG scale": f"{request.cfg_scale:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model": model,
        "Version": f"minitoolai {__version__}",
    }
    told = (f"{name}: {fact}" for name, fact in facts.items() if name not in left_out)
    return f"{request.prompt}{negative}\n" + ", ".join(told)


def png_of(pixels: NDArray[np.uint8], request: ImageRequest, model: str) -> bytes:
    """Square pixels (S, S, 3) as a PNG of the request's size with its `parameters` chunk."""
    from PIL import Image

    picture = fitted(Image.fromarray(pixels), request.width, request.height)
    return png_with(picture, parameters_text(request, model))


def png_with(picture: Image.Image, parameters: str) -> bytes:
    """A PNG with its `parameters` chunk: tEXt where the text is Latin-1 and iTXt (UTF-8) elsewhere."""
    from PIL import PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", parameters)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=chunks, compress_level=4)
    return file.getvalue()


def fitted(square: Image.Image, width: int, height: int) -> Image.Image:
    """The square picture as large as fits (Lanczos), in the middle of its own background.

    The model knows squares only. Stretching or cropping spoils the thing drawn; more background does not.
    """
    from PIL import Image

    side = min(width, height)
    picture = square.resize((side, side), Image.Resampling.LANCZOS)
    if width == height:
        return picture
    whole = Image.new("RGB", (width, height), background_of(square))
    whole.paste(picture, ((width - side) // 2, (height - side) // 2))
    return whole


def covering(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture's middle at exactly this size: scaled down or up (Lanczos) only where one side does not fit."""
    from PIL import Image

    if picture.width < width or picture.height < height or min(picture.width - width, picture.height - height) >= 8:
        scale = max(width / picture.width, height / picture.height)
        size = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def read_picture(data: bytes, engine: str) -> Image.Image:
    """What an engine elsewhere sent, as RGB. EngineError where it is no picture, or one too large to be meant."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise EngineError(f"{engine} sent a picture of {picture.width} by {picture.height} pixels")
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EngineError(f"{engine} sent something that is no picture") from error


def background_of(square: Image.Image) -> tuple[int, int, int]:
    """The median colour of the outermost pixels."""
    import numpy as np

    pixels = np.asarray(square)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = (int(value) for value in np.median(rim, axis=0))
    return red, green, blue


# (merged from fetched) Pictures that strangers sent or named: is it one, of which kind, and not so large that unpacking it hurts.

Kind = Literal["jpeg", "png", "webp", "gif"]

#: What unpacking may cost: 50 megapixels are 150 MB in memory.
MAX_INPUT_PIXELS = 50_000_000
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


def check_picture(data: bytes, *, field: str, most_pixels: int = MAX_INPUT_PIXELS) -> PictureFacts:
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
