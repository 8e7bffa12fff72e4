"""Parse and validate chat requests. Every error names the field and says which values are valid."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from minitoolai.chat.preferences import requested_model, take_preferences
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.core.request_fields import (
    CHAT_FIELDS,
    UNPRICED_FIELDS,
    named_bytes,
    other_bytes,
    prompt_bytes,
    split_fields,
)
from minitoolai.http.validation import flag, integer, json_object, number, shortened

# ── optional fields: tools, formats, penalties and the like ──────────────────────────────────────────────

Fields = dict[str, Any]

MAX_TOOLS = 128
MAX_STOPS = 16
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_LARGEST = 2**63 - 1


def check_options(fields: Fields) -> None:
    """Raise InvalidRequest for the first invalid field. Unknown fields are not checked."""
    for name in fields:
        check = _CHECKS.get(name)
        if check is not None:
            check(fields, name)


def check_unpriced(fields: Fields) -> None:
    """Raise InvalidRequest for the first field with an extra cost that the catalog does not price."""
    for name in UNPRICED_FIELDS:
        if fields.get(name) is not None:
            raise InvalidRequest(f"{name} is not supported: its cost has no price here. Leave it out", param=name)


def _refuse(name: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{name} must be {remedy}", param=name)


def _seed(fields: Fields, name: str) -> None:
    integer(fields, name, -_LARGEST - 1, _LARGEST)


def _temperature(fields: Fields, name: str) -> None:
    number(fields, name, 0.0, 2.0)


def _top_p(fields: Fields, name: str) -> None:
    number(fields, name, 0.0, 1.0)


def _choices(fields: Fields, name: str) -> None:
    integer(fields, name, 1, 128)


def _penalty(fields: Fields, name: str) -> None:
    number(fields, name, -2.0, 2.0)


def _flag(fields: Fields, name: str) -> None:
    flag(fields, name, default=False)


def _service_tier(fields: Fields, name: str) -> None:
    # The other tiers cost more than the catalog's price.
    if fields[name] not in ("auto", "default", "flex"):
        raise InvalidRequest(
            f"{name} is {shortened(fields[name])}; here it may be auto, default or flex. Leave it out", param=name
        )


def _modalities(fields: Fields, name: str) -> None:
    if fields[name] != ["text"]:
        raise InvalidRequest(
            f'{name} must be ["text"]: other output than text has no price here. Leave it out', param=name
        )


def _text(fields: Fields, name: str) -> None:
    if not isinstance(fields[name], str):
        raise _refuse(name, "a string")


def _top_logprobs(fields: Fields, name: str) -> None:
    integer(fields, name, 0, 20)
    if not fields.get("logprobs"):
        raise InvalidRequest(f"{name} needs logprobs to be true", param=name)


def _stop(fields: Fields, name: str) -> None:
    value = fields[name]
    texts = value if isinstance(value, list) else [value]
    if len(texts) > MAX_STOPS or not all(isinstance(text, str) for text in texts):
        raise _refuse(name, f"a string, or a list of at most {MAX_STOPS} strings")


def _logit_bias(fields: Fields, name: str) -> None:
    # llama.cpp also accepts a list of pairs, and validates it itself.
    value = fields[name]
    if isinstance(value, list):
        return
    numbers = value.values() if isinstance(value, dict) else [None]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and -100 <= n <= 100 for n in numbers):
        raise _refuse(name, 'an object of token ids and numbers from -100 to 100, like {"50256": -100}')


def _metadata(fields: Fields, name: str) -> None:
    value = fields[name]
    if not isinstance(value, dict) or len(value) > 16:
        raise _refuse(name, "an object of at most 16 strings")
    if not all(isinstance(text, str) and len(text) <= 512 and len(key) <= 64 for key, text in value.items()):
        raise _refuse(name, "an object whose names have at most 64 characters and whose strings at most 512")


def _tools(fields: Fields, name: str) -> None:
    tools = fields[name]
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise _refuse(name, f"a list of at most {MAX_TOOLS} tools")
    tools[:] = [_nested(tool) for tool in tools]
    for index, tool in enumerate(tools):
        at = f"{name}[{index}]"
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise _refuse(at, 'an object like {"type": "function", "function": {"name": "…", "parameters": {…}}}')
        if tool["type"] == "function":
            check_function(tool.get("function"), f"{at}.function")


def _nested(tool: Any) -> Any:
    """Return a function tool in the format of a chat. Agents send the flat ones of /v1/responses and Anthropic, too."""
    is_flat = isinstance(tool, dict) and isinstance(tool.get("name"), str) and "function" not in tool
    if not is_flat or tool.get("type", "function") != "function":
        return tool
    function = {key: value for key, value in tool.items() if key != "type" and value is not None}
    if "input_schema" in function:
        function.setdefault("parameters", function.pop("input_schema"))
    return {"type": "function", "function": function}


def check_function(function: Any, at: str) -> None:
    """Raise InvalidRequest unless this is a function with a valid name. `at` is its place in the request."""
    if not isinstance(function, dict):
        raise _refuse(at, 'an object like {"name": "…", "parameters": {…}}')
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refuse(f"{at}.name", "1 to 64 letters, digits, dots, _ or -")
    for field, kind, remedy in (
        ("description", str, "a string"),
        ("parameters", dict, "a JSON schema"),
        ("strict", bool, "true or false"),
    ):
        if not isinstance(function.get(field), kind | None):
            raise _refuse(f"{at}.{field}", remedy)


def _tool_choice(fields: Fields, name: str) -> None:
    value = fields[name] = _nested_choice(fields[name])
    if not fields.get("tools") and value not in ("none", "auto"):
        raise InvalidRequest(f"{name} needs tools to choose from: send tools, too", param=name)
    if value in ("none", "auto", "required"):
        return
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise _refuse(name, 'none, auto, required or {"type": "function", "function": {"name": "…"}}')
    if value["type"] == "function":
        _check_function_exists(fields, value.get("function"), name)


def _nested_choice(choice: Any) -> Any:
    """Return the tool choice in the format of a chat, like `_nested`."""
    if not isinstance(choice, dict) or "function" in choice:
        return choice
    kind = choice.get("type")
    if kind in ("none", "auto", "required", "any") and choice.keys() == {"type"}:
        return "required" if kind == "any" else kind
    if kind in ("function", "tool") and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


def _check_function_exists(fields: Fields, function: Any, name: str) -> None:
    wanted = function.get("name") if isinstance(function, dict) else None
    functions = [tool.get("function") for tool in fields["tools"] if isinstance(tool, dict)]
    offered = [function.get("name") for function in functions if isinstance(function, dict)]
    if wanted not in offered:
        names = ", ".join(map(str, offered)) or "none"
        raise InvalidRequest(
            f"{name}.function.name is {shortened(wanted)}; the functions in tools are {names[:200]}",
            param=f"{name}.function.name",
        )


def _response_format(fields: Fields, name: str) -> None:
    value = fields[name]
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise InvalidRequest(
            f"{name}.type is {shortened(kind)}; it must be text, json_object or json_schema", param=f"{name}.type"
        )
    if kind != "json_schema":
        return
    format_, at = value.get("json_schema"), f"{name}.json_schema"
    if not isinstance(format_, dict):
        raise _refuse(at, 'an object like {"name": "…", "schema": {…}, "strict": true}')
    label = format_.get("name")
    if not isinstance(label, str) or not _NAME.fullmatch(label):
        raise _refuse(f"{at}.name", "1 to 64 letters, digits, dots, _ or -")
    if not isinstance(format_.get("schema"), dict | None):
        raise _refuse(f"{at}.schema", "a JSON schema")
    if not isinstance(format_.get("strict"), bool | None):
        raise _refuse(f"{at}.strict", "true or false")


_CHECKS: dict[str, Callable[[Fields, str], None]] = {
    "temperature": _temperature,
    "top_p": _top_p,
    "n": _choices,
    "seed": _seed,
    "presence_penalty": _penalty,
    "frequency_penalty": _penalty,
    "logprobs": _flag,
    "top_logprobs": _top_logprobs,
    "stop": _stop,
    "logit_bias": _logit_bias,
    "metadata": _metadata,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _flag,
    "response_format": _response_format,
    "reasoning_effort": _text,
    "user": _text,
    "service_tier": _service_tier,
    "modalities": _modalities,
    "store": _flag,
    **dict.fromkeys(UNPRICED_FIELDS, lambda fields, _: check_unpriced(fields)),
}


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────

DialectName = Literal["api", "openai"]

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
DEFAULT_LIMIT = 1000
LARGEST_INTEGER = 2**31
_IMAGE_TYPES = ("jpeg", "jpg", "png", "webp", "gif")
_DETAILS = ("auto", "low", "high")
_OURS = frozenset(("model", "messages", "stream", "max_completion_tokens", "max_tokens"))


def parse_chat(body: bytes, dialect: DialectName) -> ChatRequest:
    """Return the validated request. `dialect` decides the defaults. InvalidRequest names the field."""
    return check_chat(json_object(body), dialect)


def check_chat(fields: dict[str, Any], dialect: DialectName) -> ChatRequest:
    """Return the validated request for an already decoded body."""
    model = requested_model(fields)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(
            'messages must be a list with at least one message, like [{"role": "user", "content": "Hello"}]',
            param="messages",
        )
    totals = _PromptSize()
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]", totals)
    limit, is_default = _limit(fields, dialect)
    stream = flag(fields, "stream", default=dialect == "api")
    include_usage = wants_usage(fields) or dialect == "api"
    rest = {key: value for key, value in fields.items() if key not in _OURS and value is not None}
    check_options(rest)
    dropped_tools = _drop_hosted_tools(rest) if "tools" in rest else []
    extras: Fields = {}
    preferences = None
    if not rest.keys() <= CHAT_FIELDS:
        rest, extras = split_fields(rest, CHAT_FIELDS)
        preferences = take_preferences(model, extras)
    return ChatRequest(
        model=model,
        messages=messages,
        fields=rest,
        stream=stream,
        include_usage=include_usage,
        limit=limit,
        limit_is_default=is_default,
        choices=rest.get("n", 1),
        text_bytes=totals.text_bytes + (prompt_bytes(rest) if rest else 0),
        other_bytes=other_bytes(rest) if rest else 0,
        images=totals.images,
        extras=extras,
        preferences=preferences,
        dropped_tools=dropped_tools,
    )


def _drop_hosted_tools(fields: Fields) -> list[str]:
    """Remove the tools that the upstream would run itself, because their cost has no price here. Return their types."""
    dropped = [tool["type"] for tool in fields["tools"] if tool["type"] not in ("function", "custom")]
    if not dropped:
        return dropped
    fields["tools"] = [tool for tool in fields["tools"] if tool["type"] in ("function", "custom")]
    if not fields["tools"]:
        if fields.get("tool_choice", "auto") not in ("auto", "none"):
            raise InvalidRequest(
                "tool_choice needs a function in tools: other tools do not exist here", param="tool_choice"
            )
        # Engines refuse these without tools.
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            fields.pop(name, None)
    return dropped


def wants_usage(fields: dict[str, Any]) -> bool:
    """Return True if the request wants the usage at the end of a stream."""
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object", param="stream_options")
    return flag(options, "include_usage", default=False, inside="stream_options.")


class _PromptSize:
    """Size of the prompt, added up while the messages are validated."""

    def __init__(self) -> None:
        self.text_bytes = 0
        self.images: list[str] = []


def _limit(fields: dict[str, Any], dialect: DialectName) -> tuple[int | None, bool]:
    """Return the output limit (None for the model's maximum), and whether it is the default."""
    new = integer(fields, "max_completion_tokens", 1, LARGEST_INTEGER)
    old = integer(fields, "max_tokens", 1, LARGEST_INTEGER) if "max_tokens" in fields else None
    if new is not None and old is not None and new != old:
        raise InvalidRequest(
            f"max_tokens ({old}) and max_completion_tokens ({new}) are the same setting but differ; send only one",
            param="max_tokens",
        )
    requested = new if new is not None else old
    if requested is not None:
        return requested, False
    return (DEFAULT_LIMIT if dialect == "api" else None), True


def _check_message(message: Any, at: str, totals: _PromptSize) -> None:
    if not isinstance(message, dict):
        raise InvalidRequest(f'{at} must be an object like {{"role": "user", "content": "Hello"}}', param=at)
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(
            f"{at}.role is {shortened(role)}; it must be one of {', '.join(ROLES[:5])}", param=f"{at}.role"
        )
    content = message.get("content")
    if isinstance(content, str):
        totals.text_bytes += len(content.encode("utf-8", "surrogatepass"))
    elif isinstance(content, list) and content:
        for index, part in enumerate(content):
            _check_part(part, f"{at}.content[{index}]", role, totals)
        if role == "tool":
            message["content"] = "".join(part.get("text") or part.get("refusal") or "" for part in content)
    elif (content is not None and content != []) or not _may_be_empty(message, role):
        raise InvalidRequest(f"{at}.content must be a string or a list of parts", param=f"{at}.content")
    if len(message) > 2 or "content" not in message:
        _count_other_fields(message, totals)


def _may_be_empty(message: dict[str, Any], role: str) -> bool:
    """Return True if a message may have no content, and set it as engines expect: agents also send `[]`."""
    if role == "tool":
        # The tool returned nothing.
        message["content"] = ""
        return True
    if role == "assistant" and message.get("tool_calls"):
        message["content"] = None
        return True
    return role in ("assistant", "function") and message.get("content") is None


#: Fields of a message that are counted by their value alone; of any other field the name is counted as well.
_MESSAGE_FIELDS = frozenset(("name", "tool_calls", "tool_call_id", "refusal", "function_call", "audio"))


def _count_other_fields(message: dict[str, Any], totals: _PromptSize) -> None:
    """Count the other fields of a message, such as names and tool calls: they are part of the prompt."""
    for key, value in list(message.items()):
        if value is None and key != "content":
            _remove_null(message, key)
        elif key not in ("role", "content"):
            totals.text_bytes += len(msgspec.json.encode(value if key in _MESSAGE_FIELDS else {key: value}))


def _remove_null(fields: dict[str, Any], name: str) -> None:
    """Remove a field that is null. SDKs send messages back with null fields, and some engines reject those."""
    del fields[name]


def _check_part(part: Any, at: str, role: str, totals: _PromptSize) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal"):
        text = part.get(kind)
        if not isinstance(text, str):
            raise InvalidRequest(f"{at}.{kind} must be a string", param=f"{at}.{kind}")
        totals.text_bytes += len(text.encode("utf-8", "surrogatepass"))
    elif kind == "image_url":
        if role != "user":
            raise InvalidRequest(f"{at}: only a user message can carry an image", param=at)
        totals.images.append(_image_detail(part, at))
        image = part["image_url"]
        totals.text_bytes += named_bytes(image, image.keys() - {"url", "detail"})
    elif isinstance(part, dict) and isinstance(kind, str) and kind in _OTHER_KINDS:
        # Agents send parts of /v1/responses as well.
        part["type"] = _OTHER_KINDS[kind]
        _check_part(part, at, role, totals)
        return
    else:
        raise InvalidRequest(f'{at}.type is {shortened(kind)}; it must be "text" or "image_url"', param=f"{at}.type")
    if len(part) > 2:
        totals.text_bytes += named_bytes(part, part.keys() - {"type", kind})


#: Names of parts in /v1/responses → names in a chat.
_OTHER_KINDS = {"input_text": "text", "output_text": "text", "input_image": "image_url"}


def _image_detail(part: dict[str, Any], at: str) -> str:
    image = part.get("image_url")
    if isinstance(image, str):
        image = part["image_url"] = {"url": image, "detail": part.pop("detail", None)}
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(image, dict) or not isinstance(url, str):
        raise InvalidRequest(f'{at}.image_url must be an object like {{"url": "https://…"}}', param=f"{at}.image_url")
    is_data_url = any(url.startswith(f"data:image/{kind};base64,") for kind in _IMAGE_TYPES)
    if not url.startswith("https://") and not is_data_url:
        raise InvalidRequest(
            f"{at}.image_url.url must be an https URL, or a data URL of a jpg, jpeg, png, webp or gif",
            param=f"{at}.image_url.url",
        )
    if image.get("detail", "") is None:
        _remove_null(image, "detail")
    detail = image.get("detail", "auto")
    if detail not in _DETAILS:
        raise InvalidRequest(f"{at}.image_url.detail must be auto, low or high", param=f"{at}.image_url.detail")
    return str(detail)
