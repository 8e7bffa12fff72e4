"""Encode generated images as PNG with metadata, and validate images from callers and other servers."""

from __future__ import annotations

import io
import struct
from collections.abc import Container
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.errors import EngineError, InvalidRequest
from minitoolai.core.marks import Watermark
from minitoolai.engines.images.editing.pixels import enlarged, merged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from minitoolai.core.inference import ImageFormat
    from minitoolai.engines.protocols import ImageRequest

#: Tasks that begin with noise on an uploaded image.
EDITS = ("edit", "variation")
#: More than twice the largest image on offer, on each side.
MAX_ENGINE_PIXELS = 4096 * 4096


def parameters_text(
    request: ImageRequest, model: str, *, schedule: str = "", omitted: Container[str] = frozenset()
) -> str:
    """Return the `parameters` text that AUTOMATIC1111 writes into its images and other tools read.

    `model` is the model that generated the image; `schedule` is named if it is not the scheduler's own; `omitted` are
    the facts that the engine did not honour.
    """
    negative = request.negative_prompt if "Negative prompt" not in omitted else ""
    negative = f"\nNegative prompt: {negative}" if negative else ""
    facts = {
        "Steps": request.steps,
        "Sampler": request.scheduler,
        **({"Schedule type": schedule} if schedule else {}),
        "CFG scale": f"{request.cfg_scale:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model": model,
        **({"Denoising strength": f"{request.strength:g}"} if request.task in EDITS else {}),
        "Version": request.generator,
    }
    lines = (f"{name}: {fact}" for name, fact in facts.items() if name not in omitted)
    return f"{request.prompt}{negative}\n" + ", ".join(lines)


def encode_square(pixels: NDArray[np.uint8], request: ImageRequest, model: str) -> bytes:
    """Encode square pixels (S, S, 3) as a PNG of the request's size with its `parameters` chunk."""
    from PIL import Image

    image = contain(Image.fromarray(pixels), request.width, request.height)
    return encode_result(image, request, parameters_text(request, model))


def encode_result(image: Image.Image, request: ImageRequest, parameters: str) -> bytes:
    """Encode what an engine drew for a request. Outside the mask of an edit it is the uploaded image."""
    return encode_png(merged(image, request), parameters, request.watermark)


def encode_png(image: Image.Image, parameters: str, watermark: Watermark | None = None) -> bytes:
    """Encode a PNG with its watermark and its `parameters` chunk: tEXt for Latin-1 text, else iTXt (UTF-8)."""
    from PIL import Image, PngImagePlugin

    if watermark is not None:
        import numpy as np

        from minitoolai.engines.marks.image import embed

        image = Image.fromarray(embed(np.asarray(image.convert("RGB")), watermark))

    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", parameters)
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=chunks, compress_level=4)
    return file.getvalue()


def encode_enlarged(request: ImageRequest, model: str, large: bytes | None = None) -> bytes:
    """Enlarge the uploaded image to the size of the request. `large`: what an upscaler made of it, as PNG."""
    text = f"Size: {request.width}x{request.height}, Model: {model}, Version: {request.generator}"
    return encode_png(enlarged(request, large), text, request.watermark)


def to_format(png: bytes, output_format: ImageFormat, quality: int) -> bytes:
    """Convert a PNG of this module to jpeg or webp. Its `parameters` become the EXIF user comment, as in A1111."""
    from PIL import Image
    from PIL.ExifTags import IFD, Base

    if output_format == "png":
        return png
    file = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        exif = Image.Exif()
        comment = b"UNICODE\0" + str(image.info.get("parameters", "")).encode("utf-16-be", "replace")
        exif.get_ifd(IFD.Exif)[Base.UserComment] = comment
        image.convert("RGB").save(file, output_format, quality=quality, exif=exif.tobytes())
    return file.getvalue()


