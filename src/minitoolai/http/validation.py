"""Parse and validate the fields of a JSON body. Every error names the field and the allowed values."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

import msgspec
from starlette.datastructures import QueryParams

from minitoolai.core.errors import InvalidRequest
from minitoolai.http.bodies.large_json import (
    DEEPEST,
    MOST_NODES_ON_LOOP,
    check_depth,
    count_nodes,
    decode,
    decode_large,
)

#: Decode bodies up to this size on the event loop if they have few nodes, which takes at most a few milliseconds.
SMALL_BODY = 64 * 1024
_FIRST_BYTE_OF_A_MARK = codecs.BOM_UTF8[0]
_POSITION = re.compile(r" \(byte \d+\)")


def is_small(body: bytes) -> bool:
    """Return True if the body may be decoded on the event loop. Every node takes at least one byte."""
    size = len(body)
    return size <= MOST_NODES_ON_LOOP or (size <= SMALL_BODY and count_nodes(body) <= MOST_NODES_ON_LOOP)


def json_object(body: bytes) -> dict[str, Any]:
    """Parse the body as a JSON object. Call this in the body thread unless it `is_small`."""
    if not body:
        raise InvalidRequest("The body is empty. Send the request as a JSON object.", code="invalid_json")
    if body[0] >= _FIRST_BYTE_OF_A_MARK:
        body = _without_byte_order_mark(body)
    is_large = len(body) > SMALL_BODY
    try:
        fields = decode_large(body) if is_large else decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # In a large body the position would be relative to a piece of it.
        reason = _POSITION.sub("", str(error)) if is_large else str(error)
        if b"\x00" in body[:4]:
            reason = "it is not UTF-8"
        raise InvalidRequest(f"The body is not valid JSON: {reason}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    if not is_large and body.count(b"[") + body.count(b"{") > DEEPEST:
        check_depth(fields)
    return fields


def _without_byte_order_mark(body: bytes) -> bytes:
    """Remove the byte order mark that PowerShell and .NET put before UTF-8. RFC 8259 allows this."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidRequest("The body is UTF-16. Send JSON as UTF-8.", code="invalid_json")
    return body.removeprefix(codecs.BOM_UTF8)


def check_query(query: QueryParams, *known: str) -> None:
    """Refuse a query with a field that is not known or was sent twice: it is most likely misspelled."""
    for name in query:
        if name not in known:
            what = f"it may have {', '.join(known)}" if known else "this path has none"
            raise InvalidRequest(f"{shortened(name)} is not a field of the query; {what}", param=name[:64])
        if len(query.getlist(name)) > 1:
            raise InvalidRequest(f"{name} was sent more than once; send it once", param=name)


def non_empty_text(fields: dict[str, Any], name: str) -> str:
    """Return a required string field that must not be empty."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        got = "" if value is None or isinstance(value, str) else f"; {expected('a string', value)}"
        raise InvalidRequest(f"{name} must be a non-empty string{got}", param=name)
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
    """Return a value as an error message may quote it: a string in quotes, anything else as JSON."""
    if value is None or isinstance(value, bool | list | dict):
        text = json.dumps(value, ensure_ascii=False, default=repr)
    else:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def expected(kind: str, value: Any) -> str:
    """Return `expected a string, got false` for a value of another type, else the value."""
    is_kind = kind == "a string" and isinstance(value, str)
    return f"got {shortened(value)}" if is_kind else f"expected {kind}, got {shortened(value)}"
