"""The description of the API at /openapi.json, written by hand so that it can tell the truth about streams."""

from __future__ import annotations

from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from minitoolai import __version__
from minitoolai.api import openapi_forms as forms
from minitoolai.api import openapi_images as images
from minitoolai.api import openapi_options as options
from minitoolai.api import openapi_speech as speech
from minitoolai.http.routing import json_response, reads

Json = dict[str, Any]

_ERRORS = {
    400: "A field is wrong; `param` names it.",
    401: "No key, or one that is not known here.",
    402: "The balance does not cover the request.",
    403: "The key is not meant for this model, or not for this address.",
    404: "No such model or object; the message lists the nearest names.",
    405: "Another method is meant.",
    409: "A request with this Idempotency-Key is at work, or was charged and its answer is not kept.",
    410: "It was there: the link has expired, or the picture was removed when its time was over.",
    413: "The body is larger than 20 MB.",
    415: "The body is not JSON.",
    422: "This Idempotency-Key was sent with another request.",
    429: "Too many requests, here or at the engine.",
    500: "Our mistake.",
    502: "The engine failed; nothing was charged before its first token.",
    503: "Too busy; `Retry-After` says when to come back.",
    504: "The engine took too long.",
}
_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "For 24 hours the same request under the same key gets the same answer and is charged once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


@reads("/openapi.json")
async def document(request: Request) -> Response:
    """The whole description."""
    return json_response(describe())


@cache
def describe() -> Json:
    """OpenAPI 3.1 of everything that callers with keys can reach."""
    described = _describe()
    for path, item in described["paths"].items():
        for method, operation in item.items():
            if "security" not in operation:
                _add_what_all_share(path, method, operation)
    return described


def _add_what_all_share(path: str, method: str, operation: Json) -> None:
    """Every request with a key may meet a limit; every POST may carry an Idempotency-Key."""
    statuses = [403, 429]
    if method == "post":
        statuses += [409, 422]
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    errors = images.errors(_ERRORS, *statuses) if path.startswith("/api/texttoimage") else _errors(*statuses)
    for status, answer in errors.items():
        operation["responses"].setdefault(status, answer)


def _describe() -> Json:
    failures = _errors(400, 401, 402, 404, 413, 415, 429, 500, 502, 503, 504)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MiniToolAI",
            "version": __version__,
            "description": "Chat, pictures and speech, billed to the nano-dollar. A last slash changes nothing.",
        },
        "security": [{"key": []}],
        "paths": {
            "/api/chat-completions/": {"post": _chat("Chat, streamed unless `stream` is false", ours=True)},
            "/v1/chat/completions": {"post": _chat("Chat in OpenAI's own defaults", ours=False)},
            **forms.operations(failures),
            "/api/texttospeech/": {"post": speech.operation("Text to speech, streamed as it is spoken", failures)},
            "/v1/audio/speech": {"post": speech.operation("Text to speech, as OpenAI's clients ask for it", failures)},
            "/v1/audio/voices": {"get": _read("The voices that can speak now", "VoiceList")},
            **images.paths(_ERRORS, failures),
            "/api/webhooks/": {"get": images.webhooks(_errors(401, 503))},
            "/v1/models": {"get": _read("What is on offer", "ModelList")},
            "/v1/models/{id}": {"get": _read("One model", "Model", 404, path="id")},
            "/api/balance/": {"get": _read("Balance, held and available", "Balance")},
            "/api/usage/": {"get": _usage()},
            "/v1/generations/{id}": {"get": _read("What one request cost, and why", "Generation", 404, path="id")},
            "/healthz": {"get": _open("Alive", 200)},
            "/readyz": {"get": _open("Requests will be served", 200, 503)},
            "/openapi.json": {"get": _open("This description", 200)},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`sk-mt-…`"}},
            "schemas": _schemas() | speech.SCHEMAS | images.SCHEMAS | forms.SCHEMAS,
        },
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _errors(*statuses: int) -> Json:
    schema = {"application/json": {"schema": _ref("Error")}}
    return {str(s): {"description": _ERRORS[s], "content": schema} for s in statuses}


