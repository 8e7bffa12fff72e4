"""Pictures in a chat: looked at before anything is held, and fetched here for engines that do not fetch themselves."""

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

#: (URL, name of its field) → what lies there. UrlForbidden, FetchFailed.
Fetch = Callable[[str, str], Awaitable[GuardedResponse]]
MOST_PICTURES = 32
#: Pictures on their way at once, for all requests of this process.
FETCHED_AT_ONCE = 16
#: Pictures unpacked at once: each may take 200 MB while it is.
UNPACKED_AT_ONCE = 2


class ImageInputs:
    """Checks the pictures of requests, and fetches where it must."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._slots = asyncio.Semaphore(FETCHED_AT_ONCE)
        self._hands = asyncio.Semaphore(UNPACKED_AT_ONCE)

    async def look(self, request: ChatRequest, *, must_fetch: bool, plain: bool = False) -> None:
        """Every picture by its own bytes; a URL stays one unless `must_fetch`. InvalidRequest names the field.

        What was looked at stands in the request afterwards as a data URL of its true kind; `plain`: of a PNG.
        """
        pictures = list(_pictures(request))
        if len(pictures) > MOST_PICTURES:
            raise InvalidRequest(
                f"{len(pictures)} pictures are too many; send at most {MOST_PICTURES}", param="messages"
            )
        await asyncio.gather(*(self._look(image, field, must_fetch, plain) for image, field in pictures))

    async def _look(self, image: dict[str, Any], field: str, must_fetch: bool, plain: bool) -> None:
        url: str = image["url"]
        if url.startswith("data:"):
            image["url"] = await asyncio.to_thread(_checked, url, field)
        elif must_fetch:
            async with self._slots:
                found = await self._fetch(url, field)
            if found.status != 200:
                raise FetchFailed(f"{field}: status {found.status} instead of a picture", param=field)
            image["url"] = await asyncio.to_thread(_data_url, found.body, field)
        if plain:
            async with self._hands:
                image["url"] = await asyncio.to_thread(_plain, image["url"], field)


def _pictures(request: ChatRequest) -> Iterator[tuple[dict[str, Any], str]]:
    for index, message in enumerate(request.messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("type") == "image_url":
                yield part["image_url"], f"messages[{index}].content[{place}].image_url.url"


def _checked(url: str, field: str) -> str:
    try:
        data = base64.b64decode(url.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{field} is not base64 after the comma", param=field, code="invalid_image") from None
    return _data_url(data, field)


def _data_url(data: bytes, field: str) -> str:
    if len(data) > MAX_BODY_BYTES:
        most = MAX_BODY_BYTES // 1024 // 1024
        raise InvalidRequest(f"{field} is a picture of more than {most} MB", param=field, code="image_too_large")
    kind = inspect_image(data, field=field).kind
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _plain(url: str, field: str) -> str:
    png = to_plain_png(base64.b64decode(url.partition(",")[2]), field=field)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
