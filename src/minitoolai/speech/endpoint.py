"""Text to speech: two addresses, one service; and the voices there are."""

from __future__ import annotations

import asyncio
import logging

from minitoolai.accounts.keys import KeyRing
from minitoolai.core.errors import ClientLeft, ServiceError
from minitoolai.http.asgi import Headers, Receive, Scope, Send, answer_error, read_json_body
from minitoolai.http.auth import authenticate
from minitoolai.http.errors import error_event, status_and_type
from minitoolai.http.request_context import name_work
from minitoolai.http.streaming import EVENT_STREAM, StreamWriter, forward, only_post
from minitoolai.speech.service import SpeechService
from minitoolai.speech.speech_run import SpeechRun
from minitoolai.speech.wire_speech import parse_speech

log = logging.getLogger(__name__)

_TYPES = {
    "mp3": b"audio/mpeg",
    "wav": b"audio/wav",
    "flac": b"audio/flac",
    "opus": b"audio/ogg; codecs=opus",
    "pcm": b"audio/pcm",
}


class SpeechEndpoint:
    """`POST /api/texttospeech/` and `POST /v1/audio/speech`."""

    def __init__(self, speeches: SpeechService, keys: KeyRing) -> None:
        self._speeches = speeches
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "POST":
                await only_post(send)
                return
            caller = await authenticate(scope, self._keys)
            run = await self._speeches.begin(caller, parse_speech(await read_json_body(scope, receive)))
        except ClientLeft:
            return
        except ServiceError as error:
            await answer_error(send, error, [])
            return
        run.task = asyncio.current_task()
        name_work(scope, run.name)
        out = StreamWriter(send, _headers(run))
        error_ = await forward(run, out, receive)
        if error_ is not None and not isinstance(error_, ClientLeft):
            await _tell_of_failure(out, run, error_, send)


def _headers(run: SpeechRun) -> Headers:
    headers = EVENT_STREAM if run.request.as_events else [(b"content-type", _TYPES[run.request.format])]
    headers = [*headers, *_facts(run)]
    if run.text.unspoken:
        headers.append((b"x-unspoken-characters", str(run.text.unspoken).encode()))
    return headers


def _facts(run: SpeechRun) -> Headers:
    return [(b"x-generation-id", run.name.encode()), (b"x-voice", run.voice.id.encode())]


async def _tell_of_failure(out: StreamWriter, run: SpeechRun, error: ServiceError, send: Send) -> None:
    """As a status while nothing has been sent, then as an event; audio can only be cut off, without its end."""
    if not out.has_begun:
        await answer_error(send, error, _facts(run))
    elif run.request.as_events:
        kind = status_and_type(error)[1]
        await out.write(error_event(error.message, kind=kind, code=error.code, param=error.param), is_last=True)
    else:
        # The server closes a connection whose answer is not complete: the caller sees that the end is missing.
        log.error("%s was cut: %s", run.name, error.code)
