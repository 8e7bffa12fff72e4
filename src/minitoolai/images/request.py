"""Bodies of image requests into checked asks. Every refusal names the field and what would be right."""

from __future__ import annotations

import re
from typing import Any, Literal, cast

import msgspec

from minitoolai.core.catalog import suggest_names
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ImageJobRequest
from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.http.validation import integer, json_object, non_empty_text, number, shortened
from minitoolai.httpclient.guarded import check_url

#: Characters of a prompt. Long enough for every style list, short enough to read.
LONGEST_PROMPT = 8_000
LARGEST_SEED = 2**32 - 1
MOST_STEPS = 8
LOWEST_CFG, HIGHEST_CFG = 1.0, 7.0
SMALLEST_SIDE, LARGEST_SIDE = 256, 1344
DEFAULT_STEPS, DEFAULT_CFG, DEFAULT_SIDE, DEFAULT_SCHEDULER = 4, 2.0, 1024, "DPM++ SDE"
LONGEST_JOB_ID = 16

_FIELDS = (
    "model",
    "prompt",
    "negativePrompt",
    "scheduler",
    "steps",
    "cfgScale",
    "width",
    "height",
    "seed",
    "webhook_url",
)
#: What OpenAI's clients may send that means nothing here, and the values that ask for nothing else.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "quality": ("auto", "standard"),
    "output_format": ("png",),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "stream": (False,),
    "style": (),
    "output_compression": (100,),
    "partial_images": (0,),
}
_OPENAI_FIELDS = ("n", "size", "response_format", "user", *_HARMLESS)
ResponseFormat = Literal["url", "b64_json"]


class Generate(msgspec.Struct, frozen=True):
    """`POST /v1/images/generations`, checked: one ask for each picture."""

    asks: list[ImageJobRequest]
    form: ResponseFormat


def parse_image(body: bytes, *, insecure_webhooks: bool = False) -> ImageJobRequest:
    """The contract's own form; InvalidRequest names the field."""
    fields = json_object(body)
    _refuse_unknown(fields, _FIELDS)
    ask = _ask(fields, width=_side(fields, "width"), height=_side(fields, "height"))
    url = fields.get("webhook_url")
    if url is None:
        return ask
    text = non_empty_text(fields, "webhook_url")
    check_url(text, field="webhook_url", insecure=insecure_webhooks)
    return msgspec.structs.replace(ask, webhook_url=text)


def parse_generate(body: bytes) -> Generate:
    """OpenAI's form, with the contract's other fields as extras; InvalidRequest names the field."""
    fields = json_object(body)
    known = tuple(name for name in _FIELDS if name not in ("width", "height", "webhook_url")) + _OPENAI_FIELDS
    _refuse_unknown(fields, known)
    for name, allowed in _HARMLESS.items():
        value = fields.get(name)
        if value is not None and not any(value is a or (value == a and type(value) is type(a)) for a in allowed):
            only = f"leave it out, or send {shortened(allowed[0])}" if allowed else "leave it out"
            raise InvalidRequest(f"{name} is {shortened(value)}, which is not offered here; {only}", param=name)
    if fields.get("user") is not None:
        non_empty_text(fields, "user")
    form = fields.get("response_format") or "url"
    if form not in ("url", "b64_json"):
        raise InvalidRequest(
            f"response_format is {shortened(form)}; it must be url or b64_json", param="response_format"
        )
    count = integer(fields, "n", 1, 4) or 1
    width, height = _size(fields)
    ask = _ask(fields, width=width, height=height)
    return Generate([_numbered(ask, index) for index in range(count)], cast(ResponseFormat, form))


def parse_job(body: bytes) -> tuple[int, str]:
    """`{"jobid": "123" or 123, "signature": "…"}`; InvalidRequest names the field."""
    fields = json_object(body)
    signature = fields.get("signature")
    if not isinstance(signature, str):
        raise InvalidRequest("signature must be the string that came with the jobid", param="signature")
    return job_number(fields.get("jobid")), signature


def job_number(value: Any) -> int:
    """A job's number, as a number or in digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= LONGEST_JOB_ID:
        return int(value)
    if not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < 2**53 and value == value // 1:
        return int(value)
    raise InvalidRequest("jobid must be the number that the answer to your request gave", param="jobid")


def _ask(fields: dict[str, Any], *, width: int, height: int) -> ImageJobRequest:
    return ImageJobRequest(
        model=non_empty_text(fields, "model"),
        prompt=_prompt(fields),
        negative_prompt=_text(fields, "negativePrompt"),
        scheduler=_scheduler(fields),
        steps=_whole(fields, "steps", 1, MOST_STEPS, DEFAULT_STEPS),
        cfg_scale=_cfg(fields),
        width=width,
        height=height,
        seed=integer(fields, "seed", 0, LARGEST_SEED),
    )


def _numbered(ask: ImageJobRequest, index: int) -> ImageJobRequest:
    """The seeds of several pictures follow each other, so that they differ and each can be drawn again."""
    if ask.seed is None or index == 0:
        return ask
    return msgspec.structs.replace(ask, seed=(ask.seed + index) % (LARGEST_SEED + 1))


def _prompt(fields: dict[str, Any]) -> str:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidRequest("prompt must be a string that says what to draw", param="prompt")
    return _text(fields, "prompt")


def _text(fields: dict[str, Any], name: str) -> str:
    text = fields.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} must be a string", param=name)
    if len(text) > LONGEST_PROMPT:
        raise InvalidRequest(
            f"{name} has {len(text):,} characters; it may have {LONGEST_PROMPT:,}",
            param=name,
            code="string_above_max_length",
        )
    if "\0" in text:
        raise InvalidRequest(f"{name} has a NUL character in it; leave it out", param=name)
    return text


def _scheduler(fields: dict[str, Any]) -> str:
    name = fields.get("scheduler")
    if name is None:
        return DEFAULT_SCHEDULER
    if not isinstance(name, str) or name not in SCHEDULERS:
        known = suggest_names(name, dict.fromkeys(SCHEDULERS)) if isinstance(name, str) else f"on offer are {_all()}"
        raise InvalidRequest(
            f"scheduler is {shortened(name)}, which is none of the {len(SCHEDULERS)}; {known}", param="scheduler"
        )
    return name


def _all() -> str:
    return ", ".join(SCHEDULERS)


def _cfg(fields: dict[str, Any]) -> float:
    value = number(fields, "cfgScale", LOWEST_CFG, HIGHEST_CFG)
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
    """A field that would do nothing is a mistake, most likely of spelling."""
    for name, value in fields.items():
        if name not in known and value is not None:
            raise InvalidRequest(
                f"{shortened(name)} is no field of this request; {suggest_names(name, dict.fromkeys(known))}",
                param=name[:100],
            )
