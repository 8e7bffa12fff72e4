"""Finished pictures: from a model's own pixels to a PNG of the asked size that says how it was drawn."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from minitoolai import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from .base_images import ImageRequest


def parameters_text(request: ImageRequest, model: str) -> str:
    """The text AUTOMATIC1111 writes beside its pictures and others read; `model` is what really drew it."""
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    facts = {
        "Steps": request.steps,
        "Sampler": request.scheduler,
        "CFG scale": f"{request.cfg_scale:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model": model,
        "Version": f"minitoolai {__version__}",
    }
    return f"{request.prompt}{negative}\n" + ", ".join(f"{name}: {fact}" for name, fact in facts.items())


def png_of(pixels: NDArray[np.uint8], request: ImageRequest, model: str) -> bytes:
    """Square pixels (S, S, 3) as a PNG of the request's size with its `parameters` chunk.

    The chunk is tEXt where the prompt is Latin-1 and iTXt (UTF-8) elsewhere.
    """
    from PIL import Image, PngImagePlugin

    picture = fitted(Image.fromarray(pixels), request.width, request.height)
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", parameters_text(request, model))
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


def background_of(square: Image.Image) -> tuple[int, int, int]:
    """The median colour of the outermost pixels."""
    import numpy as np

    pixels = np.asarray(square)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = (int(value) for value in np.median(rim, axis=0))
    return red, green, blue
