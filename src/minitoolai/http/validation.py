"""Parse and validate the fields of a JSON body. Every error names the field and the allowed values."""

from __future__ import annotations

from typing import Any

import msgspec

from minitoolai.core.errors import InvalidRequest

#: Refuse deeper nesting than any real request has: msgspec and the engines recurse.
DEEPEST = 64
_decode = msgspec.json.Decoder().decode


def json_object(body: bytes) -> dict[str, Any]:
    """Parse the body as a JSON object."""
    if not body:
        raise InvalidRequest("The body is empty. Send the request as a JSON object.", code="invalid_json")
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        _check_depth(fields)
    return fields


def _check_depth(fields: dict[str, Any]) -> None:
    level: list[Any] = [fields]
    for _ in range(DEEPEST):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise InvalidRequest(f"The body is nested more than {DEEPEST} levels deep.", code="invalid_json")


def non_empty_text(fields: dict[str, Any], name: str) -> str:
    """Return a required string field that must not be empty."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} must be a non-empty string", param=name)
    return value


def flag(fields: dict[str, Any], name: str, *, default: bool, inside: str = "") -> bool:
    """Return a boolean field, `default` if absent. `inside` is the path of a nested object, ending in a dot."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"{inside}{name} must be true or false", param=f"{inside}{name}")
    return value


def number(fields: dict[str, Any], name: str, low: float, high: float) -> float | None:
    """Return a finite number within both bounds, None if absent."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{name} must be a number from {low:g} to {high:g}", param=name)
    if not low <= value <= high:
        raise InvalidRequest(f"{name} is {_written(value)}; it must be from {low:g} to {high:g}", param=name)
    return value


def integer(fields: dict[str, Any], name: str, low: int, high: int) -> int | None:
    """Return a whole number within both bounds, None if absent."""
    value = fields.get(name)
    if value is None:
        return None
    # 4.0 is an integer in JSON; a boolean or a numeric string is not.
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise InvalidRequest(f"{name} must be a whole number of at least {low}", param=name)
    if not low <= value <= high:
        bound = f"at least {low}" if value < low else f"at most {high}"
        raise InvalidRequest(f"{name} is {_written(value)}; it must be {bound}", param=name)
    fields[name] = int(value)
    return int(value)


def _written(number: float) -> str:
    # A JSON integer of 400 digits does not fit a float.
    return f"{number:.15g}" if abs(number) < 1e300 else "out of range"


def shortened(value: Any) -> str:
    """Return a value as an error message may quote it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
