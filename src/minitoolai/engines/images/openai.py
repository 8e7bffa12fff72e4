"""OpenAI-compatible servers (`/images/generations`, `/edits`, `/variations`) as image engines.

That API takes a prompt and a size. Seed, steps, guidance and negative prompt are sent only if the catalog says that the
server accepts them (`extended_fields`); otherwise the metadata of the image does not claim them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.clock import random_text
from minitoolai.core.errors import EngineError, EngineRefused, EngineTimeout, ServiceError
from minitoolai.core.inference import ImageTask
from minitoolai.core.threads import PICTURES
from minitoolai.engines.chat.failures import Fault, failure_in_answer, find_fault, read_error_body, upstream_failure
from minitoolai.engines.images.codec import cover, decode_image, encode_result, parameters_text
from minitoolai.engines.images.editing.pixels import mask_of
from minitoolai.engines.images.remote import RemoteServer, as_image_error
from minitoolai.engines.protocols import GeneratedImage, ImageRequest, OnProgress
from minitoolai.httpclient.client import HttpClient

#: Downloads an image from an untrusted URL. Raises EngineError.
Fetch = Callable[[str], Awaitable[bytes]]

_encode = msgspec.json.Encoder().encode
_TOTAL_TIMEOUT_S = 300.0
_DEFAULT_CONCURRENCY = 8
#: Images of one edit that OpenAI accepts.
_MAX_IMAGES = 16
_MAX_COOLDOWN_S = 60.0
#: Facts that OpenAI's API has no field for.
_UNSUPPORTED = frozenset({"Negative prompt", "Steps", "Sampler", "CFG scale", "Seed"})
_MODERATION_WORDS = ("content_policy", "moderation", "safety")


class UpstreamImageEngine:
    """One server with one API key. Ready if it has the key it needs."""

    def __init__(self, remote: RemoteServer, entry: EngineEntry, client: HttpClient, fetch: Fetch) -> None:
        self.name = remote.name
        self.max_concurrency = entry.concurrency or _DEFAULT_CONCURRENCY
        self.max_images = _MAX_IMAGES if entry.edit_images is None else entry.edit_images
        self._remote, self._entry, self._client, self._fetch = remote, entry, client, fetch
        self._total_timeout_s = entry.total_timeout_s or _TOTAL_TIMEOUT_S
        #: Cleared for servers that always respond in base64 and reject the field.
        self._sends_response_format = True
        self._cooldown_until_s = 0.0

    @property
    def is_up(self) -> bool:
        """Return False while the server's Retry-After has not passed."""
        return time.monotonic() >= self._cooldown_until_s

    def why_not_ready(self, model: str) -> str | None:
        return self._remote.fault

    def lora_names(self, model: str) -> Collection[str]:
        """Return nothing: a tag would be text to the server, so prompts with tags are refused."""
        return ()

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Return the model: batching is up to the server."""
        return model

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def generate(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        """Generate one image with one request. A refused request is not retried."""
        try:
            async with asyncio.timeout(self._total_timeout_s):
                data = await self._request_image(model, request)
        except TimeoutError:
            raise EngineTimeout(f"{THE_ENGINE} did not finish within {self._total_timeout_s:g} s") from None
        on_progress(request.steps, request.steps)
        served = self._entry.names.get(model, model)
        omitted = frozenset({"Sampler"}) if self._entry.extended_fields else _UNSUPPORTED
        png = await PICTURES.run(_to_png, data, request, model, omitted)
        return GeneratedImage(png=png, model=served)

    async def _request_image(self, model: str, request: ImageRequest) -> bytes:
        body = self._body(model, request)
        files = await PICTURES.run(_files, request) if request.images else []
        path = _PATHS[request.task]
        status, raw, retry_after = await self._send(path, body, files)
        if status == 400 and self._sends_response_format and b"response_format" in raw:
            # Nothing was generated or billed, so a second request has no cost.
            self._sends_response_format = False
            body.pop("response_format")
            status, raw, retry_after = await self._send(path, body, files)
        if status != 200:
            raise self._failure(status, retry_after, raw)
        if (fault := _fault_in(raw)) is not None:
            raise self._translated(failure_in_answer(fault, self._remote.label), raw)
        return await self._image_bytes(raw)

    def _body(self, model: str, request: ImageRequest) -> dict[str, Any]:
        width, height = nearest_size(request.width, request.height, self._entry.sizes)
        body: dict[str, Any] = {
            "model": self._entry.names.get(model, model),
            "prompt": request.prompt,
            "n": 1,
            "size": f"{width}x{height}",
        }
        if request.task == "variation":
            del body["prompt"]
        if request.quality:
            body["quality"] = request.quality
        if self._sends_response_format:
            body["response_format"] = "b64_json"
        if self._entry.extended_fields:
            body |= {
                "negative_prompt": request.negative_prompt,
                "num_inference_steps": request.steps,
                "guidance_scale": request.cfg_scale,
                "seed": request.seed,
                **({"strength": request.strength} if request.images else {}),
            }
        return body

    async def _send(
        self, path: str, body: Mapping[str, Any], files: Sequence[FormFile]
    ) -> tuple[int, bytes, str | None]:
        """Send a request as JSON, or as a form if it has files."""
        content_type, data = form_body(body, files) if files else ("application/json", _encode(body))
        remote = replace(self._remote, headers={**self._remote.headers, "content-type": content_type})
        response = await remote.request(self._client, "POST", path, body=data, read_timeout_s=self._total_timeout_s)
        if response.status == 200:
            return 200, await self._remote.read(response), None
        retry_after = response.headers.get("retry-after")
        return response.status, await read_error_body(response), retry_after

    def _failure(self, status: int, retry_after: str | None, raw: bytes) -> EngineError:
        return self._translated(upstream_failure(status, retry_after, raw, self._remote.label), raw)

    def _translated(self, failure: ServiceError, raw: bytes) -> EngineError:
        error = as_image_error(failure)
        if error.retry_after_s:
            self._cooldown_until_s = time.monotonic() + min(error.retry_after_s, _MAX_COOLDOWN_S)
        if isinstance(error, EngineRefused) and any(word.encode() in raw for word in _MODERATION_WORDS):
            return EngineRefused(error.message, param="prompt", code="content_policy")
        return error

    async def _image_bytes(self, raw: bytes) -> bytes:
        try:
            first = msgspec.json.decode(raw, type=_ImagesResponse).data[0]
            if first.b64_json:
                return base64.b64decode(first.b64_json, validate=True)
        except (msgspec.DecodeError, IndexError, binascii.Error, UnicodeDecodeError) as error:
            raise EngineError(f"{THE_ENGINE} sent an invalid image response") from error
        if not first.url:
            raise EngineError(f"{THE_ENGINE} sent a response without an image")
        return await self._download(first.url)

    async def _download(self, url: str) -> bytes:
        own, target = urlsplit(self._remote.base_url), urlsplit(url)
        if (target.scheme, target.netloc) == (own.scheme, own.netloc) or not target.netloc:
            path = target.path + (f"?{target.query}" if target.query else "")
            root = replace(self._remote, base_url=f"{own.scheme}://{own.netloc}", fault=None)
            response = await root.request(self._client, "GET", path, read_timeout_s=self._total_timeout_s)
            if response.status != 200:
                await read_error_body(response)
                raise EngineError(f"{THE_ENGINE} sent a URL without an image")
            return await root.read(response)
        # Another host gets no API key and is not trusted.
        return await self._fetch(url)


def _fault_in(raw: bytes) -> Fault | None:
    """Return the error in a response with status 200, if it is one in place of an image."""
    try:
        value = msgspec.json.decode(raw, type=_ErrorResponse)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return find_fault({"error": value.error}) if value.error else None


class _ErrorResponse(msgspec.Struct):
    error: Any = None


_PATHS: dict[ImageTask, str] = {
    "generate": "/images/generations",
    "edit": "/images/edits",
    "variation": "/images/variations",
}


class FormFile(NamedTuple):
    """A PNG in a form."""

    field: str
    data: bytes


def _files(request: ImageRequest) -> list[FormFile]:
    """Return the files of an edit. OpenAI redraws the transparent parts of a mask."""
    field = "image" if len(request.images) == 1 else "image[]"
    files = [FormFile(field, image) for image in request.images]
    mask = mask_of(request)
    if mask is not None:
        from PIL import Image, ImageChops

        page = Image.new("RGBA", mask.size)
        page.putalpha(ImageChops.invert(mask))
        file = io.BytesIO()
        page.save(file, "PNG", compress_level=1)
        files.append(FormFile("mask", file.getvalue()))
    return files


def form_body(fields: Mapping[str, Any], files: Sequence[FormFile]) -> tuple[str, bytes]:
    """Return the Content-Type and the body of a form."""
    boundary = f"form-{random_text(32)}"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for number, file in enumerate(files):
        head = f'name="{file.field}"; filename="{number}.png"\r\nContent-Type: image/png'
        parts += [f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode(), file.data, b"\r\n"]
    return f"multipart/form-data; boundary={boundary}", b"".join([*parts, f"--{boundary}--\r\n".encode()])


class _UpstreamImage(msgspec.Struct):
    b64_json: str | None = None
    url: str | None = None


class _ImagesResponse(msgspec.Struct):
    data: list[_UpstreamImage]


def nearest_size(width: int, height: int, offered: list[str]) -> tuple[int, int]:
    """Return the offered size that loses least: nearest aspect ratio, then the smallest that covers the request.

    Without offered sizes, return the requested one.
    """
    sizes = [(int(w), int(h)) for w, _, h in (size.partition("x") for size in offered)]

    def loss(size: tuple[int, int]) -> tuple[float, bool, int]:
        ratio = max(size[0] * height, width * size[1]) / min(size[0] * height, width * size[1])
        return round(ratio, 2), size[0] < width, size[0] * size[1]

    return min(sizes, key=loss) if sizes else (width, height)


def _to_png(data: bytes, request: ImageRequest, model: str, omitted: frozenset[str]) -> bytes:
    image = cover(decode_image(data), request.width, request.height)
    return encode_result(image, request, parameters_text(request, model, omitted=omitted))
