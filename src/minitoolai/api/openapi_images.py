"""The part of /openapi.json that describes pictures and webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.httpclient.guarded import MAX_URL_LENGTH
from minitoolai.images import request as wire

Json = dict[str, Any]

_STRING: Json = {"type": "string"}
_INTEGER: Json = {"type": "integer"}
_PAID = (400, 401, 402, 404, 413, 415, 429, 500, 502, 503, 504)
_GENERATION = {"x-generation-id": {"schema": _STRING, "description": "Ask /v1/generations/{id} what it cost."}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def errors(about: Mapping[int, str], *statuses: int) -> Json:
    """Answers in the contract's own shape for pictures."""
    return {str(s): {"description": about[s], "content": _json(_ref("ImageError"))} for s in statuses}


def paths(about: Mapping[int, str], failures: Json) -> Json:
    """Every path of pictures. `about` says what a status means; `failures` are those of OpenAI's form."""

    return {
        "/api/texttoimage/": {"post": _submit(errors(about, *_PAID))},
        "/api/texttoimage/jobs/": {"post": _poll(errors(about, 400, 404, 413, 415, 500, 503))},
        "/api/texttoimage/jobs/{jobid}/events": {"get": _events(errors(about, 400, 404, 503))},
        "/api/texttoimage/jobs/{jobid}": {"delete": _cancel(errors(about, 400, 404, 503))},
        "/api/texttoimage/pictures/{name}": {"get": _picture(errors(about, 404, 410, 500, 503))},
        "/v1/images/generations": {"post": _generate(failures)},
    }


def webhooks(failures: Json) -> Json:
    """`GET /api/webhooks/`."""
    return {
        "summary": "The secret that webhooks are signed with, and how their delivery went",
        "responses": {"200": {"description": "The last 100", "content": _json(_ref("WebhookList"))}, **failures},
    }


def _submit(failures: Json) -> Json:
    return {
        "summary": "Text to image: submit a job",
        "description": "The price is held, and charged once the picture is drawn. `webhook_url` is told of the end.",
        "requestBody": {"required": True, "content": _json(_ref("ImageRequest"))},
        "responses": {
            "200": {"description": "It waits", "headers": _GENERATION, "content": _json(_ref("ImageSubmitted"))},
            **failures,
        },
    }


def _poll(failures: Json) -> Json:
    return {
        "summary": "Text to image: how a job stands",
        "security": [],
        "requestBody": {"required": True, "content": _json(_ref("ImagePoll"))},
        "responses": {
            "200": {"description": "As it stands; a failed job, too", "content": _json(_ref("ImageJob"))},
            **failures,
        },
    }


_SIGNED = [
    {"name": "jobid", "in": "path", "required": True, "schema": _STRING},
    {"name": "signature", "in": "query", "required": True, "schema": _STRING},
]


def _events(failures: Json) -> Json:
    return {
        "summary": "Text to image: follow a job",
        "description": "What a poll says, at once and after every change; `data: [DONE]` after the last.",
        "security": [],
        "parameters": _SIGNED,
        "responses": {
            "200": {
                "description": "Server-sent events",
                "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}}},
            },
            **failures,
        },
    }


def _cancel(failures: Json) -> Json:
    return {
        "summary": "Text to image: cancel a job",
        "description": "Its hold is released. A job that has ended stays as it is.",
        "security": [],
        "parameters": _SIGNED,
        "responses": {"200": {"description": "As it stands now", "content": _json(_ref("ImageJob"))}, **failures},
    }


def _picture(failures: Json) -> Json:
    headers = {
        "etag": {"schema": _STRING, "description": "SHA-256 of the bytes."},
        "cache-control": {"schema": _STRING, "description": "For as long as the link is good."},
    }
    png = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "summary": "A picture, by the link that a poll gave",
        "description": "The link expires; polling again gives a fresh one. HEAD is answered, too.",
        "security": [],
        "parameters": [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "pattern": r"^\d+\.png$"}},
            {"name": "expires", "in": "query", "required": True, "schema": _INTEGER},
            {"name": "signature", "in": "query", "required": True, "schema": _STRING},
        ],
        "responses": {
            "200": {"description": "The PNG", "headers": headers, "content": png},
            "304": {"description": "You have it", "headers": headers},
            **failures,
        },
    }


def _generate(failures: Json) -> Json:
    return {
        "summary": "Text to image as OpenAI's clients ask for it: waits for the pictures",
        "description": "Whoever leaves cancels what is not drawn yet. Where some of `n` fail, the others are answered.",
        "requestBody": {"required": True, "content": _json(_ref("ImageGenerateRequest"))},
        "responses": {
            "200": {
                "description": "The pictures",
                "headers": {"x-generation-id": {"schema": _STRING, "description": "One for each picture, by commas."}},
                "content": _json(_ref("ImageList")),
            },
            **failures,
        },
    }


