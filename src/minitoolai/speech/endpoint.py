"""HTTP endpoint of text to speech: parse and validate requests, stream audio or server-sent events (SSE)."""

from __future__ import annotations

from functools import partial
from typing import Any, cast, get_args

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.core.errors import ClientLeft, InvalidRequest, ServiceError
from minitoolai.core.inference import AudioFormat, SpeechRequest
from minitoolai.core.request_fields import header_of_names
from minitoolai.http.asgi import Headers, Receive, Scope, Send, respond_error
from minitoolai.http.auth import authenticate
from minitoolai.http.bodies.bodies import BodyLimits, read_parsed
from minitoolai.http.errors import error_event, status_and_type
from minitoolai.http.exchanges import RECORDING, record
from minitoolai.http.request_context import set_generation
from minitoolai.http.streaming import EVENT_STREAM, StreamWriter, method_not_allowed, stream_with_errors
from minitoolai.http.validation import json_object, non_empty_text, number, shortened
from minitoolai.speech.service import SpeechRun, SpeechService

# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────

FORMATS = get_args(AudioFormat)
SLOWEST, FASTEST = 0.25, 4.0
_OURS = frozenset(("model", "input", "voice", "response_format", "speed", "stream_format", "language"))


def parse_speech(body: bytes) -> SpeechRequest:
    """Return the validated request. InvalidRequest names the field and the valid values."""
    fields = json_object(body)
    model = non_empty_text(fields, "model")
    text = fields.get("input")
    if not isinstance(text, str) or not text.strip():
        raise InvalidRequest("input must be a string with at least one character to speak", param="input")
    form = _choice(fields, "response_format", FORMATS) or "mp3"
    return SpeechRequest(
        model=model,
        text=text,
        voice=_optional(fields, "voice"),
        format=cast(AudioFormat, form),
        speed=number(fields, "speed", SLOWEST, FASTEST) or 1.0,
        fields={
            key: value
            for key, value in fields.items()
            if key not in _OURS and value is not None and not (key == "instructions" and value == "")
        },
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


# ── endpoint ──────────────────────────────────────────────────────────────────────────────────────────────

_CONTENT_TYPES = {
    "mp3": b"audio/mpeg",
    "wav": b"audio/wav",
    "flac": b"audio/flac",
    "opus": b"audio/ogg; codecs=opus",
    "aac": b"audio/aac",
    "pcm": b"audio/pcm",
}


class SpeechEndpoint:
    """ASGI app for `POST /api/texttospeech/` and `POST /v1/audio/speech`."""

    def __init__(self, speeches: SpeechService, keys: KeyVerifier, limits: BodyLimits) -> None:
        self._speeches = speeches
        self._keys = keys
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: SpeechRequest | None = None
        try:
            if scope["method"] != "POST":
                await method_not_allowed(send)
                return
            caller = await authenticate(scope, self._keys)
            if caller.body_days and RECORDING not in scope:
                await record(self, self._keys, caller, scope, receive, send)
                return
            request = await read_parsed(parse_speech, scope, receive, self.limits)
            run = await self._speeches.begin(caller, request)
        except ClientLeft:
            return
        except ServiceError as error:
            if request is not None and error.is_fault:
                self._speeches.count_refusal(request, error)
            await respond_error(send, error, [])
            return
        run.cancellation.arm()
        set_generation(scope, run.name)
        out = StreamWriter(send, _headers(run))
        if request.as_events:
            run.output = out
        failure = await stream_with_errors(run, out, receive, partial(_error_event, run), run.reservation.recorder)
        if failure is not None:
            await respond_error(send, failure, _run_headers(run))


def _headers(run: SpeechRun) -> Headers:
    headers = EVENT_STREAM if run.request.as_events else [(b"content-type", _CONTENT_TYPES[run.request.format])]
    headers = [*headers, *_run_headers(run)]
    if run.text.unspoken:
        headers.append((b"x-unspoken-characters", str(run.text.unspoken).encode()))
    return headers


def _run_headers(run: SpeechRun) -> Headers:
    headers = [(b"x-generation-id", run.name.encode()), (b"x-voice", run.voice.id.encode())]
    if dropped := [name for name in run.request.fields if name not in run.engine.forwards]:
        headers.append((b"x-dropped-fields", header_of_names(dropped)))
    return headers


def _error_event(run: SpeechRun, error: ServiceError) -> bytes:
    """Return the event that ends a stream with an error. Plain audio is cut off."""
    if not run.request.as_events:
        return b""
    return error_event(error.message, kind=status_and_type(error)[1], code=error.code, param=error.param)
