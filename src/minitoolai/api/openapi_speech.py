"""The part of /openapi.json that describes speech."""

from __future__ import annotations

from typing import Any

from minitoolai.speech.endpoint import FASTEST, FORMATS, SLOWEST

Json = dict[str, Any]

_STRING: Json = {"type": "string"}


def operation(summary: str, failures: Json) -> Json:
    """A POST that speaks; `failures` are its other answers."""
    headers = {
        "x-generation-id": {"schema": _STRING, "description": "Ask /v1/generations/{id} what it cost."},
        "x-voice": {"schema": _STRING, "description": "The voice that speaks, where an alias was asked for."},
        "x-unspoken-characters": {
            "schema": {"type": "integer"},
            "description": "Characters in scripts that the voice does not read: left out, and not charged.",
        },
    }
    audio: Json = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _KINDS}
    return {
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SpeechRequest"}}},
        },
        "responses": {
            "200": {
                "description": "The audio, sentence by sentence; its end leaves once the charge is durable, and an "
                "answer that fails is cut off without it. With `stream_format` sse: `speech.audio.delta` events with "
                "base64 audio, then `speech.audio.done`; `pcm` is 24 kHz, 16 bit, little-endian, mono.",
                "headers": headers,
                "content": {**audio, "text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}}},
            },
            **failures,
        },
    }


_KINDS = ("audio/mpeg", "audio/wav", "audio/flac", "audio/ogg", "audio/pcm")

SCHEMAS: Json = {
    "SpeechRequest": {
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": {"type": "string", "examples": ["tts-1"]},
            "input": {"type": "string", "minLength": 1, "description": "Plain text; the catalog says how long."},
            "voice": {
                "type": ["string", "null"],
                "description": "One of /v1/audio/voices, or an alias; default heart.",
            },
            "response_format": {"enum": [*FORMATS, None], "default": "mp3"},
            "speed": {"type": ["number", "null"], "minimum": SLOWEST, "maximum": FASTEST, "default": 1},
            "stream_format": {"enum": ["audio", "sse", None], "default": "audio"},
            "language": {
                "type": ["string", "null"],
                "description": "What the input is written in; else we guess.",
            },
        },
        "additionalProperties": True,
    },
    "VoiceList": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["id", "language", "engine"],
                    "properties": {
                        "id": _STRING,
                        "object": {"const": "voice"},
                        "language": {"type": "string", "description": "A tag like en-US; * is any."},
                        "engine": _STRING,
                        "licence": _STRING,
                        "aliases": {"type": "array", "items": _STRING},
                    },
                },
            },
        },
    },
}
