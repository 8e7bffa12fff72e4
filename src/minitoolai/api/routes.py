"""Map every path of the API to its handler.

`app.Server` looks up the hot paths and the image jobs that take a body in dictionaries. Starlette routes the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.api import account, openapi
from minitoolai.api.anthropic_models import is_for_anthropic
from minitoolai.api.foreign_paths import path_meant
from minitoolai.chat.dialects.completions import CompletionsDialect
from minitoolai.chat.dialects.embeddings import EmbeddingsDialect
from minitoolai.chat.dialects.messages import CountTokensEndpoint, MessagesEndpoint
from minitoolai.chat.endpoint import ChatDialect, ChatEndpoint
from minitoolai.chat.service import ChatService
from minitoolai.chat.stored import endpoints as responses
from minitoolai.chat.stored.background import BackgroundResponses
from minitoolai.core.errors import InvalidRequest, NotFound, ServiceError
from minitoolai.http.asgi import App
from minitoolai.http.bodies.bodies import KB, LARGEST_BODY, BodyLimits
from minitoolai.http.bodies.large_json import MOST_TEXT
from minitoolai.http.bodies.uploads import FileForms
from minitoolai.http.errors import MESSAGES_PATHS, error_body, error_headers, status_of
from minitoolai.http.failure_limits import FailureLimits
from minitoolai.http.routing import json_response, reads
from minitoolai.images import endpoints as images
from minitoolai.images import webhooks
from minitoolai.images.build import Images
from minitoolai.images.edit_request import EditForms, image_forms
from minitoolai.settings import Settings
from minitoolai.speech.endpoint import SpeechEndpoint
from minitoolai.speech.service import SpeechService
from minitoolai.storage.uploads import UploadFolder
from minitoolai.transcription.endpoint import TranscriptionEndpoint
from minitoolai.transcription.service import TranscriptionService


@reads("/healthz")
async def healthz(request: Request) -> Response:
    """Return 200 while the process responds at all."""
    return json_response({"status": "ok"})


@reads("/readyz")
async def readyz(request: Request) -> Response:
    """Return 200 while requests are served, else 503 with the reason."""
    why_not = request.app.state.why_not_ready()
    if why_not is None:
        return json_response({"status": "ready"})
    return json_response({"status": "not ready", "reason": why_not}, 503, {"retry-after": "2"})


#: Body limits of the routes below. Routes served by Starlette do not read a body.
CHAT = BodyLimits(total=LARGEST_BODY, text=MOST_TEXT)
TEXT = BodyLimits(total=MOST_TEXT, text=MOST_TEXT)
POLL = BodyLimits(total=4 * KB, text=4 * KB)

#: In the order in which they are tried: a path with a parameter after the paths that it would match, too.
HANDLERS = (
    account.balance,
    account.usage,
    account.generation,
    account.models,
    account.model,
    account.voices,
    responses.cancel,
    responses.input_items,
    responses.response,
    images.events,
    images.cancel,
    images.edit_events,
    images.cancel_edit,
    images.download,
    webhooks.webhooks,
    healthz,
    readyz,
    openapi.document,
)


def hot_paths(
    chats: ChatService,
    stored: BackgroundResponses,
    speech: SpeechService,
    transcriptions: TranscriptionService,
    forms: FileForms,
    keys: KeyVerifier,
) -> dict[str, App]:
    """Return the handlers of chat, speech and transcription by path. They bypass Starlette (decision 0003)."""
    api = ChatEndpoint(chats, keys, ChatDialect("api"), CHAT)
    openai = ChatEndpoint(chats, keys, ChatDialect("openai"), CHAT)
    create_response = responses.ResponsesEndpoint(chats, keys, stored, CHAT)
    messages = MessagesEndpoint(chats, keys, CHAT)
    count_tokens = CountTokensEndpoint(chats, keys, CHAT)
    text = ChatEndpoint(chats, keys, CompletionsDialect(), TEXT)
    embeddings = ChatEndpoint(chats, keys, EmbeddingsDialect(), TEXT)
    speak = SpeechEndpoint(speech, keys, TEXT)
    transcribe = TranscriptionEndpoint(transcriptions, keys, forms, "transcribe")
    translate = TranscriptionEndpoint(transcriptions, keys, forms, "translate")
    return {
        "/api/chat-completions": api,
        "/api/chat-completions/": api,
        "/v1/chat/completions": openai,
        "/v1/chat/completions/": openai,
        "/v1/completions": text,
        "/v1/completions/": text,
        "/v1/responses": create_response,
        "/v1/responses/": create_response,
        "/v1/messages": messages,
        "/v1/messages/": messages,
        "/v1/messages/count_tokens": count_tokens,
        "/v1/messages/count_tokens/": count_tokens,
        "/v1/embeddings": embeddings,
        "/v1/embeddings/": embeddings,
        "/api/texttospeech": speak,
        "/api/texttospeech/": speak,
        "/v1/audio/speech": speak,
        "/v1/audio/speech/": speak,
        "/v1/audio/transcriptions": transcribe,
        "/v1/audio/transcriptions/": transcribe,
        "/v1/audio/translations": translate,
        "/v1/audio/translations/": translate,
    }


#: Paths of requests with a signature instead of a key. Their failures are limited by client address.
SIGNED = frozenset(
    route.path_format
    for route in (images.events, images.cancel, images.edit_events, images.cancel_edit, images.download)
)


def image_paths(
    jobs: Images, keys: KeyVerifier, settings: Settings, failures: FailureLimits, uploads: UploadFolder
) -> dict[str, App]:
    """Return the handlers of image jobs that take a body, by path."""
    service, delivery = jobs.service, jobs.delivery
    forms = EditForms(image_forms(uploads, settings.image_upload_mb))
    edit, vary = (
        images.EditEndpoint(keys, service, delivery, forms, task, timeout_s=settings.total_timeout_s)
        for task in ("edit", "variation")
    )
    poll = images.PollEndpoint(service, delivery.links, POLL, failures)
    endpoints: dict[str, App] = {
        "/api/texttoimage": images.SubmitEndpoint(keys, service, TEXT, insecure_webhooks=settings.webhook_insecure),
        "/api/texttoimage/jobs": poll,
        "/api/imagetoimage": images.SubmitEditEndpoint(
            keys, service, forms, insecure_webhooks=settings.webhook_insecure
        ),
        "/api/imagetoimage/jobs": poll,
        "/v1/images/edits": edit,
        "/v1/images/variations": vary,
        "/v1/images/generations": images.GenerateEndpoint(
            keys, service, delivery, TEXT, timeout_s=settings.total_timeout_s
        ),
    }
    return endpoints | {f"{path}/": endpoint for path, endpoint in endpoints.items()}


#: Answers a browser at a path that does not exist; None for any other client.
BrowserPage = Callable[[Request], Response | None]


def other_paths(browser_page: BrowserPage = lambda _: None, **state: Any) -> Starlette:
    """Return the app for every other path. `state` is what the handlers find in `request.app.state`."""
    app = Starlette(
        routes=HANDLERS,
        exception_handlers={ServiceError: _service_error, HTTPException: _http_error, Exception: _server_error},
    )
    app.router.redirect_slashes = False
    app.state.browser_page = browser_page
    for name, value in state.items():
        setattr(app.state, name, value)
    return app


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    if request.scope.get("path_template") in SIGNED:
        failures: FailureLimits = request.app.state.failures
        return _error_response(request, failures.error_for(request.scope, error))
    return _error_response(request, error)


async def _server_error(request: Request, error: Exception) -> Response:
    """Answer an error that no handler expected. Starlette raises it again, and uvicorn logs it."""
    return _error_response(request, ServiceError("something failed on our side; try again"))


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer 404 and 405 in the shape of the path."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 404:
        page = cast(BrowserPage, request.app.state.browser_page)(request)
        if page is not None:
            return page
        message = f"there is nothing at {path[:200]}; {_nearest_path(path)}/openapi.json lists all paths"
        return _error_response(request, NotFound(message))
    headers = error.headers or {}
    refusal = InvalidRequest(f"use {headers.get('allow', 'another method')} here", code="method_not_allowed")
    response = _error_response(request, refusal)
    response.status_code = error.status_code
    response.headers.update(headers)
    return response


def _error_response(request: Request, error: ServiceError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    path = MESSAGES_PATHS if is_for_anthropic(request) else request.scope["path"]
    return Response(error_body(error, path), status_of(error, path), headers, "application/json")


def _nearest_path(path: str) -> str:
    """Suggest a path. Most wrong paths lack the `/v1` of the base URL, or belong to another service's API."""
    paths = openapi.describe()["paths"]
    meant = path_meant(path, paths)
    close = [meant] if meant else difflib.get_close_matches(path[:80].rstrip("/"), paths, n=1, cutoff=0.75)
    return f"did you mean {close[0]}? " if close else ""
