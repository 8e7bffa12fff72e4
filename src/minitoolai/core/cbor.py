"""Encode and decode CBOR (RFC 8949), as far as C2PA manifests need it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

#: Deeper nesting is refused.
MAX_DEPTH = 32


class Tagged:
    """A value with a CBOR tag."""

    __slots__ = ("tag", "value")

    def __init__(self, tag: int, value: Any) -> None:
        self.tag = tag
        self.value = value


class Wide(int):
    """An integer that is always encoded in five bytes, so that its value does not change the length."""


def encode(value: Any) -> bytes:
    """Encode with definite lengths. Maps keep their order."""
    out: list[bytes] = []
    _encode(value, out)
    return b"".join(out)


def _encode(value: Any, out: list[bytes]) -> None:
    match value:
        case None:
            out.append(b"\xf6")
        case bool():
            out.append(b"\xf5" if value else b"\xf4")
        case Wide():
            out.append(struct.pack(">BI", 0x1A, value))
        case int():
            out.append(_head(0, value) if value >= 0 else _head(1, -1 - value))
        case bytes():
            out.extend((_head(2, len(value)), value))
        case str():
            text = value.encode()
            out.extend((_head(3, len(text)), text))
        case Mapping():
            out.append(_head(5, len(value)))
            for key, each in value.items():
                _encode(key, out)
                _encode(each, out)
        case Sequence():
            out.append(_head(4, len(value)))
            for each in value:
                _encode(each, out)
        case Tagged():
            out.append(_head(6, value.tag))
            _encode(value.value, out)
        case _:
            raise TypeError(f"{type(value).__name__} cannot be encoded as CBOR")


def _head(major: int, number: int) -> bytes:
    first = major << 5
    if number < 24:
        return bytes([first | number])
    for more, layout, limit in ((24, ">BB", 2**8), (25, ">BH", 2**16), (26, ">BI", 2**32), (27, ">BQ", 2**64)):
        if number < limit:
            return struct.pack(layout, first | more, number)
    raise ValueError("the number is too large for CBOR")


def decode(data: bytes) -> Any:
    """Decode one value. Raise ValueError if the data is invalid, truncated or nested too deeply."""
    try:
        value, end = _decode(data, 0, 0)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise ValueError("invalid CBOR") from error
    if end > len(data):
        raise ValueError("truncated CBOR")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise ValueError("the CBOR is nested too deeply")
    major, more = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        return _decode_simple(data, at, more)
    if more == 31:
        return _decode_indefinite(data, at, major, depth)
    number, at = _number(data, at, more)
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        if at + number > len(data):
            raise ValueError("truncated CBOR")
        part = data[at : at + number]
        return (part if major == 2 else part.decode()), at + number
    if major == 6:
        value, at = _decode(data, at, depth + 1)
        return Tagged(number, value), at
    if number > len(data):
        raise ValueError("truncated CBOR")
    items: list[Any] = []
    for _ in range(number * (2 if major == 5 else 1)):
        item, at = _decode(data, at, depth + 1)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if major == 5 else items), at


def _decode_indefinite(data: bytes, at: int, major: int, depth: int) -> tuple[Any, int]:
    items: list[Any] = []
    while data[at] != 0xFF:
        item, at = _decode(data, at, depth + 1)
        items.append(item)
    at += 1
    if major in (2, 3):
        return (b"" if major == 2 else "").join(items), at
    if major == 5:
        return dict(zip(items[::2], items[1::2], strict=True)), at
    if major != 4:
        raise ValueError("invalid CBOR")
    return items, at


def _decode_simple(data: bytes, at: int, more: int) -> tuple[Any, int]:
    if more in (25, 26, 27):
        layout, size = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}[more]
        return struct.unpack(layout, data[at : at + size])[0], at + size
    if more not in (20, 21, 22, 23):
        raise ValueError("invalid CBOR")
    return {20: False, 21: True, 22: None, 23: None}[more], at


def _number(data: bytes, at: int, more: int) -> tuple[int, int]:
    if more < 24:
        return more, at
    if more > 27:
        raise ValueError("invalid CBOR")
    size = 1 << (more - 24)
    if at + size > len(data):
        raise ValueError("truncated CBOR")
    return int.from_bytes(data[at : at + size], "big"), at + size
