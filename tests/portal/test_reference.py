"""What the reference shows of the OpenAPI description."""

from __future__ import annotations

import json
import shlex

import pytest

from minitoolai.api.openapi import describe
from minitoolai.portal.reference import GROUPS, METHODS, MODEL, Field, Operation, Reference, group_of

REFERENCE = Reference(describe())
CHAT = REFERENCE.operations["post-v1-chat-completions"]


def field(operation: Operation, *names: str) -> Field:
    """Return a field of the body, by the names that lead to it."""
    forms = operation.bodies[0].forms
    for name in names:
        found = next(one for form in forms for one in form.fields if one.name == name)
        forms = found.forms
    return found


def test_every_operation_has_a_page_in_one_group() -> None:
    described = {(path, name.upper()) for path, methods in describe()["paths"].items() for name in methods}
    shown = [(one.path, one.method) for members in REFERENCE.groups.values() for one in members]
    assert set(shown) == {(path, name) for path, name in described if name.lower() in METHODS}
    assert len(shown) == len(set(shown)) == len(REFERENCE.operations)
    assert set(REFERENCE.groups) == set(GROUPS)


@pytest.mark.parametrize("operation", REFERENCE.operations.values(), ids=REFERENCE.operations)
def test_only_fields_of_the_schema_are_shown_and_all_of_them(operation: Operation) -> None:
    entry = describe()["paths"][operation.path][operation.method.lower()]
    for body in operation.bodies:
        schema = entry["requestBody"]["content"][body.media_type]["schema"]
        if "$ref" in schema:
            schema = describe()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        names = {one.name: one.is_required for form in body.forms for one in form.fields}
        assert names == {name: name in schema.get("required", ()) for name in schema["properties"]}
    assert [answer.status for answer in operation.answers] == list(entry["responses"])


def test_types_values_limits_and_defaults_are_in_words() -> None:
    assert field(CHAT, "messages").type == "array of object"
    assert field(CHAT, "temperature").type == "number | null"
    assert field(CHAT, "temperature").limits == "0 – 2"
    assert field(CHAT, "stop").type == "string | array of string | null"
    assert field(CHAT, "max_tokens").is_deprecated
    assert field(CHAT, "max_completion_tokens").limits == "≥ 1"
    assert field(CHAT, "provider", "sort").values == ("price", "latency")
    assert field(CHAT, "tools").counted == "items"
    assert field(CHAT, "tools").limits == "≤ 128"
    speech = REFERENCE.operations["post-v1-audio-speech"]
    assert (field(speech, "response_format").default, field(speech, "speed").limits) == ("mp3", "0.25 – 4.0")
    assert field(REFERENCE.operations["post-v1-audio-transcriptions"], "file").type == "bytes"


def test_forms_of_an_object_are_told_apart_by_their_type_or_role() -> None:
    assert [form.title for form in field(CHAT, "messages").forms] == [
        "role: user", "role: developer | system | tool", "role: assistant",
    ]  # fmt: skip


def test_required_fields_come_first() -> None:
    for operation in REFERENCE.operations.values():
        for body in operation.bodies:
            for form in body.forms:
                order = [one.is_required for one in form.fields]
                assert order == sorted(order, reverse=True)


@pytest.mark.parametrize("operation", REFERENCE.operations.values(), ids=REFERENCE.operations)
def test_an_example_is_a_command_with_what_is_required(operation: Operation) -> None:
    words = shlex.split(operation.example.replace("\\\n", " "))
    assert words[0] == "curl"
    assert "{" not in words[1]
    assert ("Authorization: Bearer sk-…" in words) == operation.needs_key
    for body in operation.bodies[:1]:
        required = {one.name for form in body.forms for one in form.fields if one.is_required}
        if body.media_type == "application/json":
            sent = json.loads(words[words.index("-d") + 1])
            assert set(sent) == required
            assert sent.get("model", MODEL) == MODEL


def test_more_specific_groups_win() -> None:
    assert group_of("/v1/audio/speech") == "Speech"
    assert group_of("/v1/audio/transcriptions") == "Transcription"
    assert group_of("/nothing/else") == "Service"
