"""JSON schemas as grammars of llama.cpp's llguidance, so that a response always conforms to its schema.

llguidance ignores a whole grammar if it does not know one keyword of a schema. So annotations are left out here, what
it cannot express is refused by name, and `grammars.py` tries each grammar before it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

#: Keywords that grammars express. All others of JSON Schema that restrict a value are in `REFUSED`.
KEYWORDS = frozenset(
    """type enum const properties required additionalProperties patternProperties minProperties maxProperties items
    prefixItems minItems maxItems anyOf oneOf allOf minLength maxLength pattern format minimum maximum exclusiveMinimum
    exclusiveMaximum multipleOf""".split()  # noqa: SIM905
)
REFUSED = frozenset(
    """not if then else uniqueItems contains minContains maxContains propertyNames dependentRequired dependentSchemas
    dependencies unevaluatedProperties unevaluatedItems additionalItems $dynamicRef $recursiveRef""".split()  # noqa: SIM905
)
#: Values that restrict nothing.
_NEUTRAL: Json = {"uniqueItems": False, "additionalItems": True, "unevaluatedProperties": True}
FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"))
#: Keywords whose value is a schema, a list of schemas, or schemas by name.
_ONE = ("items", "additionalProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "patternProperties")
MAX_DEPTH = 50
_TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
#: No spaces and line breaks of the model's choice: small models would write them without end.
_COMPACT = {"x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}}
#: Bound of numbers without one: small models would write digits without end.
MAX_NUMBER = 10**15
#: What the regular expressions of a grammar lack: look-around and references to groups.
_NOT_REGULAR = re.compile(r"\(\?(?!:)|\\[1-9]")


class UnsupportedSchema(Exception):
    """A part of a schema that no grammar can express: its path, and why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


def grammar_schema(schema: Any, path: str, *, strict: bool = True) -> str:
    """Return the schema for `%json`. Raises UnsupportedSchema; unless it is strict, restrictions are left out instead.

    An object with `properties` gets no others unless the schema says so: a small model would invent them without end.
    """
    prepared = _Preparation(schema, path, strict=strict).run()
    return json.dumps(prepared if prepared is False else {**_COMPACT, **prepared}, ensure_ascii=False)


class _Preparation:
    def __init__(self, schema: Any, path: str, *, strict: bool) -> None:
        self._root = schema
        self._path = path
        self._strict = strict
        #: References → names under $defs of the prepared schema, and those definitions.
        self._names: dict[str, str] = {}
        self._definitions: Json = {}
        # Closed objects cannot be combined with others.
        self._closes = not any(_is_combined(node) for node in _nodes(schema))

    def run(self) -> Any:
        prepared = self._prepare(self._root, self._path, 0)
        return {**prepared, "$defs": self._definitions} if self._definitions else prepared

    def _prepare(self, node: Any, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise UnsupportedSchema(path, f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, bool):
            if not node:
                raise UnsupportedSchema(path, "is false, which no value satisfies")
            return {}
        if not isinstance(node, dict):
            raise UnsupportedSchema(path, "must be an object or true")
        self._check(node, path)
        prepared = {key: value for key, value in node.items() if key in KEYWORDS and not self._is_dropped(key, value)}
        if "$ref" in node:
            prepared["$ref"] = self._reference(node["$ref"], f"{path}.$ref", depth)
        self._prepare_parts(prepared, path, depth)
        if not {"integer", "number"}.isdisjoint(_kinds(node)):
            for key, bound in (("minimum", -MAX_NUMBER), ("maximum", MAX_NUMBER)):
                if f"exclusive{key.capitalize()}" not in prepared:
                    prepared.setdefault(key, bound)
        if not self._strict and "oneOf" in prepared:
            prepared.setdefault("anyOf", prepared.pop("oneOf"))
        if self._closes and prepared.get("properties") and "patternProperties" not in prepared:
            prepared.setdefault("additionalProperties", False)
        return prepared

    def _prepare_parts(self, prepared: Json, path: str, depth: int) -> None:
        """Prepare the schemas within a schema."""
        for key in _ONE:
            if key in prepared and not isinstance(prepared[key], bool):
                prepared[key] = self._prepare(prepared[key], f"{path}.{key}", depth + 1)
        for key in _LISTS:
            if key in prepared:
                prepared[key] = [
                    self._prepare(part, f"{path}.{key}[{index}]", depth + 1)
                    for index, part in enumerate(_of(prepared[key], list, f"{path}.{key}"))
                ]
        for key in _MAPS:
            if key in prepared:
                parts = _of(prepared[key], dict, f"{path}.{key}")
                prepared[key] = {
                    name: self._prepare(part, f"{path}.{key}.{name}", depth + 1) for name, part in parts.items()
                }

    def _check(self, node: Json, path: str) -> None:
        kinds = _kinds(node)
        for kind in kinds:
            if kind not in _TYPES:
                raise UnsupportedSchema(f"{path}.type", f"is {json.dumps(kind)[:40]}, which is no type of JSON Schema")
        if not self._strict:
            return
        for key in node:
            if key in REFUSED and not (key in _NEUTRAL and node[key] == _NEUTRAL[key]):
                raise UnsupportedSchema(f"{path}.{key}", "is not supported by the embedded model: leave it out")
        if isinstance(pattern := node.get("pattern"), str) and _NOT_REGULAR.search(pattern):
            raise UnsupportedSchema(f"{path}.pattern", "has look-around or a back-reference, which is not supported")
        if not _is_known_format(node) and "string" in kinds:
            raise UnsupportedSchema(
                f"{path}.format",
                f"is not supported by the embedded model: leave it out, or use {', '.join(sorted(FORMATS))}",
            )

    def _is_dropped(self, key: str, value: Any) -> bool:
        if key == "pattern" and not self._strict:
            return not isinstance(value, str) or _NOT_REGULAR.search(value) is not None
        return key == "format" and value not in FORMATS

    def _reference(self, reference: Any, path: str, depth: int) -> str:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise UnsupportedSchema(path, "must refer to a part of this schema, such as #/$defs/name")
        name = self._names.get(reference)
        if name is None:
            target = self._root
            for step in reference[1:].split("/")[1:]:
                key = step.replace("~1", "/").replace("~0", "~")
                if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                    target = target[int(key)]
                elif isinstance(target, dict) and key in target:
                    target = target[key]
                else:
                    raise UnsupportedSchema(path, f"refers to {reference[:60]}, which is not in the schema")
            name = self._names[reference] = f"d{len(self._names)}"
            self._definitions[name] = self._prepare(target, path, depth + 1)
        return f"#/$defs/{name}"


def _of(value: Any, kind: type, path: str) -> Any:
    if not isinstance(value, kind):
        raise UnsupportedSchema(path, f"must be {'a list' if kind is list else 'an object'}")
    return value


def _kinds(node: Json) -> list[Any]:
    kinds = node.get("type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def _is_known_format(node: Json) -> bool:
    return "format" not in node or node["format"] in FORMATS


def _is_combined(node: Json) -> bool:
    return "allOf" in node or ("properties" in node and any(key in node for key in ("anyOf", "oneOf", "$ref")))


def _nodes(schema: Any) -> Iterator[Json]:
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