def _nullable(kind: str, **rules: Any) -> Json:
    return {"type": [kind, "null"], **rules}


def _object(required: str, properties: Json, **rules: Any) -> Json:
    return {"type": "object", "required": required.split(), "properties": properties, **rules}


_PROMPT: Json = {"type": "string", "minLength": 1, "maxLength": wire.LONGEST_PROMPT}
_SIDE = _nullable("integer", minimum=wire.SMALLEST_SIDE, maximum=wire.LARGEST_SIDE, default=wire.DEFAULT_SIDE)
_COMMON: Json = {
    "model": {"type": "string", "examples": ["realvision"]},
    "prompt": _PROMPT,
    "negativePrompt": _nullable("string", maxLength=wire.LONGEST_PROMPT, description="Means nothing at cfgScale 1."),
    "scheduler": {"enum": [*SCHEDULERS, None], "default": wire.DEFAULT_SCHEDULER},
    "steps": _nullable("integer", minimum=1, maximum=wire.MOST_STEPS, default=wire.DEFAULT_STEPS),
    "cfgScale": _nullable("number", minimum=wire.LOWEST_CFG, maximum=wire.HIGHEST_CFG, default=wire.DEFAULT_CFG),
    "seed": _nullable("integer", minimum=0, maximum=wire.LARGEST_SEED, description="Drawn by lot if absent."),
}
_DATE = {"type": ["string", "null"], "format": "date-time"}

SCHEMAS: Json = {
    "ImageError": _object(
        "status jobid signature message code",
        {
            "status": {"const": "error"},
            "jobid": {"type": "null"},
            "signature": {"type": "null"},
            "message": {"type": "string", "description": "Why, naming the field."},
            "code": _STRING,
        },
    ),
    "ImageRequest": _object(
        "model prompt",
        {
            **_COMMON,
            "width": _SIDE,
            "height": _SIDE,
            "webhook_url": _nullable("string", format="uri", maxLength=MAX_URL_LENGTH, description="https, port 443."),
        },
    ),
    "ImageSubmitted": _object(
        "status jobid signature",
        {
            "status": {"const": "success"},
            "jobid": {"type": "integer", "exclusiveMaximum": 2**53},
            "signature": {"type": "string", "description": "Whoever has it may look at the job and cancel it."},
        },
    ),
    "ImagePoll": _object(
        "jobid signature",
        {"jobid": {"type": ["integer", "string"], "pattern": r"^\d{1,16}$", "minimum": 0}, "signature": _STRING},
    ),
    "ImageJob": _object(
        "status image_url message seed progress model generation",
        {
            "status": {"enum": ["queued", "processing", "success", "error"]},
            "image_url": {"type": ["string", "null"], "description": "Signed, and expires; each poll gives a new one."},
            "message": {"type": "string", "description": "Where it stands, or why there is no picture."},
            "seed": _INTEGER,
            "progress": {"type": "number", "minimum": 0, "maximum": 1},
            "model": {"type": "string", "description": "What really drew it, once somebody has."},
            "generation": _STRING,
            "code": {"type": "string", "description": "Beside `error`: `cancelled`, `picture_removed`, …"},
        },
    ),
    "ImageGenerateRequest": _object(
        "model prompt",
        {
            **_COMMON,
            "n": _nullable("integer", minimum=1, maximum=4, default=1),
            "size": {"type": ["string", "null"], "pattern": r"^(\d{3,4}x\d{3,4}|auto)$", "default": "1024x1024"},
            "response_format": {"enum": ["url", "b64_json", None], "default": "url"},
            "user": _nullable("string"),
        },
        description="With the fields of /api/texttoimage/ as extras.",
    ),
    "ImageList": _object(
        "created data",
        {
            "created": _INTEGER,
            "data": {"type": "array", "items": {"type": "object", "properties": {"url": _STRING, "b64_json": _STRING}}},
        },
    ),
    "WebhookList": _object(
        "object secret data",
        {
            "object": {"const": "list"},
            "secret": {"type": "string", "pattern": "^whsec_", "description": "As standardwebhooks.com has it."},
            "data": {
                "type": "array",
                "items": _object(
                    "id generation url state attempts",
                    {
                        "id": _STRING,
                        "object": {"const": "webhook"},
                        "generation": _STRING,
                        "url": _STRING,
                        "state": {"enum": ["pending", "delivered", "failed"]},
                        "created_at": _DATE,
                        "finished_at": _DATE,
                        "next_attempt_at": _DATE,
                        "attempts": {
                            "type": "array",
                            "items": _object(
                                "at status error duration_ms",
                                {
                                    "at": _DATE,
                                    "status": _nullable("integer"),
                                    "error": _nullable("string"),
                                    "duration_ms": _INTEGER,
                                },
                            ),
                        },
                    },
                ),
            },
        },
    ),
}
