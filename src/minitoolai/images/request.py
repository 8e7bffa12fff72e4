"""Parse and validate the bodies of image requests. Every refusal names the field and the allowed values."""

from __future__ import annotations

import re
from typing import Any, Literal, cast

import msgspec

from minitoolai.core.catalog.catalog import suggest_names
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import IMAGE_FORMATS, ImageFormat, ImageJobRequest
from minitoolai.engines.sampling import SCHEDULERS, nearest_schedulers, scheduler_named
from minitoolai.http.validation import expected, integer, json_object, non_empty_text, number, shortened
from minitoolai.httpclient.guarded import check_url

#: Largest number of characters in a prompt: enough for long lists of styles.
MAX_PROMPT = 8_000
MAX_SEED = 2**32 - 1
MAX_STEPS = 8
#: Most images of one request in OpenAI's format.
MAX_IMAGES = 10
MIN_CFG, MAX_CFG = 1.0, 7.0
SMALLEST_SIDE, LARGEST_SIDE = 256, 1344
DEFAULT_STEPS, DEFAULT_CFG, DEFAULT_SIDE, DEFAULT_SCHEDULER = 4, 2.0, 1024, "DPM++ SDE"
#: Quality of jpeg and webp without `output_compression`: marks survive it easily.
DEFAULT_COMPRESSION = 95
MAX_JOB_ID_DIGITS = 16

FIELDS = (
    "model",
    "prompt",
    "negativePrompt",
    "scheduler",
    "steps",
    "cfgScale",
    "width",
    "height",
    "quality",
    "seed",
    "output_format",
    "output_compression",
    "webhook_url",
)
#: Fields of OpenAI's format that have no effect here, and the values that are accepted because they change nothing.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "stream": (False,),
    "style": (),
    "partial_images": (0,),
}
OPENAI_FIELDS = ("n", "size", "response_format", "user", *_WITHOUT_EFFECT)
ResponseFormat = Literal["url", "b64_json"]


class GenerateRequest(msgspec.Struct, frozen=True):
    """A validated `POST /v1/images/generations`: one request per image."""

    images: list[ImageJobRequest]
    response_format: ResponseFormat


def parse_image(body: bytes, *, insecure_webhooks: bool = False) -> ImageJobRequest:
    """Parse the body of `POST /api/texttoimage/`. Raises InvalidRequest, which names the field."""
    fields = json_object(body)
    _refuse_unknown(fields, FIELDS)
    request = image_request(fields)
    url = fields.get("webhook_url")
    if url is None:
        return request
    text = non_empty_text(fields, "webhook_url")
    check_url(text, field="webhook_url", insecure=insecure_webhooks)
    return msgspec.structs.replace(request, webhook_url=text)


def parse_generate(body: bytes) -> GenerateRequest:
    """Parse OpenAI's format, extended by our own fields. Raises InvalidRequest, which names the field."""
    fields = json_object(body)
    known = tuple(name for name in FIELDS if name not in ("width", "height", "webhook_url")) + OPENAI_FIELDS
    check_fields(fields, known)
    response_format = response_format_of(fields)
    return GenerateRequest(image_requests(fields), response_format)


def check_fields(fields: dict[str, Any], known: tuple[str, ...]) -> None:
    """Refuse fields that are unknown, or known but without effect here and set to something else than their default."""
    _refuse_unknown(fields, known)
    for name, allowed in _WITHOUT_EFFECT.items():
        value = fields.get(name)
        if value is not None and not any(value is a or (value == a and type(value) is type(a)) for a in allowed):
            remedy = f"leave it out, or send {shortened(allowed[0])}" if allowed else "leave it out"
            raise InvalidRequest(f"{name} is {shortened(value)}, which is not supported; {remedy}", param=name)
    if fields.get("user") is not None:
        non_empty_text(fields, "user")


def response_format_of(fields: dict[str, Any]) -> ResponseFormat:
    """Return how OpenAI's format delivers the images: as links unless the request says otherwise."""
    response_format = fields.get("response_format")
    if response_format is None:
        response_format = "url"
    if not isinstance(response_format, str) or response_format not in ("url", "b64_json"):
        raise InvalidRequest(
            f"response_format must be url or b64_json; {expected('a string', response_format)}", param="response_format"
        )
    return cast(ResponseFormat, response_format)


def image_requests(fields: dict[str, Any], *, allow_empty: bool = False) -> list[ImageJobRequest]:
    """Return the `n` images of a request in OpenAI's format."""
    count = integer(fields, "n", 1, MAX_IMAGES) or 1
    width, height = _size(fields)
    request = image_request(fields, width=width, height=height, allow_empty=allow_empty)
    return [_with_seed_of(request, index) for index in range(count)]


def parse_job(body: bytes) -> tuple[int, str]:
    """Parse `{"jobid": "123" or 123, "signature": "…"}`. Raises InvalidRequest, which names the field."""
    fields = json_object(body)
    signature = fields.get("signature")
    if not isinstance(signature, str):
        raise InvalidRequest("signature must be the string that you received with the jobid", param="signature")
    return job_number(fields.get("jobid")), signature


