"""Small pictures to upload, and masks for them."""

from __future__ import annotations

import base64
import io
import struct
import zlib
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


def compressed_zeros(length: int) -> bytes:
    """Return what zlib makes of this many zero bytes, without reading them: one compressed block, repeated."""
    part = 1024 * 1024
    writer = zlib.compressobj(9)
    # After a full flush no block refers to one before it.
    start = writer.compress(b"") + writer.flush(zlib.Z_FULL_FLUSH)
    block = writer.compress(bytes(part)) + writer.flush(zlib.Z_FULL_FLUSH)
    rest = writer.compress(bytes(length % part)) + writer.flush(zlib.Z_FULL_FLUSH)
    # The checksum of zeros: 1, and the length in the upper half. An empty last block ends the stream.
    return start + block * (length // part) + rest + b"\x03\x00" + struct.pack(">I", length % 65521 << 16 | 1)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def black_png(side: int) -> bytes:
    """Return a black square with one bit for each pixel. A large one takes milliseconds, as `compressed_zeros` does."""
    rows = compressed_zeros(side * (1 + (side + 7) // 8))
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", head), png_chunk(b"IDAT", rows), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def data_url(data: bytes) -> str:
    """Return a data URL."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def uploads_left(account: Account) -> int:
    """Return how many uploads a server still has, by its rows."""
    rows = account.server.read(lambda connection: connection.execute("SELECT count(*) FROM job_inputs"))
    count: int = rows[0][0]
    return count
