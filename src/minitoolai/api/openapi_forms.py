"""The part of /openapi.json that describes the other forms of a chat: texts continued, responses, and vectors."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_STRING: Json = {"type": "string"}
_INTEGER: Json = {"type": "integer"}
_FLAG: Json = {"type": ["boolean", "null"]}
_USAGE: Json = {"type": "object", "required": ["total_tokens"], "properties": {"total_tokens": _INTEGER}}
HEADERS: Json = {
    "x-generation-id": {"schema": _STRING, "description": "Ask /v1/generations/{id} what it cost."},
    "x-max-completion-tokens": {
        "schema": _INTEGER,
        "description": "The limit that the balance bought, where it is lower than the one asked for.",
    },
}


def operation(summary: str, request: str, answer: str, events: str, failures: Json) -> Json:
    """A POST that answers whole or, where `stream` is true, in events."""
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(request)}}},
        "responses": {
            "200": {
                "description": events,
                "headers": HEADERS,
                "content": {
                    "application/json": {"schema": _ref(answer)},
                    "text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}},
                },
            },
            **failures,
        },
    }


def operations(failures: Json) -> Json:
    """All of them, by path."""
    return {
        "/v1/embeddings": {"post": _embeddings(failures)},
        "/v1/completions": {
            "post": operation(
                "Plain text continued",
                "TextRequest",
                "TextCompletion",
                "The text. As a stream: one `data: {text_completion}` an event, the usage where "
                "`stream_options.include_usage` asks for it, then `data: [DONE]` once the charge is durable.",
                failures,
            )
        },
        "/v1/responses": {
            "post": operation(
                "A chat in OpenAI's newer form; nothing is kept",
                "ResponseRequest",
                "Response",
                "The response. As a stream: `event:` and `data:` lines from `response.created` to `response.completed` "
                "that leaves once the charge is durable; `response.failed` where something went wrong on the way.",
                failures,
            )
        },
    }


def _embeddings(failures: Json) -> Json:
    return {
        "summary": "Texts into vectors",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("EmbeddingRequest")}}},
        "responses": {
            "200": {
                "description": "A vector for each text.",
                "headers": HEADERS,
                "content": {"application/json": {"schema": _ref("EmbeddingList")}},
            },
            **failures,
        },
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _number(low: float, high: float) -> Json:
    return {"type": ["number", "null"], "minimum": low, "maximum": high}


def _count(low: int, high: int | None = None) -> Json:
    rule: Json = {"type": ["integer", "null"], "minimum": low}
    return rule if high is None else {**rule, "maximum": high}


_TOKENS: Json = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}}
_TEXT: Json = {"type": "string", "minLength": 1}
_PROMPT: Json = {
    "anyOf": [_TEXT, _TOKENS, {"type": "array", "minItems": 1, "maxItems": 128, "items": {"anyOf": [_TEXT, _TOKENS]}}]
}
_ITEM: Json = {
    "anyOf": [
        {
            "type": "object",
            "required": ["role", "content"],
            "properties": {
                "type": {"const": "message"},
                "role": {"enum": ["user", "assistant", "system", "developer"]},
                "content": {
                    "anyOf": [_STRING, {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Part"}}]
                },
            },
        },
        {
            "type": "object",
            "required": ["type", "call_id", "name", "arguments"],
            "properties": {
                "type": {"const": "function_call"},
                "call_id": _TEXT,
                "name": _TEXT,
                "arguments": _STRING,
            },
        },
        {
            "type": "object",
            "required": ["type", "call_id", "output"],
            "properties": {"type": {"const": "function_call_output"}, "call_id": _TEXT, "output": _STRING},
        },
        {"type": "object", "required": ["type"], "properties": {"type": {"const": "reasoning"}}},
    ]
}
_FUNCTION_NAME: Json = {"type": "string", "pattern": r"^[a-zA-Z0-9_.-]{1,64}$"}
_TOOL: Json = {
    "type": "object",
    "required": ["type", "name"],
    "properties": {
        "type": {"const": "function"},
        "name": _FUNCTION_NAME,
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]},
        "strict": _FLAG,
    },
}

SCHEMAS: Json = {
    "Event": {
        "type": "object",
        "description": "One server-sent event of a stream.",
        "required": ["data"],
        "properties": {
            "event": _STRING,
            "data": {"type": "string", "description": "JSON, or `[DONE]`.", "contentMediaType": "application/json"},
        },
    },
    "TextRequest": {
        "type": "object",
        "required": ["model", "prompt"],
        "properties": {
            "model": _TEXT,
            "prompt": _PROMPT,
            "max_tokens": {**_count(1), "default": 16},
            "n": _count(1, 128),
            "best_of": _count(1, 20),
            "echo": _FLAG,
            "logprobs": _count(0, 20),
            "temperature": _number(0, 2),
            "top_p": _number(0, 1),
            "stream": {**_FLAG, "default": False},
        },
        "additionalProperties": True,
    },
    "EmbeddingRequest": {
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": _TEXT,
            "input": {
                "anyOf": [
                    _TEXT,
                    _TOKENS,
                    {"type": "array", "minItems": 1, "maxItems": 2048, "items": {"anyOf": [_TEXT, _TOKENS]}},
                ]
            },
            "encoding_format": {"enum": ["float", "base64", None]},
            "dimensions": _count(1, 65_536),
        },
        "additionalProperties": True,
    },
    "EmbeddingList": {
        "type": "object",
        "required": ["object", "data", "model", "usage"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"type": "object", "required": ["object", "index", "embedding"]}},
            "model": {**_STRING, "description": "What really answered."},
            "usage": _USAGE,
        },
    },
    "TextCompletion": {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {
            "id": _STRING,
            "object": {"const": "text_completion"},
            "created": _INTEGER,
            "model": {**_STRING, "description": "What really answered."},
            "choices": {"type": "array", "items": {"type": "object", "required": ["text", "index", "finish_reason"]}},
            "usage": _USAGE,
        },
    },
    "Part": {
        "anyOf": [
            {
                "type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"enum": ["input_text", "output_text"]}, "text": _STRING},
            },
            {
                "type": "object",
                "required": ["type", "image_url"],
                "properties": {
                    "type": {"const": "input_image"},
                    "image_url": {
                        "type": "string",
                        "pattern": r"^(https://|data:image/(jpeg|jpg|png|webp|gif);base64,)",
                    },
                    "detail": {"enum": ["auto", "low", "high"]},
                },
            },
        ]
    },
    "ResponseRequest": {
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": _TEXT,
            "input": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": _ITEM}]},
            "instructions": {"type": ["string", "null"]},
            "max_output_tokens": _count(1),
            "temperature": _number(0, 2),
            "top_p": _number(0, 1),
            "stream": {**_FLAG, "default": False},
            "store": {"enum": [False, None], "description": "Nothing is kept."},
            "tools": {"type": ["array", "null"], "maxItems": 128, "items": _TOOL},
            "text": {"type": ["object", "null"]},
            "reasoning": {"type": ["object", "null"]},
        },
        "additionalProperties": False,
        "patternProperties": {
            "^(tool_choice|parallel_tool_calls|metadata|user|safety_identifier|prompt_cache_key|prompt_cache_retention|"
            "service_tier|include|top_logprobs|truncation|stream_options|background)$": {}
        },
    },
    "Response": {
        "type": "object",
        "required": ["id", "object", "created_at", "status", "model", "output", "usage"],
        "properties": {
            "id": _STRING,
            "object": {"const": "response"},
            "created_at": _INTEGER,
            "status": {"enum": ["completed", "incomplete"]},
            "model": {**_STRING, "description": "What really answered."},
            "output": {"type": "array", "items": {"type": "object", "required": ["id", "type"]}},
            "usage": _USAGE,
        },
    },
}
