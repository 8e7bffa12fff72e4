"""The items of a response's input into the messages of a chat."""

from __future__ import annotations

from typing import Any

from minitoolai.core.errors import InvalidRequest
from minitoolai.http.validation import shortened

Json = dict[str, Any]

_TEXTS = ("input_text", "output_text", "text")


def messages_of(fields: Json) -> list[Json]:
    """`instructions` and `input`, as messages."""
    messages: list[Json] = []
    instructions = fields.get("instructions")
    if instructions is not None:
        if not isinstance(instructions, str):
            raise InvalidRequest("instructions must be a string", param="instructions")
        messages.append({"role": "developer", "content": instructions})
    given = fields.get("input")
    if isinstance(given, str) and given:
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise InvalidRequest("input must be a non-empty string or a list of items", param="input")
    for index, item in enumerate(given):
        _add(item, f"input[{index}]", messages)
    return messages


def _add(item: Any, at: str, messages: list[Json]) -> None:
    if not isinstance(item, dict):
        raise InvalidRequest(f'{at} must be an object like {{"role": "user", "content": "Hello"}}', param=at)
    kind = item.get("type") or "message"
    if kind == "message":
        messages.append(_message(item, at))
    elif kind == "function_call":
        _add_call(item, at, messages)
    elif kind == "function_call_output":
        content = _output(item.get("output"), f"{at}.output")
        messages.append({"role": "tool", "tool_call_id": _text(item, "call_id", at), "content": content})
    elif kind == "item_reference":
        raise InvalidRequest(f"{at} refers to an item, and none is kept here: send the item itself", param=f"{at}.type")
    elif kind != "reasoning":
        # What a model thought before is not for it to read again; everything else would be lost.
        raise InvalidRequest(
            f"{at}.type is {shortened(kind)}; it must be message, function_call, function_call_output or reasoning",
            param=f"{at}.type",
        )


def _message(item: Json, at: str) -> Json:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise InvalidRequest(
            f"{at}.role is {shortened(role)}; it must be user, assistant, system or developer", param=f"{at}.role"
        )
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list) or not content:
        raise InvalidRequest(f"{at}.content must be a string or a list of parts", param=f"{at}.content")
    parts = [_part(part, f"{at}.content[{index}]") for index, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        # Not every engine knows parts, and all know text.
        return {"role": role, "content": "".join(part["text"] for part in parts)}
    return {"role": role, "content": parts}


def _part(part: Any, at: str) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXTS:
        return {"type": "text", "text": _text(part, "text", at, may_be_empty=True)}
    if kind == "refusal":
        return {"type": "text", "text": _text(part, "refusal", at, may_be_empty=True)}
    if kind == "input_image":
        if not isinstance(part.get("image_url"), str):
            raise InvalidRequest(
                f"{at}.image_url must be an https URL or a data URL; no files are kept here", param=f"{at}.image_url"
            )
        detail = "auto" if part.get("detail") is None else part["detail"]
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": detail}}
    raise InvalidRequest(
        f"{at}.type is {shortened(kind)}; it must be input_text, output_text, refusal or input_image",
        param=f"{at}.type",
    )


def _add_call(item: Json, at: str, messages: list[Json]) -> None:
    """Calls that follow one another belong to one message of the assistant's."""
    function = {"name": _text(item, "name", at), "arguments": _text(item, "arguments", at, may_be_empty=True)}
    call = {"id": _text(item, "call_id", at), "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _output(output: Any, at: str) -> str:
    if isinstance(output, str):
        return output
    if isinstance(output, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in output):
        return "".join(part["text"] for part in output)
    raise InvalidRequest(f"{at} must be a string or a list of input_text parts", param=at)


def _text(item: Json, name: str, at: str, *, may_be_empty: bool = False) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise InvalidRequest(f"{at}.{name} must be a string", param=f"{at}.{name}")
    return value
