"""A picture from a stranger is judged by its own bytes, and before anything is unpacked."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from minitoolai.core.errors import InvalidRequest
from minitoolai.engines.images.codec import check_picture


def picture(kind: str, width: int = 31, height: int = 17) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif"])
def test_the_four_kinds_are_told_by_their_bytes(kind: str) -> None:
    facts = check_picture(picture(kind), field="image")
    assert (facts.kind, facts.width, facts.height) == (kind, 31, 17)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"<html>",
        picture("bmp"),
        picture("tiff"),
        b"GIF",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a jpg, png, webp or gif") as refusal:
        check_picture(data, field="messages[0].content[1].image_url.url")
    assert refusal.value.param == "messages[0].content[1].image_url.url"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif"])
def test_a_picture_cut_off_in_its_head_is_broken(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=f"broken {kind}|not a jpg"):
        check_picture(picture(kind)[:14], field="image")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_000, 12_000, 60_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_head_alone(side: int) -> None:
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    with pytest.raises(InvalidRequest) as refusal:
        check_picture(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT\x35\xaf\x06\x1e", field="image")
    assert refusal.value.code in ("image_too_large", "invalid_image")
