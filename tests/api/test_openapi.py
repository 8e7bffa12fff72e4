"""The description at /openapi.json is valid, current, and covers exactly the routes of this server."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from tools.openapi import as_text, compile_document

from minitoolai.api.openapi import DOCUMENT, describe
from minitoolai.api.routes import HANDLERS, hot_paths, image_paths
from minitoolai.bootstrap import build
from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.http.errors import ANTHROPIC_TABLE, IMAGE_PATHS, MESSAGES_PATHS, TABLE
from minitoolai.httpclient.guarded import MAX_URL_LENGTH
from minitoolai.images import request as images
from minitoolai.settings import load_settings
from minitoolai.speech.endpoint import FASTEST, FORMATS, SLOWEST

OPEN = {"/healthz", "/readyz", "/openapi.json"}
#: No key either: a signature is what opens these.
SIGNED = {
    "/api/texttoimage/jobs/",
    "/api/texttoimage/jobs/{jobid}",
    "/api/texttoimage/jobs/{jobid}/events",
    "/api/texttoimage/pictures/{name}",
    "/api/imagetoimage/jobs/",
    "/api/imagetoimage/jobs/{jobid}",
    "/api/imagetoimage/jobs/{jobid}/events",
}


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, what) for path, item in describe()["paths"].items() for method, what in item.items()]


@pytest.fixture
def hot(tmp_path: Path) -> set[str]:
    """The paths that bypass the framework, from the server's own table."""

    async def ask() -> set[str]:
        services = build(load_settings({}, data_dir=tmp_path))
        heard = services.transcription
        hot = hot_paths(services.chats, services.responses, services.speech, heard.service, heard.forms, services.keys)
        uploads, failures = services.transcription.uploads, services.site.request_failures
        return set(hot | image_paths(services.images, services.keys, services.settings, failures, uploads))

    return asyncio.run(ask())


def schema(name: str) -> Draft202012Validator:
    document = describe()
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


def _template(path: str) -> str:
    """Without the last slash and the names of parameters: the framework's are its own affair."""
    return re.sub(r"\{[^}]*\}", "{}", path).rstrip("/")


def test_the_document_is_valid_openapi() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(describe()).iter_errors()] == []


def test_the_json_is_what_the_yaml_compiles_to() -> None:
    assert DOCUMENT.read_text("utf-8") == as_text(compile_document())


def test_limits_of_an_image_request_are_those_of_the_code() -> None:
    fields = describe()["components"]["schemas"]["ImageRequest"]["properties"]
    side = {"minimum": images.SMALLEST_SIDE, "maximum": images.LARGEST_SIDE, "default": images.DEFAULT_SIDE}
    for field in (fields["width"], fields["height"]):
        assert {name: field[name] for name in side} == side
    assert fields["prompt"]["maxLength"] == fields["negativePrompt"]["maxLength"] == images.MAX_PROMPT
    assert fields["scheduler"]["enum"] == [*SCHEDULERS, None]
    assert fields["scheduler"]["default"] == images.DEFAULT_SCHEDULER
    assert (fields["steps"]["maximum"], fields["steps"]["default"]) == (images.MAX_STEPS, images.DEFAULT_STEPS)
    cfg = fields["cfgScale"]
    assert (cfg["minimum"], cfg["maximum"], cfg["default"]) == (
        images.MIN_CFG,
        images.MAX_CFG,
        images.DEFAULT_CFG,
    )
    assert fields["seed"]["maximum"] == images.MAX_SEED
    assert fields["webhook_url"]["maxLength"] == MAX_URL_LENGTH


def test_limits_of_a_speech_request_are_those_of_the_code() -> None:
    fields = describe()["components"]["schemas"]["SpeechRequest"]["properties"]
    assert fields["response_format"]["enum"] == [*FORMATS, None]
    assert fields["response_format"]["default"] == "mp3"
    assert (fields["speed"]["minimum"], fields["speed"]["maximum"]) == (SLOWEST, FASTEST)


def test_every_route_is_described_and_nothing_else(hot: set[str]) -> None:
    served = {_template(handler.path) for handler in HANDLERS} | {_template(path) for path in hot}
    assert {_template(path) for path in describe()["paths"]} == served


def test_methods_are_described_as_they_are_served() -> None:
    methods = {_template(h.path): {m.lower() for m in h.endpoints} - {"head"} for h in HANDLERS}
    for path, method, _ in operations():
        assert method in methods.get(_template(path), {"post"}), path


def test_every_path_that_bypasses_the_framework_answers_with_and_without_its_last_slash(hot: set[str]) -> None:
    assert {path.rstrip("/") for path in hot} | {f"{path.rstrip('/')}/" for path in hot} == hot


def test_every_status_an_error_can_have_is_described_for_paid_work() -> None:
    # What is gone was paid for before. A request that did not arrive whole has no path.
    posts = [(path, what) for path, method, what in operations() if method == "post" and path not in SIGNED]
    paid = [(path, what) for path, what in posts if "requestBody" in what]
    assert len(paid) >= 2
    for path, what in paid:
        table = ANTHROPIC_TABLE if path.startswith(MESSAGES_PATHS) else TABLE
        assert {str(status) for _, status, _ in table} - {"408", "410", "431"} <= set(what["responses"])


def test_every_error_answer_has_the_shape_of_errors() -> None:
    for path, _, what in operations():
        for status, response in what["responses"].items():
            if int(status) >= 400 and path not in OPEN:
                name = "MessagesError" if path.startswith(MESSAGES_PATHS) else "Error"
                name = "ImageError" if path.startswith(IMAGE_PATHS) else name
                assert response["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{name}"}


def test_what_needs_a_key_says_so_and_what_does_not_says_so_too() -> None:
    assert describe()["security"] == [{"key": []}]
    for path, _, what in operations():
        assert ("security" in what) == (path in OPEN | SIGNED)
        assert (path in OPEN | SIGNED) or "401" in what["responses"]


def test_every_operation_says_what_it_is_for() -> None:
    assert all(what["summary"] for _, _, what in operations())


GOOD = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
PART = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": None, "stream": None, "max_completion_tokens": None},
        {"temperature": 2, "max_completion_tokens": 4.0, "n": 3, "tools": []},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, PART]}]},
        {"messages": [{"role": "assistant", "content": None}, {"role": "tool", "content": "x"}]},
    ],
)
@pytest.mark.parametrize("name", ["ChatRequest", "ChatRequestOpenAI"])
def test_requests_that_are_taken_fit_the_schema(name: str, fields: dict[str, Any]) -> None:
    assert schema(name).is_valid({**GOOD, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"content": "x"}]},
        {"temperature": 2.1},
        {"temperature": "1"},
        {"max_completion_tokens": 0},
        {"max_completion_tokens": "4"},
        {"stream": "true"},
        {"model": 7},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"detail": "low"}}]}]},
    ],
)
def test_requests_that_are_refused_do_not_fit_the_schema(fields: dict[str, Any]) -> None:
    assert not schema("ChatRequest").is_valid({**GOOD, **fields})


def test_the_shape_of_errors_is_the_one_that_is_sent() -> None:
    import json

    from minitoolai.core.errors import InvalidRequest
    from minitoolai.http.errors import error_body

    assert schema("Error").is_valid(json.loads(error_body(InvalidRequest("no", param="model"))))
    assert schema("Error").is_valid(json.loads(error_body(InvalidRequest("no"))))
    assert schema("MessagesError").is_valid(json.loads(error_body(InvalidRequest("no"), MESSAGES_PATHS)))
