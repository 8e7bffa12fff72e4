"""HTTP endpoint of transcription and translation: receive the form, respond in one piece or as events."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.core.errors import ClientLeft, ServiceError
from minitoolai.core.models import Caller
from minitoolai.core.request_fields import header_of_names
from minitoolai.core.transcription import TranscriptionRequest, TranscriptTask
from minitoolai.http.asgi import Headers, Receive, Scope, Send, respond, respond_error
from minitoolai.http.auth import authenticate
from minitoolai.http.bodies.uploads import FileForms, Form
from minitoolai.http.errors import error_event, status_and_type
from minitoolai.http.exchanges import RECORDING, note_parameters, record
from minitoolai.http.request_context import set_generation
from minitoolai.http.streaming import (
    EVENT_STREAM,
    StreamWriter,
    announced,
    method_not_allowed,
    run_and_charge,
    stream_with_errors,
    watch_disconnect,
)
from minitoolai.transcription.formats import CONTENT_TYPES, FinishedTranscript, render
from minitoolai.transcription.request import parse_transcription
from minitoolai.transcription.service import TranscriptionRun, TranscriptionService


class TranscriptionEndpoint:
    """ASGI app for `POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

    def __init__(
        self, service: TranscriptionService, keys: KeyVerifier, forms: FileForms, task: TranscriptTask
    ) -> None:
        self._service = service
        self._keys = keys
        self._forms = forms
        self._task = task

    def received(self, caller: Caller, scope: Scope, receive: Receive) -> AbstractAsyncContextManager[Form]:
        """Receive the form. For requests with an Idempotency-Key, which is compared before the handler is called."""
        return self._forms.received(caller.account_id, scope, receive)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: TranscriptionRequest | None = None
        try:
            if scope["method"] != "POST":
                await method_not_allowed(send)
                return
            caller = await authenticate(scope, self._keys)
            if caller.body_days and RECORDING not in scope:
                await record(self, self._keys, caller, scope, receive, send)
                return
            async with self.received(caller, scope, receive) as form:
                note_parameters(scope, form.fields)
                request = parse_transcription(form, self._task)
                run = await self._service.begin(caller, request)
                await _respond(run, scope, receive, send)
        except ClientLeft:
            return
        except ServiceError as error:
            if request is not None and error.is_fault:
                self._service.count_refusal(request, error)
            await respond_error(send, error, [])


async def _respond(run: TranscriptionRun, scope: Scope, receive: Receive, send: Send) -> None:
    run.cancellation.arm()
    set_generation(scope, run.name)
    if not run.request.stream:
        await _respond_whole(run, receive, send)
        return
    out = run.output = StreamWriter(send, [*EVENT_STREAM, *_headers(run)])
    failure = await stream_with_errors(run, out, receive, _error_event, run.reservation.recorder)
    if failure is not None:
        await respond_error(send, failure, _headers(run))


def _error_event(error: ServiceError) -> bytes:
    return error_event(error.message, kind=status_and_type(error)[1], code=error.code, param=error.param)


async def _respond_whole(run: TranscriptionRun, receive: Receive, send: Send) -> None:
    work, recorder = run.collect, run.reservation.recorder
    if recorder is not None:
        work = partial(announced, work, recorder, partial(_rendered, run))
    watcher = watch_disconnect(run, receive)
    try:
        result = await run_and_charge(run, work)
    finally:
        watcher.cancel()
    if isinstance(result, FinishedTranscript):
        await respond(send, 200, *_rendered(run, result))
    elif result is not None and not isinstance(result, ClientLeft):
        await respond_error(send, result, _headers(run))


def _rendered(run: TranscriptionRun, transcript: FinishedTranscript) -> tuple[bytes, Headers]:
    """Return body and headers of a response that is sent whole."""
    headers = [(b"content-type", CONTENT_TYPES[run.request.format]), *_headers(run)]
    return render(run.request, transcript), headers


def _headers(run: TranscriptionRun) -> Headers:
    headers = [(b"x-generation-id", run.name.encode()), (b"x-model", run.shown_model().encode())]
    if dropped := [name for name in run.request.fields if name not in run.engine.forwards]:
        headers.append((b"x-dropped-fields", header_of_names(dropped)))
    return headers
