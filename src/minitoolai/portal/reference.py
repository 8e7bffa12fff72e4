"""Turn the OpenAPI description into what the pages of the API reference show.

The document is read once. References are resolved, so that a page has everything that it shows, and a schema that
contains itself is cut off after a few levels. Examples have the required fields only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import msgspec

from minitoolai.portal.i18n import N_
from minitoolai.portal.rendering.highlight import EXAMPLE_ORIGIN

Json = dict[str, Any]
METHODS = ("get", "post", "put", "patch", "delete")
#: Levels of fields inside of fields that a page shows.
DEEPEST = 6
#: Values in a list of allowed values; more are cut off, with their number.
MOST_VALUES = 24

#: Title → the beginnings of its paths. The first that matches counts.
GROUPS: dict[str, tuple[str, ...]] = {
    N_("Chat"): ("/api/chat-completions", "/v1/chat", "/v1/completions"),
    "Responses API": ("/v1/responses",),
    "Messages API": ("/v1/messages",),
    N_("Embeddings"): ("/v1/embeddings",),
    N_("Speech"): ("/api/texttospeech", "/v1/audio/speech", "/v1/audio/voices"),
    N_("Transcription"): ("/v1/audio",),
    N_("Images"): ("/api/texttoimage", "/api/imagetoimage", "/v1/images", "/api/webhooks"),
    N_("Models"): ("/v1/models",),
    N_("Balance and usage"): ("/api/balance", "/api/usage", "/v1/generations"),
    N_("Service"): ("/",),
}
#: What examples have in place of a model; the page puts in one that is on offer.
MODEL = "MODEL"
#: Values of fields in examples, where the schema names none.
_SAMPLES: dict[str, Any] = {
    "content": "Hello!", "role": "user", "prompt": "A lighthouse at dusk", "input": "Hello!", "max_tokens": 200,
}  # fmt: skip


class Field(msgspec.Struct, frozen=True):
    """One field of a request or response, a parameter, or a header."""

    name: str
    type: str
    is_required: bool = False
    is_deprecated: bool = False
    #: The values that it may have, if they are listed; `more` were left out.
    values: tuple[str, ...] = ()
    more: int = 0
    #: "1 – 128", "≥ 0" or ""; and the unit: "", "characters" or "items".
    limits: str = ""
    counted: str = ""
    default: str = ""
    description: str = ""
    #: The forms of the objects inside: most fields have none or one.
    forms: tuple[FieldSet, ...] = ()


class FieldSet(msgspec.Struct, frozen=True):
    """The fields of an object, and what tells this form from others: "function", say."""

    title: str
    fields: tuple[Field, ...]


class BodyFormat(msgspec.Struct, frozen=True):
    """The body of a request or a response in one media type."""

    media_type: str
    type: str
    forms: tuple[FieldSet, ...]


class Answer(msgspec.Struct, frozen=True):
    """One response: its status, meaning, headers and contents."""

    status: str
    description: str
    headers: tuple[Field, ...]
    contents: tuple[BodyFormat, ...]


class Operation(msgspec.Struct, frozen=True):
    """One method of one path."""

    slug: str
    method: str
    path: str
    title: str
    description: str
    needs_key: bool
    parameters: tuple[Field, ...]
    bodies: tuple[BodyFormat, ...]
    answers: tuple[Answer, ...]
    example: str


class _Document:
    """The description, with references that can be followed."""

    def __init__(self, root: Json) -> None:
        self.root = root

    def resolve(self, node: Json) -> Json:
        """Follow references until there is none. What stands beside a reference is kept."""
        while "$ref" in node:
            target: Any = self.root
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step.replace("~1", "/").replace("~0", "~")]
            node = {**target, **{name: value for name, value in node.items() if name != "$ref"}}
        return node

    def choices(self, schema: Json) -> list[Json]:
        """Return the schemas of which one has to fit: the parts of `anyOf` and `oneOf`, or the schema itself."""
        schema = self.resolve(schema)
        found = schema.get("anyOf") or schema.get("oneOf")
        if not found:
            return [schema]
        return [choice for one in found for choice in self.choices(one)]

    # ── types ─────────────────────────────────────────────────────────────────────────────────────────────

    def type_of(self, schema: Json, depth: int = 0) -> str:
        """Return a type in words of JSON: `string`, `integer | null`, `array of object`."""
        names: list[str] = []
        for choice in self.choices(schema):
            names += [name for name in self._names(choice, depth) if name not in names]
        # Null last, as people say it.
        return " | ".join(sorted(names, key=lambda name: name == "null")) or "any"

    def _names(self, schema: Json, depth: int) -> Iterator[str]:
        given = schema.get("type")
        kinds = [given] if isinstance(given, str) else given or []
        if not kinds and ("enum" in schema or "const" in schema):
            kinds = list(dict.fromkeys(_json_type(value) for value in schema.get("enum", [schema.get("const")])))
        for kind in kinds or (["object"] if "properties" in schema else []):
            if kind == "array" and "items" in schema and depth < DEEPEST:
                inner = self.type_of(schema["items"], depth + 1)
                yield f"array of {f'({inner})' if '|' in inner else inner}"
            elif kind == "string" and schema.get("format") == "binary":
                yield "bytes"
            else:
                yield kind

    # ── fields ────────────────────────────────────────────────────────────────────────────────────────────

    def forms(self, schema: Json, depth: int = 0) -> tuple[FieldSet, ...]:
        """Return the forms of the objects that a schema allows, also as items of an array."""
        if depth > DEEPEST:
            return ()
        found: list[FieldSet] = []
        for choice in self.choices(schema):
            if choice.get("properties"):
                form = FieldSet(_title(choice), tuple(self.fields(choice, depth)))
                if form not in found:
                    found.append(form)
            elif isinstance(choice.get("items"), dict):
                found += [form for form in self.forms(choice["items"], depth) if form not in found]
        return tuple(found)

    def fields(self, schema: Json, depth: int) -> Iterator[Field]:
        """Yield the fields of an object, the required ones first."""
        required = set(schema.get("required", ()))
        for name, inner in sorted(schema["properties"].items(), key=lambda pair: pair[0] not in required):
            yield self.field(name, inner, is_required=name in required, depth=depth)

    def field(self, name: str, schema: Json, *, is_required: bool, description: str = "", depth: int = 0) -> Field:
        """Describe one field."""
        schema = self.resolve(schema)
        values: list[str] = []
        for choice in self.choices(schema):
            listed = choice.get("enum", [choice["const"]] if "const" in choice else [])
            values += [shown for value in listed if value is not None and (shown := _shown(value)) not in values]
        limits, counted = next((found for one in self.choices(schema) if (found := _limits(one))[0]), ("", ""))
        return Field(
            name=name,
            type=self.type_of(schema),
            is_required=is_required,
            is_deprecated=bool(schema.get("deprecated")),
            values=tuple(values[:MOST_VALUES]),
            more=max(0, len(values) - MOST_VALUES),
            limits=limits,
            counted=counted,
            default=_shown(schema["default"]) if schema.get("default") is not None else "",
            description=schema.get("description", "") or description,
            forms=self.forms(schema, depth + 1),
        )

    def contents(self, content: Json) -> tuple[BodyFormat, ...]:
        """Describe the media types of a body."""
        return tuple(
            BodyFormat(media_type, self.type_of(entry["schema"]), self.forms(entry["schema"]))
            for media_type, entry in content.items()
        )

    # ── operations ────────────────────────────────────────────────────────────────────────────────────────

    def operations(self) -> Iterator[Operation]:
        """Yield every method of every path."""
        for path, methods in self.root["paths"].items():
            for method in METHODS:
                if method in methods:
                    yield self._operation(path, method, methods[method], methods.get("parameters", []))

    def _operation(self, path: str, method: str, given: Json, shared: list[Json]) -> Operation:
        parameters = [self.resolve(one) for one in (*shared, *given.get("parameters", ()))]
        body = self.resolve(given["requestBody"])["content"] if "requestBody" in given else {}
        return Operation(
            slug=re.sub(r"[^a-z0-9]+", "-", f"{method}{path}".lower()).strip("-"),
            method=method.upper(),
            path=path,
            title=given["summary"],
            description=given.get("description", ""),
            needs_key=bool(given.get("security", self.root["security"])),
            parameters=tuple(
                self.field(
                    one["name"], one.get("schema", {}), is_required=bool(one.get("required")),
                    description=one.get("description", ""),
                )
                for one in parameters
            ),
            bodies=self.contents(body),
            answers=tuple(self._answer(status, self.resolve(one)) for status, one in given["responses"].items()),
            example=self._example(path, method, given, parameters, body),
        )  # fmt: skip

    def _answer(self, status: str, given: Json) -> Answer:
        headers = ((name, self.resolve(one)) for name, one in given.get("headers", {}).items())
        return Answer(
            status,
            given.get("description", ""),
            tuple(
                self.field(name, one.get("schema", {}), is_required=False, description=one.get("description", ""))
                for name, one in headers
            ),
            self.contents(given.get("content", {})),
        )

    # ── examples ──────────────────────────────────────────────────────────────────────────────────────────

    def _example(self, path: str, method: str, given: Json, parameters: list[Json], body: Json) -> str:
        """Return a curl command with the required fields; address and key are as in the samples of the guide."""
        queries = [one for one in parameters if one.get("required") and one["in"] == "query"]
        query = "&".join(f"{one['name']}={self.sample(one['name'], one.get('schema', {}))}" for one in queries)
        path = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), path)
        address = f"{EXAMPLE_ORIGIN}{path}"
        lines = [f"curl '{address}?{query}'" if query else f"curl {address}"]
        if method != "get" and not (method == "post" and body):
            lines.append(f"-X {method.upper()}")
        if given.get("security", self.root["security"]):
            lines.append("-H 'Authorization: Bearer sk-…'")
        for media_type, entry in list(body.items())[:1]:
            sample = self.sample("", entry["schema"])
            if media_type == "multipart/form-data":
                properties = self.resolve(entry["schema"])["properties"]
                for name, value in sample.items():
                    is_file = self.type_of(properties[name]).startswith(("bytes", "array of bytes"))
                    lines.append(f"-F {name}={'@FILE' if is_file else value}")
            else:
                lines += [
                    f"-H 'Content-Type: {media_type}'",
                    "-d '" + json.dumps(sample, ensure_ascii=False, indent=2) + "'",
                ]
        return " \\\n  ".join(lines)

    def sample(self, name: str, schema: Json) -> Any:
        """Return a value that the schema allows: the first that it names itself, or the smallest."""
        schema = self.choices(schema)[0]
        if name == "model":
            return MODEL
        for word in ("examples", "enum"):
            if schema.get(word):
                return schema[word][0]
        for word in ("const", "default"):
            if schema.get(word) is not None:
                return schema[word]
        if name in _SAMPLES:
            return _SAMPLES[name]
        kind = self.type_of(schema).split(" | ")[0]
        if kind == "object":
            properties = schema.get("properties", {})
            return {inner: self.sample(inner, properties[inner]) for inner in schema.get("required", ())}
        if kind.startswith("array"):
            return [self.sample(name, schema.get("items", {}))]
        if kind in ("integer", "number"):
            return schema.get("minimum", 1)
        return True if kind == "boolean" else "…"


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names[type(value)]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _title(schema: Json) -> str:
    """Return what tells a form of an object from others: its constant `type` or `role`."""
    for name in ("type", "role"):
        inner = schema["properties"].get(name, {})
        values = [inner["const"]] if "const" in inner else [value for value in inner.get("enum", ()) if value]
        if values:
            return f"{name}: {' | '.join(map(str, values))}"
    return ""


def _limits(schema: Json) -> tuple[str, str]:
    """Return the limits of a number, or of the length of a string or array, and the unit."""
    for low, high, counted in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", "characters"),
        ("minItems", "maxItems", "items"),
    ):
        least, most = schema.get(low), schema.get(high)
        if counted and least in (0, 1) and most is None:
            # That it may not be empty goes without saying.
            continue
        if least is not None and most is not None:
            return f"{least} – {most}", counted
        if least is not None:
            return f"≥ {least}", counted
        if most is not None:
            return f"≤ {most}", counted
    return "", ""


def group_of(path: str) -> str:
    """Return the title of the group to which a path belongs."""
    return next(title for title, beginnings in GROUPS.items() if path.startswith(beginnings))


class Reference:
    """Every operation of a description. Nothing is read before it is shown."""

    def __init__(self, description: Json) -> None:
        self._description = description

    @cached_property
    def operations(self) -> dict[str, Operation]:
        """Every operation by its slug, in the order of the groups."""
        order = list(GROUPS)
        found = sorted(_Document(self._description).operations(), key=lambda one: order.index(group_of(one.path)))
        return {one.slug: one for one in found}

    @cached_property
    def groups(self) -> dict[str, list[Operation]]:
        """The operations by the titles of their groups."""
        found: dict[str, list[Operation]] = {title: [] for title in GROUPS}
        for one in self.operations.values():
            found[group_of(one.path)].append(one)
        return {title: members for title, members in found.items() if members}