def job_number(value: Any) -> int:
    """Return a job ID that is given as a number or in digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_JOB_ID_DIGITS:
        return int(value)
    if not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < 2**53 and value == value // 1:
        return int(value)
    raise InvalidRequest("jobid must be the number that you received when you submitted the job", param="jobid")


def image_request(
    fields: dict[str, Any], *, width: int | None = None, height: int | None = None, allow_empty: bool = False
) -> ImageJobRequest:
    """Return the image that these fields describe. `allow_empty`: also without a prompt."""
    return ImageJobRequest(
        model=non_empty_text(fields, "model"),
        prompt=_text(fields, "prompt") if allow_empty else _prompt(fields),
        negative_prompt=_text(fields, "negativePrompt"),
        scheduler=_scheduler(fields),
        steps=_whole(fields, "steps", 1, MAX_STEPS, DEFAULT_STEPS),
        cfg_scale=_cfg(fields),
        width=_side(fields, "width") if width is None else width,
        height=_side(fields, "height") if height is None else height,
        seed=_seed(fields),
        quality=_text(fields, "quality"),
        output_format=_output_format(fields),
        output_compression=_compression(fields),
    )


def _output_format(fields: dict[str, Any]) -> ImageFormat:
    value = fields.get("output_format")
    if value is None:
        return "png"
    name = "jpeg" if value == "jpg" else value
    if name not in IMAGE_FORMATS:
        raise InvalidRequest(
            f"output_format is {shortened(value)}; it must be {', '.join(IMAGE_FORMATS)}", param="output_format"
        )
    return cast(ImageFormat, name)


def _compression(fields: dict[str, Any]) -> int:
    quality = integer(fields, "output_compression", 0, 100)
    return DEFAULT_COMPRESSION if quality is None else quality


def _with_seed_of(request: ImageJobRequest, index: int) -> ImageJobRequest:
    """Give several images of one request consecutive seeds, so that they differ and each can be reproduced."""
    if request.seed is None or index == 0:
        return request
    return msgspec.structs.replace(request, seed=(request.seed + index) % (MAX_SEED + 1))


def _prompt(fields: dict[str, Any]) -> str:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        got = "" if prompt is None or isinstance(prompt, str) else f"; {expected('a string', prompt)}"
        raise InvalidRequest(f"prompt must be a non-empty string that describes the image{got}", param="prompt")
    return _text(fields, "prompt")


def _text(fields: dict[str, Any], name: str) -> str:
    text = fields.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} must be a string; {expected('a string', text)}", param=name)
    if len(text) > MAX_PROMPT:
        raise InvalidRequest(
            f"{name} has {len(text):,} characters; shorten it to {MAX_PROMPT:,}",
            param=name,
            code="string_above_max_length",
        )
    if "\0" in text:
        raise InvalidRequest(f"{name} contains a NUL character; remove it", param=name)
    return text


def _scheduler(fields: dict[str, Any]) -> str:
    name = fields.get("scheduler")
    if name is None:
        return DEFAULT_SCHEDULER
    known = scheduler_named(name) if isinstance(name, str) else None
    if known is None:
        remedy = nearest_schedulers(name) if isinstance(name, str) else f"available are {', '.join(SCHEDULERS)}"
        raise InvalidRequest(
            f"scheduler is {shortened(name)}, which is none of the {len(SCHEDULERS)}; {remedy}", param="scheduler"
        )
    return known


def _seed(fields: dict[str, Any]) -> int | None:
    """Return the seed. Like an absent one, -1 means that the server draws it, as in AUTOMATIC1111's web UI."""
    seed = integer(fields, "seed", -1, MAX_SEED)
    return None if seed == -1 else seed


def _cfg(fields: dict[str, Any]) -> float:
    value = number(fields, "cfgScale", MIN_CFG, MAX_CFG)
    return DEFAULT_CFG if value is None else float(value)


def _side(fields: dict[str, Any], name: str) -> int:
    return _whole(fields, name, SMALLEST_SIDE, LARGEST_SIDE, DEFAULT_SIDE)


def _whole(fields: dict[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = fields.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1):
        raise InvalidRequest(f"{name} must be a whole number from {low} to {high}", param=name)
    checked = integer(fields, name, low, high)
    return default if checked is None else checked


def _size(fields: dict[str, Any]) -> tuple[int, int]:
    size = fields.get("size")
    if size is None or size == "auto":
        return DEFAULT_SIDE, DEFAULT_SIDE
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", size) if isinstance(size, str) else None
    if match is None:
        raise InvalidRequest(f"size is {shortened(size)}; write it like 1024x768", param="size")
    width, height = int(match[1]), int(match[2])
    if not (SMALLEST_SIDE <= width <= LARGEST_SIDE and SMALLEST_SIDE <= height <= LARGEST_SIDE):
        raise InvalidRequest(
            f"size is {size}; width and height must each be from {SMALLEST_SIDE} to {LARGEST_SIDE}", param="size"
        )
    return width, height


def _refuse_unknown(fields: dict[str, Any], known: tuple[str, ...]) -> None:
    """Refuse unknown fields instead of ignoring them, because they are most likely misspelled."""
    for name, value in fields.items():
        if name not in known and value is not None:
            raise InvalidRequest(
                f"{shortened(name)} is not a field of this request; {suggest_names(name, dict.fromkeys(known))}",
                param=name[:100],
            )
