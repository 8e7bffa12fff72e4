"""Bodies that are expensive to read for whoever reads them carelessly: far too large, or as large as is allowed."""

from __future__ import annotations

import base64
import io
import random

from PIL import Image

from minitoolai.http.bodies.large_json import MOST_NODES, MOST_TEXT

START = b'{"model":"quick","stream":false,"messages":[{"role":"user","content":"hi"}],"x":'
MESSAGES = b'{"model":"quick","stream":false,"messages":['


def too_large(size: int = 19_000_000) -> dict[str, bytes]:
    """Twelve shapes of this size."""
    return {
        "lists": fill(START + b"[", b"[],", b"0]}", size),
        "objects": fill(START + b"[", b'{"a":{}},', b"0]}", size),
        "names": START + b"{" + names(size // 14, 14) + b"}}",
        "one name": fill(START + b"{", b'"k":[],', b'"k":0}}', size),
        "tiny numbers": fill(START + b"[", b"4.9e-324,", b"0]}", size),
        "digits": fill(START, b"7", b"}", size),
        "depth": START + b"[" * (size // 2) + b"]" * (size // 2) + b"}",
        "escapes": fill(START + b'"', b'\\"', b'"}', size),
        "unicode": fill(START + b'"', b"\\u00e9", b'"}', size),
        "no unicode": fill(START + b'"', b"\xff", b'"}', size),
        "blanks": b" " * size,
        "after an image": fill(b'{"u":"data:image/png;base64,AAAA",' + START[1:] + b"[", b"[],", b"0]}", size),
    }


def at_the_limit() -> dict[str, bytes]:
    """Chats with as much in them as is allowed, that are served or refused only after they were decoded."""
    image = b'{"type":"image_url","image_url":{"url":"%b"}}' % picture(7_000_000)
    images = MESSAGES.replace(b"quick", b"sink") + b'{"role":"user","content":[' + image + b"," + image + b"]}]"
    return {
        "lists": capped(START + b"[", b"[0],", b"0]}", 2),
        "objects": capped(START + b"[", b'{"a":0},', b"0]}", 2),
        "names": START + b"{" + names(MOST_NODES - 20, 14) + b"}}",
        "tiny numbers": capped(START + b"[", b"4.9e-324,", b"0]}", 1),
        "long numbers": capped(START + b"[", b"7" * 4000 + b",", b"0]}", 1),
        "escapes": capped(START + b'"', b'\\"', b'"}', 0),
        "strings": capped(START + b"[", b'"\\u00e9\\u00e9\\u00e9",', b"0]}", 1),
        "messages": capped(MESSAGES, b'{"role":"user","content":"a"},', b'{"role":"user","content":"a"}]}', 3),
        "model": capped(START.replace(b"quick", b"q" * 100_000)[:-1] + b':"', b"q", b'"}', 0),
        "images": images + b"}",
        "images and lists": images + b',"x":[' + b"[]," * (MOST_NODES // 2 - 20) + b"0]}",
    }


def fill(start: bytes, unit: bytes, end: bytes, size: int) -> bytes:
    """As many units as fit."""
    return start + unit * ((size - len(start) - len(end)) // len(unit)) + end


def capped(start: bytes, unit: bytes, end: bytes, nodes: int) -> bytes:
    """As many units as are allowed, each of which has so many lists, objects and commas."""
    fitting = (MOST_TEXT - len(start) - len(end)) // len(unit)
    return start + unit * min(fitting, (MOST_NODES - 20) // nodes if nodes else fitting) + end


def names(count: int, width: int) -> bytes:
    """So many members of as many names, each of this many bytes."""
    return b",".join(b'"%0*x":0' % (width - 5, number * 2654435761 % 2**32) for number in range(count))


def picture(size: int) -> bytes:
    """A data URL of about so many bytes."""
    file = io.BytesIO()
    Image.new("RGB", (31, 17)).save(file, "png")
    return b"data:image/png;base64," + base64.b64encode(file.getvalue() + random.Random(7).randbytes(size * 3 // 4))
