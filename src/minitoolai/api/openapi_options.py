"""The part of /openapi.json that describes what a chat may carry: messages by role, and options."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_STRING: Json = {"type": "string"}
_FLAG: Json = {"type": ["boolean", "null"]}
_FUNCTION_NAME: Json = {"type": "string", "pattern": r"^[a-zA-Z0-9_.-]{1,64}$"}
_PICTURE = r"^(https://[^\s]|data:image/(jpeg|jpg|png|webp|gif);base64,)"

_TEXT_PART: Json = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": _STRING},
}
_IMAGE_PART: Json = {
    "type": "object",
    "required": ["type", "image_url"],
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {
            "type": "object",
            "required": ["url"],
            "properties": {
                "url": {"type": "string", "pattern": _PICTURE},
                "detail": {"enum": ["auto", "low", "high", None]},
            },
        },
    },
}


def _content(*parts: Json, may_be_absent: bool = False) -> Json:
    kinds: list[Json] = [_STRING, {"type": "array", "minItems": 1, "items": {"anyOf": list(parts)}}]
    return {"anyOf": [*kinds, {"type": "null"}] if may_be_absent else kinds}


def _message(*roles: str, content: Json, required: str = "role content") -> Json:
    return {
        "type": "object",
        "required": required.split(),
        "properties": {"role": {"enum": list(roles)}, "content": content},
    }


MESSAGE: Json = {
    "anyOf": [
        _message("user", content=_content(_TEXT_PART, _IMAGE_PART)),
        _message("developer", "system", "tool", content=_content(_TEXT_PART)),
        _message("assistant", content=_content(_TEXT_PART, may_be_absent=True), required="role"),
    ]
}

_FUNCTION: Json = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": _FUNCTION_NAME,
                "description": {"type": ["string", "null"]},
                "parameters": {"type": ["object", "null"]},
                "strict": _FLAG,
            },
        },
    },
}
#: What is no function is for the engine to know.
_OTHER: Json = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"type": "string", "not": {"const": "function"}}},
}
_FORMAT: Json = {
    "anyOf": [
        {"type": "object", "required": ["type"], "properties": {"type": {"enum": ["text", "json_object"]}}},
        {
            "type": "object",
            "required": ["type", "json_schema"],
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": _FUNCTION_NAME, "schema": {"type": ["object", "null"]}, "strict": _FLAG},
                },
            },
        },
        {"type": "null"},
    ]
}

#: Checked where they are sent; what an engine cannot honour is refused by its name.
OPTIONS: Json = {
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
    "stop": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "maxItems": 16, "items": _STRING}]},
    "presence_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
    "logprobs": _FLAG,
    "tools": {"type": ["array", "null"], "maxItems": 128, "items": {"anyOf": [_FUNCTION, _OTHER]}},
    "parallel_tool_calls": _FLAG,
    "response_format": _FORMAT,
    "reasoning_effort": {"type": ["string", "null"]},
    "metadata": {
        "type": ["object", "null"],
        "maxProperties": 16,
        "propertyNames": {"maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512},
    },
    "user": {"type": ["string", "null"]},
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": _FLAG}},
}
