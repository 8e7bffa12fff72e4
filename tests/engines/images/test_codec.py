"""Tests of image encoding and of untrusted images, which are validated by their bytes before anything is decoded."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from minitoolai.core.errors import InvalidRequest
from minitoolai.engines.images.codec import inspect_image


def encoded(kind: str, width: int = 31, height: int = 17) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif"])
def test_the_four_formats_are_recognized_by_their_bytes(kind: str) -> None:
    info = inspect_image(encoded(kind), field="image")
    assert (info.kind, info.width, info.height) == (kind, 31, 17)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"<html>",
        encoded("bmp"),
        encoded("tiff"),
        b"GIF",
    ],
)
def test_any_other_format_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a jpg, png, webp or gif") as refusal:
        inspect_image(data, field="messages[0].content[1].image_url.url")
    assert refusal.value.param == "messages[0].content[1].image_url.url"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif"])
def test_an_image_cut_off_in_its_header_is_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=f"broken {kind}|not a jpg"):
        inspect_image(encoded(kind)[:14], field="image")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_000, 12_000, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    with pytest.raises(InvalidRequest) as refusal:
        inspect_image(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT\x35\xaf\x06\x1e", field="image")
    assert refusal.value.code in ("image_too_large", "invalid_image")