def contain(square: Image.Image, width: int, height: int) -> Image.Image:
    """Scale a square image (Lanczos) to fit, and centre it on its own background colour.

    For models that generate squares only: stretching or cropping would spoil the subject, more background does not.
    """
    from PIL import Image

    side = min(width, height)
    scaled = square.resize((side, side), Image.Resampling.LANCZOS)
    if width == height:
        return scaled
    canvas = Image.new("RGB", (width, height), background_colour(square))
    canvas.paste(scaled, ((width - side) // 2, (height - side) // 2))
    return canvas


def cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """Crop the centre of an image to exactly this size. Scale it first (Lanczos) only if neither side matches."""
    from PIL import Image

    if image.width < width or image.height < height or min(image.width - width, image.height - height) >= 8:
        scale = max(width / image.width, height / image.height)
        size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def decode_image(data: bytes) -> Image.Image:
    """Decode an image from another server as RGB. Raises EngineError if it is invalid or implausibly large."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_ENGINE_PIXELS:
                raise EngineError(
                    f"{THE_ENGINE} sent an image of {image.width} by {image.height} pixels, which is too large"
                )
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EngineError(f"{THE_ENGINE} sent an invalid image") from error


def background_colour(square: Image.Image) -> tuple[int, int, int]:
    """Return the median colour of the outermost pixels."""
    import numpy as np

    pixels = np.asarray(square)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = (int(value) for value in np.median(border, axis=0))
    return red, green, blue


# ── untrusted images from callers ─────────────────────────────────────────────────────────────────────────────

Kind = Literal["jpeg", "png", "webp", "gif"]

#: Bounds the memory for decoding: 50 megapixels take 150 MB.
MAX_INPUT_PIXELS = 50_000_000
_MAGIC: tuple[tuple[Kind, bytes, int], ...] = (
    ("png", b"\x89PNG\r\n\x1a\n", 0),
    ("jpeg", b"\xff\xd8\xff", 0),
    ("gif", b"GIF87a", 0),
    ("gif", b"GIF89a", 0),
    ("webp", b"WEBP", 8),
)
#: What Pillow raises while decoding. An unknown format is an OSError.
DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error)
#: Longest side of an image for a vision model, which would scale down anything larger.
MAX_SIDE = 2048


class ImageInfo(msgspec.Struct, frozen=True):
    """Format and size in pixels, as declared in the header of an image."""

    kind: Kind
    width: int
    height: int


def inspect_image(data: bytes, *, field: str, max_pixels: int = MAX_INPUT_PIXELS) -> ImageInfo:
    """Return format and size according to the bytes, not the declared type. Raises InvalidRequest for `field`.

    Reads the header only and decodes nothing.
    """
    from PIL import Image

    kind = next((kind for kind, magic, at in _MAGIC if data[at : at + len(magic)] == magic), None)
    if kind is None:
        raise InvalidRequest(f"{field} is not a jpg, png, webp or gif image", param=field, code="invalid_image")
    try:
        # Pillow only warns about large images; the limit below is stricter.
        with Image.open(io.BytesIO(data), formats=(cast("str", kind).upper(),)) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise InvalidRequest(
            f"{field} has too many pixels; the limit is {max_pixels:,} pixels", param=field, code="image_too_large"
        ) from error
    except DECODE_ERRORS as error:
        raise broken_image(kind, field) from error
    if width * height > max_pixels:
        raise InvalidRequest(
            f"{field} has {width} x {height} pixels; the limit is {max_pixels:,} pixels",
            param=field,
            code="image_too_large",
        )
    return ImageInfo(kind, width, height)


def to_plain_png(data: bytes, *, field: str) -> bytes:
    """Convert to a PNG without transparency, animation or EXIF rotation, with no side longer than MAX_SIDE.

    Raises InvalidRequest for `field` if the image cannot be decoded.
    """
    from PIL import Image, ImageOps

    kind = inspect_image(data, field=field).kind
    file = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=(kind.upper(),)) as image:
            image.draft("RGB", (MAX_SIDE, MAX_SIDE))
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                page = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(page, upright.convert("RGBA"))
            plain = upright.convert("RGB")
            plain.thumbnail((MAX_SIDE, MAX_SIDE))
            plain.save(file, "png", compress_level=1)
    except DECODE_ERRORS as error:
        raise broken_image(kind, field) from error
    return file.getvalue()


def broken_image(kind: str, field: str) -> InvalidRequest:
    """Return the error for an image of a field that cannot be decoded."""
    return InvalidRequest(f"{field} is a broken {kind} image", param=field, code="invalid_image")