def _chat(summary: str, *, ours: bool) -> Json:
    return {
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("ChatRequest" if ours else "ChatRequestOpenAI")}},
        },
        "responses": {
            "200": {
                "description": "The answer. As a stream: one `data: {chunk}` and an empty line per event, then a chunk "
                "with empty `choices` and the usage, then `data: [DONE]` once the charge is durable. An error after "
                'the stream has begun is an event `data: {"error": …}`, and no `[DONE]`.',
                "headers": forms.HEADERS,
                "content": {
                    "text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}},
                    "application/json": {"schema": _ref("ChatCompletion")},
                },
            },
            **_errors(400, 401, 402, 404, 413, 415, 429, 500, 502, 503, 504),
        },
    }


def _read(summary: str, schema: str, *statuses: int, path: str | None = None) -> Json:
    operation: Json = {
        "summary": summary,
        "responses": {
            "200": {"description": "Found", "content": {"application/json": {"schema": _ref(schema)}}},
            **_errors(401, *statuses),
        },
    }
    if path:
        operation["parameters"] = [{"name": path, "in": "path", "required": True, "schema": {"type": "string"}}]
    return operation


def _usage() -> Json:
    operation = _read("Usage by day, model or key", "Usage", 400)
    operation["responses"]["200"]["content"]["text/csv"] = {"schema": {"type": "string"}}
    texts = {"from": "2026-01-01, or a time; UTC", "to": "the same; a date means to its end"}
    operation["parameters"] = [
        *({"name": n, "in": "query", "schema": {"type": "string"}, "description": d} for n, d in texts.items()),
        {"name": "group_by", "in": "query", "schema": {"enum": ["day", "model", "key"]}},
        {"name": "format", "in": "query", "schema": {"enum": ["json", "csv"]}},
    ]
    return operation


def _open(summary: str, *statuses: int) -> Json:
    responses = {
        str(s): {"description": summary if s == 200 else "Not yet", "content": {"application/json": {"schema": {}}}}
        for s in statuses
    }
    return {"summary": summary, "security": [], "responses": responses}


def _object(required: str = "", **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": required.split()}


def _nullable(kind: str, **rules: Any) -> Json:
    return {"type": [kind, "null"], **rules}


_STRING: Json = {"type": "string"}
_INTEGER: Json = {"type": "integer"}
_DOLLARS: Json = {"type": "string", "pattern": r"^-?\d+\.\d{9}$", "description": "Dollars, exact to the nano-dollar."}


def _schemas() -> Json:
    return {
        "Error": _object(
            "error",
            error=_object(
                "message type param code", message=_STRING, type=_STRING, param=_nullable("string"), code=_STRING
            ),
        ),
        "ChatRequest": _chat_request(stream_default=True),
        "ChatRequestOpenAI": _chat_request(stream_default=False),
        "ChatCompletion": _object(
            "id object created model choices usage",
            id=_STRING,
            object={"const": "chat.completion"},
            created=_INTEGER,
            model={**_STRING, "description": "What really answered."},
            choices={"type": "array", "items": {"type": "object"}},
            usage=_object(
                "prompt_tokens completion_tokens total_tokens",
                prompt_tokens=_INTEGER,
                completion_tokens=_INTEGER,
                total_tokens=_INTEGER,
            ),
        ),
        "Balance": _object(
            "balance held available currency", balance=_DOLLARS, held=_DOLLARS, available=_DOLLARS, currency=_STRING
        ),
        "Model": _object(
            "id object created owned_by", id=_STRING, object={"const": "model"}, created=_INTEGER, owned_by=_STRING
        ),
        "ModelList": _object("object data", object={"const": "list"}, data={"type": "array", "items": _ref("Model")}),
        "Generation": _object("id state cost", id=_STRING, state=_STRING, model=_STRING, cost=_DOLLARS),
        "Usage": _object("data total_cost", data={"type": "array", "items": {"type": "object"}}, total_cost=_DOLLARS),
    }


def _chat_request(*, stream_default: bool) -> Json:
    limit = _nullable("integer", minimum=1, description="1000 unless said here; /v1: the most the model can.")
    return {
        **_object(
            "model messages",
            model={**_STRING, "minLength": 1},
            messages={"type": "array", "minItems": 1, "items": options.MESSAGE},
            temperature=_nullable("number", minimum=0, maximum=2),
            max_completion_tokens=limit,
            max_tokens={**limit, "deprecated": True},
            stream=_nullable("boolean", default=stream_default),
            **options.OPTIONS,
        ),
        "additionalProperties": True,
    }
