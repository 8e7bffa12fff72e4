"""Handle long image data URLs in JSON bodies separately from the other fields, and long base64 in a field `data`.

Base64 text is cheap to decode, so chats that carry images may be larger than others. Each long value is replaced by a
placeholder before the body is decoded, and restored afterwards. Anthropic's format has images and documents in `data`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from minitoolai.core.clock import random_text
from minitoolai.core.errors import BodyTooLarge

#: Values per body that are exempt from the text limit. Requests may have at most 32 images.
MOST_URLS = 64
#: Shorter values are decoded with the other fields.
LONG_URL = 64 * 1024
#: Scan and convert this many bytes per step.
STEP = 256 * 1024

_START = b'"data'
#: The start of a data URL, or a field `data` up to the start of its text. At most _LONGEST_START bytes.
_VALUE = re.compile(rb'"(?=data:image)|"data"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}"(?!data:)')
_LONGEST_START = 160
#: Some JSON encoders escape slashes.
_PREFIX = re.compile(rb"data:image\\?/[a-z.+-]{1,20};base64,")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
#: `+`, `/` and `=` as some JSON encoders write them.
_ESCAPED = re.compile(rb"\\u00(2[bBfF]|3[dD])")
_END_OF_KEY = re.compile(rb'"[ \t\r\n]{0,64}:')
#: Placeholders are this text and a number. It is random, so no honest body contains it.
_PLACEHOLDER = f"data:image#{random_text(24)}"


class TextCounter:
    """Count the bytes of a body outside of image data URLs while the body arrives.

    This is a cheap estimate that stops an upload early. `extract_urls` is exact.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts = self._text = self._urls = 0
        self._in_url = False
        #: The last bytes of the previous part, in case a data URL starts there.
        self._tail = b""

    def check(self, parts: Sequence[bytes], size: int) -> None:
        """Raise BodyTooLarge if `parts`, all that has arrived so far, contain too much text. `size`: their total."""
        if size <= self._limit:
            return
        for part in parts[self._parts :]:
            self._count(self._tail + part)
        self._parts = len(parts)
        if self._text > self._limit:
            raise too_much_text(self._limit)

    def _count(self, data: bytes) -> None:
        at = 0
        while True:
            if self._in_url:
                at = data.find(b'"', at)
                if at < 0:
                    self._tail = b""
                    return
                self._in_url = False
            start = _VALUE.search(data, at) if self._urls < MOST_URLS else None
            if start is None:
                # A start may be incomplete: its first bytes, or a field without its text.
                field = data.rfind(_START, max(at, len(data) - _LONGEST_START))
                end = field if field >= 0 else max(at, len(data) - len(_START) + 1)
                self._text += end - at
                self._tail = data[end:]
                return
            self._text += start.end() - at
            self._in_url, at = True, start.end()
            self._urls += 1


def too_much_text(limit: int) -> BodyTooLarge:
    """Return the error for a body with too many bytes outside of images."""
    return BodyTooLarge(f"The body has more than {limit // 1024 // 1024} MB besides images in base64. Send less.")


def extract_urls(body: bytes) -> tuple[bytes, list[str]]:
    """Return the body with placeholders for its long image data URLs and fields `data`, and these texts."""
    rest: list[bytes] = []
    urls: list[str] = []
    copied = at = 0
    for _ in range(MOST_URLS):
        at = _find_start(body, at)
        if at < 0:
            break
        end = body.find(b'"', at)
        # A quote after a backslash belongs to the text of some string.
        is_value = end - at > LONG_URL and body[at - 2 : at - 1] != b"\\" and not _END_OF_KEY.match(body, end)
        url = _decoded(body, at, end) if is_value else None
        if url is not None:
            rest += [body[copied:at], f"{_PLACEHOLDER}:{len(urls)}".encode()]
            urls.append(url)
            copied = end
        at = max(at, end)
    return (b"".join([*rest, body[copied:]]) if urls else body), urls


def _find_start(body: bytes, at: int) -> int:
    """Return where the next value starts, after its quote, or -1."""
    while at < len(body):
        found = body.find(_START, at, at + STEP + len(_START))
        if found < 0:
            at += STEP
        elif (start := _VALUE.match(body, found)) is not None:
            return start.end()
        else:
            at = found + 1
    return -1


def _decoded(body: bytes, at: int, end: int) -> str | None:
    """Return body[at:end] with JSON escapes resolved, or None if it is neither an image data URL nor base64."""
    prefix = _PREFIX.match(body, at, end)
    parts: list[str] = []
    if prefix is not None:
        parts, at = [prefix[0].replace(b"\\", b"").decode()], prefix.end()
    while at < end:
        piece = body[at : min(at + STEP, end)]
        # Do not split an escape sequence.
        cut = piece.rfind(b"\\", max(0, len(piece) - 5)) if at + STEP < end else -1
        piece = piece[:cut] if cut > 0 else piece
        at += len(piece)
        if b"\\" in piece:
            piece = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), piece.replace(b"\\/", b"/"))
        if piece.translate(None, _BASE64):
            return None
        parts.append(piece.decode())
    return "".join(parts)


def restore_urls(value: Any, urls: Sequence[str]) -> None:
    """Replace the placeholders in a decoded body by their URLs."""
    by_placeholder = {f"{_PLACEHOLDER}:{number}": url for number, url in enumerate(urls)}
    todo = [value]
    while todo:
        parent = todo.pop()
        for key, child in parent.items() if isinstance(parent, dict) else enumerate(parent):
            if isinstance(child, dict | list):
                todo.append(child)
            elif isinstance(child, str) and child.startswith(_PLACEHOLDER):
                parent[key] = by_placeholder.get(child, child)
