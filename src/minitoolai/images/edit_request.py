"""Parse requests that change an uploaded image: OpenAI's forms, and `/api/imagetoimage/` as a form or as JSON."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from minitoolai.core.errors import BodyTooLarge, InvalidRequest
from minitoolai.core.inference import ImageJobRequest, ImageTask
from minitoolai.core.threads import UPLOADS
from minitoolai.core.transcription import UploadedFile
from minitoolai.http.asgi import Receive, Scope, headers_by_name
from minitoolai.http.bodies.bodies import LARGEST_BODY, MB, BodyLimits, read_parsed
from minitoolai.http.bodies.large_json import MOST_TEXT
from minitoolai.http.bodies.uploads import UPLOAD, FileForms, Form
from minitoolai.http.validation import expected, integer, json_object, number, shortened
from minitoolai.httpclient.guarded import check_url
from minitoolai.images.request import (
    FIELDS,
    LARGEST_SIDE,
    OPENAI_FIELDS,
    SMALLEST_SIDE,
    check_fields,
    image_request,
    image_requests,
    response_format_of,
)
from minitoolai.storage.uploads import UploadFolder

#: Most images of one request, as in OpenAI's API; most engines change one.
MAX_IMAGES_IN = 16
MIN_STRENGTH = 0.05
#: How much is redrawn if the request does not say: all of a mask, most of an image, enough for a variation.
MASK_STRENGTH, EDIT_STRENGTH, VARIATION_STRENGTH = 1.0, 0.75, 0.4
SCALES = (2, 4)
#: Largest side of an enlarged image.
MAX_ENLARGED_SIDE = 4096
_TASKS = ("edit", "variation", "upscale")
_OURS = ("strength", "task", "scale", "image", "mask")
_DATA_URL = re.compile(r"data:image/[a-z.+-]{1,20};base64,", re.IGNORECASE)
_JSON_LIMITS = BodyLimits(total=LARGEST_BODY, text=MOST_TEXT)
#: Fields of a form that are numbers in JSON.
_NUMBERS = frozenset(
    ("n", "seed", "steps", "cfgScale", "width", "height", "strength", "scale", "output_compression", "partial_images")
)
_FLAGS = frozenset(("stream",))


def image_forms(folder: UploadFolder, max_mb: int) -> FileForms:
    """Return what receives forms with images: together they may be four times as large as one of them."""
    return FileForms(
        folder,
        max_mb * MB,
        {"image": MAX_IMAGES_IN, "mask": 1},
        max_total_bytes=4 * max_mb * MB,
        remedy="Send a smaller image.",
        example="picture.png",
    )


class EditForms:
    """Receives the requests: a form with files, or JSON with data URLs."""

    def __init__(self, forms: FileForms) -> None:
        self._forms = forms

    @asynccontextmanager
    async def received(self, account_id: int, scope: Scope, receive: Receive) -> AsyncIterator[Form]:
        """Receive a request; its files are deleted at the end."""
        kind = headers_by_name(scope).get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json" or scope.get(UPLOAD) is not None:
            async with self._forms.received(account_id, scope, receive) as form:
                yield form
            return
        fields = await read_parsed(json_object, scope, receive, _JSON_LIMITS)
        with ExitStack() as stack:
            files: dict[str, list[UploadedFile]] = {}
            for name in ("image", "mask"):
                value = fields.pop(name, None)
                for data in [] if value is None else [_decoded(value, name, self._forms.rules.max_bytes)]:
                    path = stack.enter_context(self._forms.folder.reserved(account_id))
                    await UPLOADS.run(path.write_bytes, data)
                    files[name] = [UploadedFile(path, name, len(data), hashlib.sha256(data).hexdigest())]
            yield Form({}, files, fields)


def _decoded(value: Any, name: str, max_bytes: int) -> bytes:
    """Return the bytes of a data URL, or of plain base64."""
    if not isinstance(value, str):
        raise InvalidRequest(
            f"{name} must be a data URL such as data:image/png;base64,…; {expected('a string', value)}", param=name
        )
    match = _DATA_URL.match(value)
    text = value[match.end() :] if match else value
    if len(text) > max_bytes * 4 // 3 + 4:
        raise BodyTooLarge(
            f"{name} is larger than {max_bytes // 1024**2} MB. Send a smaller image.", param=name, code="file_too_large"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"{name} must be a data URL such as data:image/png;base64,…, or send a form with a file", param=name
        ) from None


class EditRequest(msgspec.Struct, frozen=True):
    """A validated request, but for the size of the result, which may depend on the upload: one job per image."""

    jobs: list[ImageJobRequest]
    images: list[Path]
    mask: Path | None
    response_format: Literal["url", "b64_json"] = "url"
    #: 0: as the uploaded image.
    width: int = 0
    height: int = 0
    #: How many times larger to make the image, for `upscale`.
    scale: int = 1

    @property
    def task(self) -> ImageTask:
        return self.jobs[0].task

    def sized(self, width: int, height: int) -> list[ImageJobRequest]:
        """Return the jobs for a result of this size."""
        return [msgspec.structs.replace(job, width=width, height=height) for job in self.jobs]

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Return the size of the result for an upload of this size. Raises InvalidRequest."""
        if self.scale > 1:
            enlarged = width * self.scale, height * self.scale
            if max(enlarged) > MAX_ENLARGED_SIDE:
                raise InvalidRequest(
                    f"scale {self.scale} would give {enlarged[0]} x {enlarged[1]} pixels; a side has at most "
                    f"{MAX_ENLARGED_SIDE}: send a smaller image or a smaller scale",
                    param="scale",
                )
            return enlarged
        if self.width and self.height:
            return self.width, self.height
        return fitted_size(width, height)


