"""Reading the fields of a JSON body. Every refusal names the field and what would be right."""

from __future__ import annotations

from typing import Any

import msgspec

from minitoolai.core.errors import InvalidRequest

#: Deeper than any honest body; msgspec and the engines behind us recurse.
DEEPEST = 64
_decode = msgspec.json.Decoder().decode


def json_object(body: bytes) -> dict[str, Any]:
    """The body as an object."""
    if not body:
        raise InvalidRequest("the body is empty: send the request as a JSON object", code="invalid_json")
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
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
    raise InvalidRequest(f"the body is nested more than {DEEPEST} deep", code="invalid_json")


def non_empty_text(fields: dict[str, Any], name: str) -> str:
    """A field that must be there and must say something."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} must be a non-empty string", param=name)
    return value


def flag(fields: dict[str, Any], name: str, *, default: bool, inside: str = "") -> bool:
    """True or false, `default` where absent. `inside` is the path of an inner object, ending in a dot."""
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"{inside}{name} must be true or false", param=f"{inside}{name}")
    return value


def number(fields: dict[str, Any], name: str, low: float, high: float) -> float | None:
    """A finite number within both bounds, None where absent."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{name} must be a number from {low:g} to {high:g}", param=name)
    if not low <= value <= high:
        raise InvalidRequest(f"{name} is {_written(value)}; it must be from {low:g} to {high:g}", param=name)
    return value


def integer(fields: dict[str, Any], name: str, low: int, high: int) -> int | None:
    """A whole number within both bounds, None where absent."""
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
    # A JSON integer of 400 digits fits no float.
    return f"{number:.15g}" if abs(number) < 1e300 else "beyond all bounds"


def shortened(value: Any) -> str:
    """A value as a message may quote it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
