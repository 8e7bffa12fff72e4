"""What the deterministic engine says: words by number, a call of the first tool, or the plainest JSON of a schema.

The same request gives the same answer, so that a test can know it beforehand.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import msgspec

from minitoolai.core.inference import ChatRequest

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode
#: Characters of JSON that one token holds.
_PIECE = 6
_DEEPEST = 16
_MOST_VALUES = 1000
_DIMENSIONS = 64
CALL_ID = "call_fake"


class Script(msgspec.Struct):
    """One answer in pieces, each a token; `tool` names the function whose arguments they are."""

    pieces: list[str]
    finish_reason: str
    tool: str | None = None


def script(request: ChatRequest, tokens: int, limit: int) -> Script:
    """What to say, in at most `limit` tokens; `tokens` is how many words an ordinary answer has."""
    tool = _tool_to_call(request)
    if tool is not None:
        pieces = _cut(_encode(sample(tool.get("parameters") or {})).decode())
        return Script(pieces[:limit], "tool_calls" if len(pieces) <= limit else "length", tool["name"])
    form = request.fields.get("response_format") or {}
    if form.get("type") in ("json_object", "json_schema"):
        schema = (form.get("json_schema") or {}).get("schema") or {"const": {"token-0": "token-1"}}
        pieces = _cut(_encode(sample(schema)).decode())
    else:
        pieces = _until_stop([f"token-{i} " for i in range(tokens)], request.fields.get("stop"))
    return Script(pieces[:limit], "stop" if len(pieces) <= limit else "length")


def _tool_to_call(request: ChatRequest) -> Json | None:
    """The function that is asked for by name, else the first one; none once a tool has answered."""
    choice = request.fields.get("tool_choice") or "auto"
    functions = [tool["function"] for tool in request.fields.get("tools") or () if tool["type"] == "function"]
    if choice == "none" or not functions:
        return None
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        return next((function for function in functions if function["name"] == name), None)
    has_answered = request.messages[-1]["role"] == "tool"
    return None if choice == "auto" and has_answered else functions[0]


def _cut(text: str) -> list[str]:
    return [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]


def _until_stop(pieces: list[str], stop: Any) -> list[str]:
    stops = [text for text in (stop if isinstance(stop, list) else [stop]) if text]
    text = "".join(pieces)
    places = [place for place in map(text.find, stops) if place >= 0]
    if not places:
        return pieces
    return re.findall(r"\S+ ?|\s+", text[: min(places)])


def sample(schema: Any) -> Any:
    """The plainest value that fits a JSON schema; null where it is too deep, too large or too clever."""
    return _Sampler(schema).value(schema, 0)


class _Sampler:
    """One walk through one schema."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = _MOST_VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > _DEEPEST or self._left < 0:
            return None
        if isinstance(schema.get("$ref"), str):
            return self.value(_referred(schema["$ref"], self._root), depth + 1)
        if "const" in schema:
            return schema["const"]
        for key in ("enum", "anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(key), list) and schema[key]:
                return schema[key][0] if key == "enum" else self.value(schema[key][0], depth + 1)
        kind = schema.get("type", "object")
        return self._plainest(kind[0] if isinstance(kind, list) and kind else kind, schema, depth)

    def _plainest(self, kind: Any, schema: Json, depth: int) -> Any:
        if kind == "object":
            properties = schema.get("properties")
            inner = properties.items() if isinstance(properties, dict) else ()
            return {name: self.value(found, depth + 1) for name, found in inner}
        if kind == "array":
            least = schema.get("minItems")
            count = min(max(least, 1), 8) if isinstance(least, int) else 1
            return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]
        if kind in ("integer", "number"):
            return schema.get("minimum", 1)
        return {"string": "token-0", "boolean": True}.get(kind) if isinstance(kind, str) else None


def _referred(reference: str, root: Any) -> Any:
    found = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part, {}) if isinstance(found, dict) else {}
    return found


def vectors(texts: list[Any]) -> list[Json]:
    """A made-up vector of length 1 for each text; equal texts have equal ones."""
    places = [zlib.crc32(_encode(text)) % _DIMENSIONS for text in texts]
    return [
        {"index": index, "embedding": [float(at == place) for at in range(_DIMENSIONS)]}
        for index, place in enumerate(places)
    ]


def logprobs(request: ChatRequest, pieces: list[str]) -> Json | None:
    """Made-up certainty for each piece, where it was asked for."""
    if not request.fields.get("logprobs"):
        return None
    others = int(request.fields.get("top_logprobs") or 0)
    return {"content": [_certain(piece, others) for piece in pieces], "refusal": None}


def _certain(piece: str, others: int) -> Json:
    token = {"token": piece, "logprob": -0.25, "bytes": list(piece.encode())}
    return {**token, "top_logprobs": [token] * min(others, 1)}