def fitted_size(width: int, height: int) -> tuple[int, int]:
    """Return the nearest size with this aspect ratio that is on offer. Raises InvalidRequest."""
    grow, shrink = SMALLEST_SIDE / min(width, height), LARGEST_SIDE / max(width, height)
    if grow > shrink:
        raise InvalidRequest(
            f"image has {width} x {height} pixels, which is too narrow; send one whose longer side is at most "
            f"{LARGEST_SIDE / SMALLEST_SIDE:g} times the other, or name a size",
            param="image",
        )
    scale = min(max(1.0, grow), shrink)
    return max(SMALLEST_SIDE, round(width * scale)), max(SMALLEST_SIDE, round(height * scale))


def parse_edit_form(form: Form, task: ImageTask) -> EditRequest:
    """Return the request of `POST /v1/images/edits` or `/variations`. Raises InvalidRequest, which names the field."""
    fields = _fields(form)
    known = [name for name in FIELDS if name not in ("width", "height", "webhook_url")]
    if task == "variation":
        fields.setdefault("prompt", "")
    check_fields(fields, (*known, *OPENAI_FIELDS, *_OURS, "input_fidelity"))
    fidelity = fields.get("input_fidelity")
    if fidelity not in (None, "low", "high"):
        raise InvalidRequest(f"input_fidelity is {shortened(fidelity)}; it must be low or high", param="input_fidelity")
    size = fields.get("size")
    jobs = image_requests(fields, allow_empty=task == "variation")
    width, height = (0, 0) if size in (None, "auto") else (jobs[0].width, jobs[0].height)
    return _edit(form, fields, jobs, task, width, height, response_format_of(fields))


def parse_edit_job(form: Form, *, insecure_webhooks: bool = False) -> EditRequest:
    """Return the request of `POST /api/imagetoimage/`. Raises InvalidRequest, which names the field."""
    fields = _fields(form)
    task = "edit" if fields.get("task") is None else fields["task"]
    if task not in _TASKS:
        raise InvalidRequest(f"task is {shortened(task)}; it must be {', '.join(_TASKS)}", param="task")
    if task != "edit":
        fields.setdefault("prompt", "")
    check_fields(fields, (*FIELDS, *_OURS))
    job = image_request(fields, allow_empty=task != "edit")
    width, height = fields.get("width"), fields.get("height")
    if (width is None) != (height is None):
        missing = "width" if width is None else "height"
        raise InvalidRequest(
            f"{missing} is missing: send both width and height, or neither for those of the image", param=missing
        )
    url = fields.get("webhook_url")
    if url is not None:
        if not isinstance(url, str):
            raise InvalidRequest(f"webhook_url must be a string; {expected('a string', url)}", param="webhook_url")
        check_url(url, field="webhook_url", insecure=insecure_webhooks)
        job = msgspec.structs.replace(job, webhook_url=url)
    given = (0, 0) if width is None else (job.width, job.height)
    return _edit(form, fields, [job], cast(ImageTask, task), *given)


def _edit(
    form: Form,
    fields: dict[str, Any],
    jobs: list[ImageJobRequest],
    task: ImageTask,
    width: int,
    height: int,
    response_format: Literal["url", "b64_json"] = "url",
) -> EditRequest:
    images, masks = form.files.get("image", []), form.files.get("mask", [])
    if not images:
        raise InvalidRequest(
            "image is missing: attach it as a form field, with a filename. With curl: -F image=@picture.png",
            param="image",
        )
    if masks and task != "edit":
        raise InvalidRequest(f"mask has no meaning for {task}; leave it out", param="mask")
    if len(images) > 1 and task != "edit":
        raise InvalidRequest(f"image was sent {len(images)} times; send one for {task}", param="image")
    scale = _scale(fields, task)
    if scale > 1 and width:
        raise InvalidRequest("width and height follow from scale; leave them out", param="width")
    strength = _strength(fields, task, has_mask=bool(masks))
    jobs = [msgspec.structs.replace(job, task=task, strength=strength) for job in jobs]
    paths = [image.path for image in images]
    return EditRequest(jobs, paths, masks[0].path if masks else None, response_format, width, height, scale)


def _scale(fields: dict[str, Any], task: ImageTask) -> int:
    scale = integer(fields, "scale", SCALES[0], SCALES[-1])
    if task != "upscale":
        if scale is not None:
            raise InvalidRequest("scale belongs to task upscale; leave it out", param="scale")
        return 1
    if scale not in (None, *SCALES):
        raise InvalidRequest(f"scale is {scale}; it must be 2 or 4", param="scale")
    return scale or SCALES[0]


def _strength(fields: dict[str, Any], task: ImageTask, *, has_mask: bool) -> float:
    value = number(fields, "strength", MIN_STRENGTH, 1.0)
    if value is not None:
        if task == "upscale":
            raise InvalidRequest("strength has no meaning for upscale; leave it out", param="strength")
        return float(value)
    if task == "variation":
        return VARIATION_STRENGTH
    return MASK_STRENGTH if has_mask or task == "upscale" else EDIT_STRENGTH


def _fields(form: Form) -> dict[str, Any]:
    """Return the fields as JSON has them. An empty field of a form counts as absent."""
    if form.json is not None:
        return dict(form.json)
    fields: dict[str, Any] = {}
    for name, values in form.fields.items():
        if len(values) > 1:
            raise InvalidRequest(f"{name[:64]} was sent {len(values)} times; send it once", param=name[:64])
        if values[0] == "" and name != "prompt":
            continue
        fields[name] = _typed(name, values[0])
    return fields


def _typed(name: str, text: str) -> Any:
    """Return a field as a number or a boolean if it is one, else the text, for the error."""
    if name in _FLAGS and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if name in _NUMBERS and re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", text.strip()):
        return float(text) if "." in text else int(text)
    return text
