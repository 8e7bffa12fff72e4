"""Where C2PA manifests are in files: a `caBX` chunk of PNG, APP11 segments of JPEG, the last chunk of WebP.

C2PA specification 2.1, appendix A. JPEG splits a long manifest over segments, as ISO 19566-5 (JUMBF) describes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK = b"caBX"
_JPEG_START, _APP0, _APP1, _APP11 = b"\xff\xd8", 0xE0, 0xE1, 0xEB
#: Data of an APP11 segment before the box: identifier, number of the box, number of the segment.
_JUMBF_HEAD = struct.Struct(">2sHI")
_JUMBF, _BOX_NUMBER = b"JP", 0x0211
#: Content of a box in one segment: its length is 16 bits, and includes its own field, the head and the box's header.
_SEGMENT_BYTES = 65_000
_WEBP_CHUNK = b"C2PA"
MAX_STORE_BYTES = 8 * 1024 * 1024


class BrokenFile(Exception):
    """The structure of a file is invalid or ends early."""


class SplitFile(NamedTuple):
    """A file split where a manifest belongs. With a WebP file, `head` depends on the length of the manifest."""

    kind: str
    head: bytes
    tail: bytes


class FoundManifest(NamedTuple):
    """A manifest in a file: the range that it takes, with all around it, and its bytes."""

    start: int
    length: int
    store: bytes


def kind_of(image: bytes) -> str:
    """Return png, jpeg or webp by the first bytes, "" for anything else."""
    if image[:8] == PNG_SIGNATURE:
        return "png"
    if image[:3] == b"\xff\xd8\xff":
        return "jpeg"
    return "webp" if image[:4] == b"RIFF" and image[8:12] == b"WEBP" else ""


def opened(image: bytes, store_bytes: int) -> SplitFile:
    """Split a file for a manifest of this many bytes. Raises ValueError if it is none of the three formats."""
    kind = kind_of(image)
    if kind == "png":
        (header_length,) = struct.unpack(">I", image[8:12])
        at = 8 + 12 + header_length
        return SplitFile(kind, image[:at], image[at:])
    if kind == "jpeg":
        at = next((start for start, marker, _ in _segments(image) if marker not in (_APP0, _APP1)), 2)
        return SplitFile(kind, image[:at], image[at:])
    if kind == "webp":
        # Chunks begin at even offsets. The byte that pads an odd one is not a part of the manifest.
        padding = bytes(store_bytes % 2)
        size = len(image) - 8 + wrapped_bytes(kind, store_bytes) + len(padding)
        return SplitFile(kind, image[:4] + struct.pack("<I", size) + image[8:], padding)
    raise ValueError("not a PNG, JPEG or WebP image")


def wrapped(kind: str, store: bytes) -> bytes:
    """Return a manifest as the file has it."""
    if kind == "png":
        return struct.pack(">I", len(store)) + CHUNK + store + struct.pack(">I", zlib.crc32(CHUNK + store))
    if kind == "webp":
        return _WEBP_CHUNK + struct.pack("<I", len(store)) + store
    header, content = store[:8], store[8:]
    segments = []
    for number, at in enumerate(range(0, len(content), _SEGMENT_BYTES), 1):
        data = _JUMBF_HEAD.pack(_JUMBF, _BOX_NUMBER, number) + header + content[at : at + _SEGMENT_BYTES]
        segments.append(struct.pack(">BBH", 0xFF, _APP11, len(data) + 2) + data)
    return b"".join(segments)


def wrapped_bytes(kind: str, store_bytes: int) -> int:
    """Return the length of a manifest of this many bytes in a file."""
    if kind == "png":
        return store_bytes + 12
    if kind == "webp":
        return store_bytes + 8
    segments = -(-(store_bytes - 8) // _SEGMENT_BYTES)
    return store_bytes - 8 + segments * (4 + _JUMBF_HEAD.size + 8)


def find_store(image: bytes) -> FoundManifest | None:
    """Return the manifest of a file, or None if it has none. Raises BrokenFile."""
    kind = kind_of(image)
    try:
        return {"png": _in_png, "jpeg": _in_jpeg, "webp": _in_webp}[kind](image) if kind else None
    except struct.error as error:
        raise BrokenFile from error


def _in_png(data: bytes) -> FoundManifest | None:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind = data[at + 4 : at + 8]
        if kind == CHUNK:
            if length > MAX_STORE_BYTES or at + 12 + length > len(data):
                raise BrokenFile
            store = data[at + 8 : at + 8 + length]
            if struct.pack(">I", zlib.crc32(CHUNK + store)) != data[at + 8 + length : at + 12 + length]:
                raise BrokenFile
            return FoundManifest(at, length + 12, store)
        if kind == b"IEND":
            return None
        at += 12 + length
    return None


def _in_jpeg(data: bytes) -> FoundManifest | None:
    start, end, store = 0, 0, b""
    for at, marker, content in _segments(data):
        if marker != _APP11 or content[:2] != _JUMBF or content[12:16] != b"jumb":
            continue
        if not store:
            start, store = at, content[8:]
        elif at == end:
            store += content[16:]
        end = at + 4 + len(content)
    if not store:
        return None
    if len(store) != struct.unpack(">I", store[:4])[0]:
        raise BrokenFile
    return FoundManifest(start, end - start, store)


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield start, marker and content of the segments before the pixels of a JPEG file, and those at which they end."""
    at = 2
    while at + 4 <= len(data):
        prefix, marker, length = struct.unpack(">BBH", data[at : at + 4])
        if prefix != 0xFF or at + 2 + length > len(data):
            raise BrokenFile
        yield at, marker, data[at + 4 : at + 2 + length]
        if marker == 0xDA:
            return
        at += 2 + length


def _in_webp(data: bytes) -> FoundManifest | None:
    at = 12
    while at + 8 <= len(data):
        (length,) = struct.unpack("<I", data[at + 4 : at + 8])
        if data[at : at + 4] == _WEBP_CHUNK:
            if length > MAX_STORE_BYTES or at + 8 + length > len(data):
                raise BrokenFile
            return FoundManifest(at, 8 + length, data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return None
