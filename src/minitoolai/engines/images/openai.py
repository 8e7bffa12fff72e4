"""Any server with OpenAI's `/images/generations` as an image engine.

That interface knows a prompt and a size. Seed, steps, guidance and a negative prompt are sent only where the catalog
says that the server takes them (`extended_fields`); otherwise the picture's metadata does not claim them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.errors import EngineError, EngineRefused, EngineTimeout
from minitoolai.engines.chat.openai import upstream_failure
from minitoolai.engines.images.codec import covering, parameters_text, png_with, read_picture
from minitoolai.engines.images.remote import Remote, as_picture_error
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress
from minitoolai.httpclient.client import HttpClient

#: Gets a picture from an address of somebody else's, as from a stranger's. EngineError.
Fetch = Callable[[str], Awaitable[bytes]]

_encode = msgspec.json.Encoder().encode
_TOTAL_S = 300.0
_ROWS = 8
_LONGEST_REST_S = 60.0
#: What OpenAI's interface has no field for.
_UNSAID = frozenset({"Negative prompt", "Steps", "Sampler", "CFG scale", "Seed"})
_MODERATED = ("content_policy", "moderation", "safety")


class UpstreamImages:
    """One server, one key. Ready when it has the key it needs."""

    def __init__(self, remote: Remote, entry: EngineEntry, client: HttpClient, fetch: Fetch) -> None:
        self.name = remote.name
        self.rows = entry.concurrency or _ROWS
        self._remote, self._entry, self._client, self._fetch = remote, entry, client, fetch
        self._total_s = entry.total_timeout_s or _TOTAL_S
        #: Some servers always answer in base64 and refuse to be asked for it.
        self._asks_for_base64 = True
        self._rests_until_s = 0.0

    @property
    def is_up(self) -> bool:
        """False for as long as it asked us to stay away."""
        return time.monotonic() >= self._rests_until_s

    def why_not_ready(self, model: str) -> str | None:
        return self._remote.fault

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Whom the server draws together is its own business."""
        return model

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def draw(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        """One request, one picture. A server that says no to the request is not asked again."""
        try:
            async with asyncio.timeout(self._total_s):
                data = await self._picture(model, request)
        except TimeoutError:
            raise EngineTimeout(f"{self.name} drew for longer than {self._total_s:g} s") from None
        on_progress(request.steps, request.steps)
        served = self._entry.names.get(model, model)
        left_out = frozenset({"Sampler"}) if self._entry.extended_fields else _UNSAID
        png = await asyncio.to_thread(_finished, data, request, served, self.name, left_out)
        return GeneratedImage(png=png, model=served)

    async def _picture(self, model: str, request: ImageRequest) -> bytes:
        body = self._body(model, request)
        status, raw, retry_after = await self._send(body)
        if status == 400 and self._asks_for_base64 and b"response_format" in raw:
            # Nothing was drawn, so nothing was billed: asking again costs nobody anything.
            self._asks_for_base64 = False
            body.pop("response_format")
            status, raw, retry_after = await self._send(body)
        if status != 200:
            raise self._failure(status, retry_after, raw)
        return await self._data_of(raw)

    def _body(self, model: str, request: ImageRequest) -> dict[str, Any]:
        width, height = nearest_size(request.width, request.height, self._entry.sizes)
        body: dict[str, Any] = {
            "model": self._entry.names.get(model, model),
            "prompt": request.prompt,
            "n": 1,
            "size": f"{width}x{height}",
        }
        if self._asks_for_base64:
            body["response_format"] = "b64_json"
        if self._entry.extended_fields:
            body |= {
                "negative_prompt": request.negative_prompt,
                "num_inference_steps": request.steps,
                "guidance_scale": request.cfg_scale,
                "seed": request.seed,
            }
        return body

    async def _send(self, body: Mapping[str, Any]) -> tuple[int, bytes, str | None]:
        answer = await self._remote.request(
            self._client, "POST", "/images/generations", body=_encode(body), silence_s=self._total_s
        )
        if answer.status == 200:
            return 200, await self._remote.read(answer), None
        retry_after = answer.headers.get("retry-after")
        return answer.status, await self._remote.read_error(answer), retry_after

    def _failure(self, status: int, retry_after: str | None, raw: bytes) -> EngineError:
        error = as_picture_error(upstream_failure(status, retry_after, raw, self.name))
        if error.retry_after_s:
            self._rests_until_s = time.monotonic() + min(error.retry_after_s, _LONGEST_REST_S)
        if isinstance(error, EngineRefused) and any(word.encode() in raw for word in _MODERATED):
            return EngineRefused(error.message, param="prompt", code="content_policy")
        return error

    async def _data_of(self, raw: bytes) -> bytes:
        try:
            first = msgspec.json.decode(raw, type=_ImagesResponse).data[0]
            if first.b64_json:
                return base64.b64decode(first.b64_json, validate=True)
        except (msgspec.DecodeError, IndexError, binascii.Error, UnicodeDecodeError) as error:
            raise EngineError(f"{self.name} answered something that is no picture") from error
        if not first.url:
            raise EngineError(f"{self.name} answered without a picture")
        return await self._fetched(first.url)

    async def _fetched(self, url: str) -> bytes:
        own, there = urlsplit(self._remote.base_url), urlsplit(url)
        if (there.scheme, there.netloc) == (own.scheme, own.netloc) or not there.netloc:
            path = there.path + (f"?{there.query}" if there.query else "")
            root = Remote(self.name, f"{own.scheme}://{own.netloc}", self._remote.headers, None)
            answer = await root.request(self._client, "GET", path, silence_s=self._total_s)
            if answer.status != 200:
                await root.read_error(answer)
                raise EngineError(f"{self.name} gave the address of a picture that is not there")
            return await root.read(answer)
        # Another host gets no key, and is trusted as little as any stranger.
        return await self._fetch(url)


class _UpstreamImage(msgspec.Struct):
    b64_json: str | None = None
    url: str | None = None


class _ImagesResponse(msgspec.Struct):
    data: list[_UpstreamImage]


def nearest_size(width: int, height: int, offered: list[str]) -> tuple[int, int]:
    """The offered size that loses least: nearest in shape, then the smallest that covers. Without any, as asked."""
    sizes = [(int(w), int(h)) for w, _, h in (size.partition("x") for size in offered)]

    def loss(size: tuple[int, int]) -> tuple[float, bool, int]:
        shape = max(size[0] * height, width * size[1]) / min(size[0] * height, width * size[1])
        return round(shape, 2), size[0] < width, size[0] * size[1]

    return min(sizes, key=loss) if sizes else (width, height)


def _finished(data: bytes, request: ImageRequest, model: str, engine: str, left_out: frozenset[str]) -> bytes:
    picture = covering(read_picture(data, engine), request.width, request.height)
    return png_with(picture, parameters_text(request, model, left_out=left_out))
