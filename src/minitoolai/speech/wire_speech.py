"""Bodies of speech requests into checked requests. Every refusal names the field and what would be right."""

from __future__ import annotations

from typing import Any, cast, get_args

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import AudioFormat, SpeechRequest
from minitoolai.http.validation import json_object, non_empty_text, number, shortened

FORMATS = get_args(AudioFormat)
SLOWEST, FASTEST = 0.5, 2.0
_OURS = frozenset(("model", "input", "voice", "response_format", "speed", "stream_format", "language"))


def parse_speech(body: bytes) -> SpeechRequest:
    """The checked request; InvalidRequest names the field."""
    fields = json_object(body)
    model = non_empty_text(fields, "model")
    text = fields.get("input")
    if not isinstance(text, str) or not text.strip():
        raise InvalidRequest("input must be a string with something to speak in it", param="input")
    form = _choice(fields, "response_format", FORMATS) or "mp3"
    return SpeechRequest(
        model=model,
        text=text,
        voice=_optional(fields, "voice"),
        format=cast(AudioFormat, form),
        speed=number(fields, "speed", SLOWEST, FASTEST) or 1.0,
        fields={key: value for key, value in fields.items() if key not in _OURS and value is not None},
        as_events=_choice(fields, "stream_format", ("audio", "sse")) == "sse",
        language=_optional(fields, "language"),
    )


def _optional(fields: dict[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else non_empty_text(fields, name)


def _choice(fields: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str | None:
    value = fields.get(name)
    if value is not None and value not in allowed:
        raise InvalidRequest(f"{name} is {shortened(value)}; it must be one of {', '.join(allowed)}", param=name)
    return cast("str | None", value)
