"""Small pictures to upload, and masks for them."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image, ImageDraw

from tests.support.server import Account


def picture(width: int = 320, height: int = 256) -> Image.Image:
    """Return a picture with a colour gradient and a circle, so that no two parts are equal."""
    image = Image.linear_gradient("L").resize((width, height))
    coloured = Image.merge("RGB", (image, image.transpose(Image.Transpose.ROTATE_180), Image.new("L", image.size, 90)))
    ImageDraw.Draw(coloured).ellipse((width // 4, height // 4, width * 3 // 4, height * 3 // 4), fill=(200, 40, 30))
    return coloured


def mask(width: int = 320, height: int = 256, box: tuple[int, int, int, int] = (100, 80, 200, 180)) -> Image.Image:
    """Return a mask in OpenAI's form: opaque, but transparent in the box that is to be redrawn."""
    image = Image.new("RGBA", (width, height), "black")
    image.paste((0, 0, 0, 0), box)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the file of an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def data_url(data: bytes) -> str:
    """Return a data URL."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def uploads_left(account: Account) -> int:
    """Return how many uploads a server still has, by its rows."""
    rows = account.server.read(lambda connection: connection.execute("SELECT count(*) FROM job_inputs"))
    count: int = rows[0][0]
    return count
