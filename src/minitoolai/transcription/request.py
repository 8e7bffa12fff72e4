"""Parse and validate the forms of `/v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

import math
import re
from typing import cast

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.transcription import (
    TRANSCRIPT_FORMATS,
    TranscriptFormat,
    TranscriptionRequest,
    TranscriptTask,
    UploadedFile,
)
from minitoolai.http.bodies.uploads import Form
from minitoolai.http.validation import shortened

#: OpenAI's limit is 224 tokens; Whisper reads the last of them.
MAX_PROMPT = 2_000
GRANULARITIES = ("segment", "word")
_OURS = frozenset(
    ("model", "language", "prompt", "response_format", "temperature", "stream", "timestamp_granularities")
    + ("timestamp_granularities[]",)
)
_LANGUAGE = re.compile(r"[a-z]{2,3}")


def parse_transcription(form: Form, task: TranscriptTask) -> TranscriptionRequest:
    """Return the validated request. InvalidRequest names the field and what to send."""
    fields = _Fields(form)
    model = fields.one("model")
    if not model:
        raise InvalidRequest(
            "model is missing: send the name of a transcription model, such as whisper-1", param="model"
        )
    file = _file(form.file)
    given_format = fields.choice("response_format", TRANSCRIPT_FORMATS)
    response_format = cast(TranscriptFormat, given_format or "json")
    stream = fields.choice("stream", ("true", "false")) == "true"
    granularities = _granularities(fields, response_format)
    if stream and given_format is not None and response_format not in ("json", "text"):
        raise InvalidRequest(
            f"response_format {response_format} cannot be streamed: leave out stream, or ask for json",
            param="response_format",
        )
    prompt = fields.one("prompt") or ""
    if len(prompt) > MAX_PROMPT:
        raise InvalidRequest(f"prompt has {len(prompt)} characters; at most {MAX_PROMPT} are allowed", param="prompt")
    return TranscriptionRequest(
        model=model,
        task=task,
        file=file,
        format=response_format,
        language=_language(fields.one("language")),
        prompt=prompt,
        temperature=_temperature(fields.one("temperature")),
        segments="segment" in granularities,
        words="word" in granularities,
        stream=stream,
        fields={name: values for name, values in form.fields.items() if name not in _OURS and name != "file"},
    )


class _Fields:
    """The fields of a form, most of which may be sent once. An empty value counts as absent."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def one(self, name: str) -> str | None:
        """Return the value of a field, None if it is absent."""
        values = self._form.fields.get(name, [])
        if len(values) > 1:
            raise InvalidRequest(f"{name} was sent {len(values)} times; send it once", param=name)
        return values[0] or None if values else None

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """Return a value that must be one of these."""
        value = self.one(name)
        if value is not None and value not in allowed:
            raise InvalidRequest(f"{name} is {shortened(value)}; it must be one of {', '.join(allowed)}", param=name)
        return value

    def all(self, name: str) -> list[str]:
        """Return all values of a list, with or without brackets behind its name."""
        return [value for key in (name, f"{name}[]") for value in self._form.fields.get(key, []) if value]


def _file(file: UploadedFile | None) -> UploadedFile:
    if file is None or (not file.name and not file.size):
        raise InvalidRequest("file is missing: attach the recording as a form field, with a filename", param="file")
    if not file.size:
        raise InvalidRequest("file is empty: send a recording", param="file", code="invalid_file")
    return file


def _language(text: str | None) -> str | None:
    if text is None:
        return None
    # Browsers and systems say en-US; the first part is the language.
    language = text.strip().lower().replace("_", "-").partition("-")[0]
    if not _LANGUAGE.fullmatch(language):
        raise InvalidRequest(
            f"language is {shortened(text)}; it must be a code of ISO 639-1, such as en or de", param="language"
        )
    return language


def _temperature(text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InvalidRequest(f"temperature is {shortened(text)}; it must be a number from 0 to 1", param="temperature")
    return value


def _granularities(fields: _Fields, response_format: TranscriptFormat) -> list[str]:
    name = "timestamp_granularities[]"
    values = fields.all("timestamp_granularities")
    for value in values:
        if value not in GRANULARITIES:
            raise InvalidRequest(f"{name} is {shortened(value)}; it must be segment or word", param=name)
    if response_format != "verbose_json":
        if "word" in values:
            raise InvalidRequest(f"{name} needs response_format verbose_json", param=name)
        return []
    return values or ["segment"]
