"""Bodies of chat requests into checked requests. Every refusal names the field and what would be right."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from minitoolai.chat.wire_options import check_options
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.http.validation import flag, integer, json_object, non_empty_text, shortened

Dialect = Literal["api", "openai"]

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
DEFAULT_LIMIT = 1000
LARGEST_INTEGER = 2**31
_IMAGE_TYPES = ("jpeg", "jpg", "png", "webp", "gif")
_DETAILS = ("auto", "low", "high")
_OURS = frozenset(("model", "messages", "stream", "max_completion_tokens", "max_tokens"))


def parse_chat(body: bytes, dialect: Dialect) -> ChatRequest:
    """The checked request; InvalidRequest names the field. `dialect` decides the defaults."""
    return check_chat(json_object(body), dialect)


def check_chat(fields: dict[str, Any], dialect: Dialect) -> ChatRequest:
    """The same for a body that is read already."""
    model = non_empty_text(fields, "model")
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(
            'messages must be a list with at least one message, like [{"role": "user", "content": "Hello"}]',
            param="messages",
        )
    seen = _Seen()
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]", seen)
    limit, is_default = _limit(fields, dialect)
    stream = flag(fields, "stream", default=dialect == "api")
    include_usage = wants_usage(fields) or dialect == "api"
    rest = {key: value for key, value in fields.items() if key not in _OURS and value is not None}
    check_options(rest)
    return ChatRequest(
        model=model,
        messages=messages,
        fields=rest,
        stream=stream,
        include_usage=include_usage,
        limit=limit,
        limit_is_default=is_default,
        choices=rest.get("n", 1),
        text_bytes=seen.text_bytes + (_schema_bytes(rest) if rest else 0),
        images=seen.images,
    )


def wants_usage(fields: dict[str, Any]) -> bool:
    """Whether the caller asks for the usage at the end of a stream."""
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object", param="stream_options")
    return flag(options, "include_usage", default=False, inside="stream_options.")


class _Seen:
    """What a walk over the messages adds up."""

    def __init__(self) -> None:
        self.text_bytes = 0
        self.images: list[str] = []


def _limit(fields: dict[str, Any], dialect: Dialect) -> tuple[int | None, bool]:
    """(limit, nobody asked for it). None means: the most the model can."""
    new = integer(fields, "max_completion_tokens", 1, LARGEST_INTEGER)
    old = integer(fields, "max_tokens", 1, LARGEST_INTEGER) if "max_tokens" in fields else None
    if new is not None and old is not None and new != old:
        raise InvalidRequest(
            f"max_tokens is the old name of max_completion_tokens; they are {old} and {new}: send one",
            param="max_tokens",
        )
    asked = new if new is not None else old
    if asked is not None:
        return asked, False
    return (DEFAULT_LIMIT if dialect == "api" else None), True


def _check_message(message: Any, at: str, seen: _Seen) -> None:
    if not isinstance(message, dict):
        raise InvalidRequest(f'{at} must be an object like {{"role": "user", "content": "Hello"}}', param=at)
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(
            f"{at}.role is {shortened(role)}; it must be one of {', '.join(ROLES[:5])}", param=f"{at}.role"
        )
    content = message.get("content")
    if isinstance(content, str):
        seen.text_bytes += len(content.encode("utf-8", "surrogatepass"))
    elif isinstance(content, list) and content:
        for index, part in enumerate(content):
            _check_part(part, f"{at}.content[{index}]", role, seen)
    elif content is not None or role not in ("assistant", "function"):
        raise InvalidRequest(f"{at}.content must be a string or a list of parts", param=f"{at}.content")
    if len(message) > 2 or "content" not in message:
        _check_the_rest(message, seen)


def _check_the_rest(message: dict[str, Any], seen: _Seen) -> None:
    """Names, tool calls and what else a message may carry are tokens, too."""
    for key, value in list(message.items()):
        if value is None and key != "content":
            _leave_out(message, key)
        elif key not in ("role", "content"):
            seen.text_bytes += len(msgspec.json.encode(value))


def _leave_out(fields: dict[str, Any], name: str) -> None:
    """Null means absent. SDKs send back what they were given, nulls and all, and some engines trip over them."""
    del fields[name]


def _check_part(part: Any, at: str, role: str, seen: _Seen) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal"):
        text = part.get(kind)
        if not isinstance(text, str):
            raise InvalidRequest(f"{at}.{kind} must be a string", param=f"{at}.{kind}")
        seen.text_bytes += len(text.encode("utf-8", "surrogatepass"))
    elif kind == "image_url":
        if role != "user":
            raise InvalidRequest(f"{at}: only a user message can carry an image", param=at)
        seen.images.append(_image_detail(part, at))
    else:
        raise InvalidRequest(f'{at}.type is {shortened(kind)}; it must be "text" or "image_url"', param=f"{at}.type")


def _image_detail(part: dict[str, Any], at: str) -> str:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(image, dict) or not isinstance(url, str):
        raise InvalidRequest(f'{at}.image_url must be an object like {{"url": "https://…"}}', param=f"{at}.image_url")
    is_picture = any(url.startswith(f"data:image/{kind};base64,") for kind in _IMAGE_TYPES)
    if not url.startswith("https://") and not is_picture:
        raise InvalidRequest(
            f"{at}.image_url.url must be an https URL, or a data URL of a jpg, jpeg, png, webp or gif",
            param=f"{at}.image_url.url",
        )
    if image.get("detail", "") is None:
        _leave_out(image, "detail")
    detail = image.get("detail", "auto")
    if detail not in _DETAILS:
        raise InvalidRequest(f"{at}.image_url.detail must be auto, low or high", param=f"{at}.image_url.detail")
    return str(detail)


def _schema_bytes(fields: dict[str, Any]) -> int:
    """Tools and schemas become part of the prompt."""
    return sum(
        len(msgspec.json.encode(fields[key])) for key in ("tools", "functions", "response_format") if key in fields
    )
