"""Unpack request bodies that were sent with `Content-Encoding: gzip` or `deflate`, within the limit of their route.

A few kilobytes can unpack to gigabytes, so the size is checked during unpacking, not afterwards.
"""

from __future__ import annotations

import zlib

from minitoolai.core.errors import InvalidRequest, UnsupportedContentEncoding
from minitoolai.http.validation import shortened

#: Unpack this much per step. zlib releases the GIL during each.
STEP = 256 * 1024
#: Most gzip members in one body: each costs a step, even if it is empty.
MAX_MEMBERS = 64
_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS


def coding_of(content_encoding: bytes) -> str | None:
    """Return gzip or deflate, or None if the body is not packed. Raises UnsupportedContentEncoding for another."""
    coding = content_encoding.strip().lower()
    if coding in (b"", b"identity"):
        return None
    if coding in (b"gzip", b"x-gzip"):
        return "gzip"
    if coding == b"deflate":
        return "deflate"
    name = shortened(content_encoding.decode("latin-1"))
    raise UnsupportedContentEncoding(f"Content-Encoding is {name}. Send the body as it is, or as gzip or deflate.")


def unpack(body: bytes, coding: str, max_bytes: int) -> bytes | None:
    """Return the unpacked body, or None if it has more than `max_bytes`. Raises InvalidRequest if it is damaged."""
    parts: list[bytes] = []
    room = max_bytes
    for _ in range(MAX_MEMBERS):
        unpacker = zlib.decompressobj(_window_bits(body, coding))
        data = body
        try:
            while not unpacker.eof:
                part = unpacker.decompress(data, min(STEP, room + 1))
                parts.append(part)
                room -= len(part)
                if room < 0:
                    return None
                data = unpacker.unconsumed_tail
                if not part and not data and not unpacker.eof:
                    raise _damaged(coding)
        except zlib.error:
            raise _damaged(coding) from None
        body = unpacker.unused_data
        if not body:
            return b"".join(parts)
        if coding != "gzip":
            break
    raise _damaged(coding)


def _window_bits(body: bytes, coding: str) -> int:
    """Return the format for zlib. Some clients send deflate without its zlib header."""
    if coding == "gzip":
        return _GZIP
    has_header = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    return _ZLIB if has_header else _RAW


def _damaged(coding: str) -> InvalidRequest:
    return InvalidRequest(
        f"The body is not valid {coding}, although Content-Encoding says so. Pack it anew, or send it as it is.",
        code="invalid_encoding",
    )
