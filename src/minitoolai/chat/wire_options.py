"""The fields of a chat that shape its answer (tools, formats, penalties), each checked where it is sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from minitoolai.core.errors import InvalidRequest
from minitoolai.http.validation import flag, integer, number, shortened

Fields = dict[str, Any]

MOST_TOOLS = 128
MOST_STOPS = 16
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_LARGEST = 2**63 - 1


def check_options(fields: Fields) -> None:
    """InvalidRequest that names the first field which cannot be right. Unknown fields are for the engine to judge."""
    for name in fields:
        check = _CHECKS.get(name)
        if check is not None:
            check(fields, name)


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
    if len(texts) > MOST_STOPS or not all(isinstance(text, str) for text in texts):
        raise _refuse(name, f"a string, or a list of at most {MOST_STOPS} strings")


def _logit_bias(fields: Fields, name: str) -> None:
    # llama.cpp's own form is a list of pairs; it judges that itself.
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
    if not isinstance(tools, list) or len(tools) > MOST_TOOLS:
        raise _refuse(name, f"a list of at most {MOST_TOOLS} tools")
    for index, tool in enumerate(tools):
        at = f"{name}[{index}]"
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise _refuse(at, 'an object like {"type": "function", "function": {"name": "…", "parameters": {…}}}')
        if tool["type"] == "function":
            _function(tool.get("function"), f"{at}.function")


def _function(function: Any, at: str) -> None:
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
    value = fields[name]
    if not fields.get("tools") and value not in ("none", "auto"):
        raise InvalidRequest(f"{name} needs tools to choose from: send tools, too", param=name)
    if value in ("none", "auto", "required"):
        return
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise _refuse(name, 'none, auto, required or {"type": "function", "function": {"name": "…"}}')
    if value["type"] == "function":
        _check_is_offered(fields, value.get("function"), name)


def _check_is_offered(fields: Fields, function: Any, name: str) -> None:
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
    described, at = value.get("json_schema"), f"{name}.json_schema"
    if not isinstance(described, dict):
        raise _refuse(at, 'an object like {"name": "…", "schema": {…}, "strict": true}')
    label = described.get("name")
    if not isinstance(label, str) or not _NAME.fullmatch(label):
        raise _refuse(f"{at}.name", "1 to 64 letters, digits, dots, _ or -")
    if not isinstance(described.get("schema"), dict | None):
        raise _refuse(f"{at}.schema", "a JSON schema")
    if not isinstance(described.get("strict"), bool | None):
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
    "service_tier": _text,
    "store": _flag,
}
