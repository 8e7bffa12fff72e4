"""Schemas become grammars, or are refused with the part that no grammar can express."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.engines.chat.llama.schemas import MAX_NUMBER, UnsupportedSchema, grammar_schema


def prepared(schema: Any, *, strict: bool = True) -> Any:
    found = json.loads(grammar_schema(schema, "schema", strict=strict))
    assert found.pop("x-guidance")["whitespace_flexible"] is False
    return found


def test_annotations_are_left_out_and_objects_are_closed() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "T",
        "type": "object",
        "description": "d",
        "properties": {"a": {"type": "string", "default": "x", "examples": ["y"]}, "b": True},
        "required": ["a"],
    }
    assert prepared(schema) == {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {}},
        "required": ["a"],
        "additionalProperties": False,
    }


def test_an_object_that_is_combined_with_others_stays_open() -> None:
    part = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert "additionalProperties" not in prepared({"allOf": [part, {"type": "object"}]})["allOf"][0]
    assert "additionalProperties" not in prepared({**part, "anyOf": [{"required": ["a"]}]})
    assert prepared({**part, "additionalProperties": True})["additionalProperties"] is True


def test_numbers_without_a_bound_get_one() -> None:
    assert prepared({"type": "integer"}) == {"type": "integer", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER}
    assert prepared({"type": ["number", "null"], "exclusiveMinimum": 0}) == {
        "type": ["number", "null"],
        "exclusiveMinimum": 0,
        "maximum": MAX_NUMBER,
    }


def test_references_are_resolved_also_recursive_ones() -> None:
    node = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    found = prepared(node)
    assert found["properties"]["next"]["anyOf"][0] == {"$ref": "#/$defs/d0"}
    assert found["$defs"]["d0"]["properties"]["next"]["anyOf"][0] == {"$ref": "#/$defs/d0"}
    shared = {"definitions": {"a/b": {"type": "boolean"}}, "$ref": "#/definitions/a~1b"}
    assert prepared(shared) == {"$ref": "#/$defs/d0", "$defs": {"d0": {"type": "boolean"}}}


DEEP: Any = {"type": "string"}
for _ in range(60):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"not": {}}, "schema.not"),
        ({"type": "object", "properties": {"a": {"if": {}}}}, "schema.properties.a.if"),
        ({"type": "array", "items": {"enum": [1]}, "uniqueItems": True}, "schema.uniqueItems"),
        ({"type": "strin"}, "schema.type"),
        ({"anyOf": [{"type": "string"}, {"type": "string", "format": "uri"}]}, "schema.anyOf[1].format"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "schema.pattern"),
        ({"type": "string", "pattern": r"(a)\1"}, "schema.pattern"),
        ({"$ref": "https://example.com/x"}, "schema.$ref"),
        ({"$ref": "#/$defs/none"}, "schema.$ref"),
        ({"$ref": "#foo"}, "schema.$ref"),
        ({"properties": {"a": False}}, "schema.properties.a"),
        ({"properties": {"a": 5}}, "schema.properties.a"),
        ({"properties": []}, "schema.properties"),
        ({"anyOf": {}}, "schema.anyOf"),
        (DEEP, "schema" + 51 * ".items"),
    ],
    ids=str,
)
def test_a_part_that_no_grammar_can_express_is_named(schema: Any, path: str) -> None:
    with pytest.raises(UnsupportedSchema) as refused:
        grammar_schema(schema, "schema")
    assert refused.value.path == path


def test_what_restricts_nothing_is_accepted() -> None:
    schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": False, "additionalItems": True}
    assert prepared(schema) == {"type": "array", "items": {"type": "string"}}


def test_a_schema_that_is_not_strict_loses_what_cannot_be_expressed() -> None:
    schema = {
        "type": "object",
        "propertyNames": {"pattern": "^a"},
        "properties": {"a": {"type": "string", "format": "uri"}, "b": {"oneOf": [{"type": "string"}]}},
    }
    found = prepared(schema, strict=False)
    assert found["properties"] == {"a": {"type": "string"}, "b": {"anyOf": [{"type": "string"}]}}
    assert "propertyNames" not in found
    assert prepared({"type": "string", "pattern": "(?=a)b"}, strict=False) == {"type": "string"}
