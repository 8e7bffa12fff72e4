"""Load and check the images of a chat before its cost is held.

Images given by URL are fetched here, through the SSRF-safe client, for engines that do not fetch URLs themselves.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from minitoolai.core.errors import FetchFailed, InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.images.codec import inspect_image, to_plain_png
from minitoolai.httpclient.guarded import MAX_BODY_BYTES, GuardedResponse

#: (URL, name of its field) → response. Raises UrlForbidden or FetchFailed.
Fetch = Callable[[str, str], Awaitable[GuardedResponse]]
MAX_IMAGES = 32
#: Maximum number of concurrent fetches, for all requests of this process.
MAX_CONCURRENT_FETCHES = 16
#: Maximum number of images decoded at the same time. Decoding may take 200 MB per image.
MAX_CONCURRENT_DECODES = 2


class ImageInputs:
    """Load the images of chat requests: fetch, check and, if necessary, convert them."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._fetch_slots = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)
        self._decode_slots = asyncio.Semaphore(MAX_CONCURRENT_DECODES)

    async def load(self, request: ChatRequest, *, must_fetch: bool, as_png: bool = False) -> None:
        """Check every image by its bytes, and replace it in the request by a data URL of its actual type.

        URLs are left as they are unless `must_fetch`. `as_png` converts all images to PNG. Raises InvalidRequest
        naming the field.
        """
        images = list(_image_parts(request))
        if len(images) > MAX_IMAGES:
            raise InvalidRequest(f"messages contain {len(images)} images; send at most {MAX_IMAGES}", param="messages")
        await asyncio.gather(*(self._load(image, field, must_fetch, as_png) for image, field in images))

    async def _load(self, image: dict[str, Any], field: str, must_fetch: bool, as_png: bool) -> None:
        url: str = image["url"]
        if url.startswith("data:"):
            image["url"] = await asyncio.to_thread(_check_data_url, url, field)
        elif must_fetch:
            async with self._fetch_slots:
                response = await self._fetch(url, field)
            if response.status != 200:
                raise FetchFailed(
                    f"{field}: the server responded with status {response.status} instead of an image", param=field
                )
            image["url"] = await asyncio.to_thread(_data_url, response.body, field)
        if as_png:
            async with self._decode_slots:
                image["url"] = await asyncio.to_thread(_png_data_url, image["url"], field)


def _image_parts(request: ChatRequest) -> Iterator[tuple[dict[str, Any], str]]:
    for index, message in enumerate(request.messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("type") == "image_url":
                yield part["image_url"], f"messages[{index}].content[{place}].image_url.url"


def _check_data_url(url: str, field: str) -> str:
    try:
        data = base64.b64decode(url.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"{field} is not valid base64 after the comma", param=field, code="invalid_image"
        ) from None
    return _data_url(data, field)


def _data_url(data: bytes, field: str) -> str:
    if len(data) > MAX_BODY_BYTES:
        max_mb = MAX_BODY_BYTES // 1024 // 1024
        raise InvalidRequest(
            f"{field} is an image of more than {max_mb} MB; send a smaller one", param=field, code="image_too_large"
        )
    kind = inspect_image(data, field=field).kind
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _png_data_url(url: str, field: str) -> str:
    png = to_plain_png(base64.b64decode(url.partition(",")[2]), field=field)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
