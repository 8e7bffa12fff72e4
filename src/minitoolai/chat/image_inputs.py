"""Load and check the images of a chat before its cost is held.

Images given by URL are fetched here, through the SSRF-safe client, for engines that do not fetch URLs themselves.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from minitoolai.core.errors import FetchFailed, InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.core.threads import PICTURES
from minitoolai.engines.images.codec import inspect_image, to_plain_png
from minitoolai.http.bodies.bodies import run_in_body_thread
from minitoolai.httpclient.guarded import MAX_BODY_BYTES, GuardedResponse

#: (URL, name of its field) → response. Raises UrlForbidden or FetchFailed.
Fetch = Callable[[str, str], Awaitable[GuardedResponse]]
#: (URL, name of its field) → nothing. Raises UrlForbidden or FetchFailed.
CheckUrl = Callable[[str, str], Awaitable[None]]
MAX_IMAGES = 32
#: Maximum number of concurrent fetches, for all requests of this process.
MAX_CONCURRENT_FETCHES = 16
#: Maximum number of images decoded at the same time. Decoding may take 200 MB per image.
MAX_CONCURRENT_DECODES = 2
#: Decode this many base64 characters per step. A multiple of four.
BASE64_STEP = 256 * 1024
_MAX_BASE64 = (MAX_BODY_BYTES + 2) // 3 * 4


class ImageInputs:
    """Load the images of chat requests: fetch, check and, if necessary, convert them."""

    def __init__(self, fetch: Fetch, check: CheckUrl) -> None:
        """Create the loader. `check` checks a URL that an engine will fetch itself."""
        self._fetch = fetch
        self._check = check
        self._fetch_slots = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)
        self._decode_slots = asyncio.Semaphore(MAX_CONCURRENT_DECODES)

    async def load(self, request: ChatRequest, *, must_fetch: bool, as_png: bool = False) -> None:
        """Check every image by its bytes, and replace it in the request by a data URL of its actual type.

        Unless `must_fetch`, URLs are checked and left as they are. `as_png` converts all images to PNG. Raises
        InvalidRequest naming the field.
        """
        images = list(_image_parts(request))
        if len(images) > MAX_IMAGES:
            raise InvalidRequest(f"messages contain {len(images)} images; send at most {MAX_IMAGES}", param="messages")
        await asyncio.gather(*(self._load(image, field, must_fetch, as_png) for image, field in images))

    async def check_url(self, url: str, field: str) -> None:
        """Check a URL that an engine will fetch itself. Raises UrlForbidden or FetchFailed."""
        async with self._fetch_slots:
            await self._check(url, field)

    async def _load(self, image: dict[str, Any], field: str, must_fetch: bool, as_png: bool) -> None:
        url: str = image["url"]
        if url.startswith("data:"):
            image["url"] = await run_in_body_thread(_check_data_url, url, field)
        elif not must_fetch:
            await self.check_url(url, field)
        else:
            async with self._fetch_slots:
                response = await self._fetch(url, field)
            if response.status != 200:
                raise FetchFailed(
                    f"{field}: the server responded with status {response.status} instead of an image", param=field
                )
            image["url"] = await run_in_body_thread(_data_url, response.body, field)
        if as_png:
            async with self._decode_slots:
                image["url"] = await PICTURES.run(_png_data_url, image["url"], field)


def _image_parts(request: ChatRequest) -> Iterator[tuple[dict[str, Any], str]]:
    for index, message in enumerate(request.messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("type") == "image_url":
                yield part["image_url"], f"messages[{index}].content[{place}].image_url.url"


def _check_data_url(url: str, field: str) -> str:
    begin = url.find(",") + 1
    if len(url) - begin > _MAX_BASE64:
        raise _too_large(field)
    try:
        data = _decode_base64(url, begin)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"{field} is not valid base64 after the comma", param=field, code="invalid_image"
        ) from None
    kind = _kind_of(data, field)
    # Reuse the URL unless its type is wrong or its last character has stray bits.
    prefix, _, last = _encode_url(kind, data[len(data) - len(data) % 3 :]).partition(",")
    return url if url.startswith(f"{prefix},") and url.endswith(last) else _encode_url(kind, data)


def _data_url(data: bytes, field: str) -> str:
    return _encode_url(_kind_of(data, field), data)


def _kind_of(data: bytes, field: str) -> str:
    if len(data) > MAX_BODY_BYTES:
        raise _too_large(field)
    return inspect_image(data, field=field).kind


def _too_large(field: str) -> InvalidRequest:
    max_mb = MAX_BODY_BYTES // 1024 // 1024
    return InvalidRequest(
        f"{field} is an image of more than {max_mb} MB; send a smaller one", param=field, code="image_too_large"
    )


def _png_data_url(url: str, field: str) -> str:
    return _encode_url("png", to_plain_png(_decode_base64(url, url.find(",") + 1), field=field))


def _decode_base64(url: str, begin: int) -> bytes:
    """Decode the base64 text from `begin` on, in steps: one call would hold the GIL for too long."""
    pieces = [url[at : at + BASE64_STEP] for at in range(begin, len(url), BASE64_STEP)]
    if any("=" in piece for piece in pieces[:-1]):
        raise binascii.Error("data after padding")
    return b"".join([binascii.a2b_base64(piece, strict_mode=True) for piece in pieces])


def _encode_url(kind: str, data: bytes) -> str:
    size = BASE64_STEP // 4 * 3
    pieces = (binascii.b2a_base64(data[at : at + size], newline=False) for at in range(0, len(data), size))
    return f"data:image/{kind};base64," + "".join([piece.decode() for piece in pieces])
