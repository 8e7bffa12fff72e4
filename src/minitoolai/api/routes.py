"""Method and path to handler, nothing else."""

from __future__ import annotations

import difflib
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.api import account, openapi
from minitoolai.chat.dialects.completions import CompletionsDialect
from minitoolai.chat.dialects.embeddings import EmbeddingsDialect
from minitoolai.chat.dialects.responses import ResponsesDialect
from minitoolai.chat.endpoint import ChatDialect, ChatEndpoint
from minitoolai.chat.service import ChatService
from minitoolai.core.errors import InvalidRequest, NotFound, ServiceError
from minitoolai.http.asgi import App, reads
from minitoolai.http.errors import error_body, error_headers, status_and_type
from minitoolai.images import endpoints as images
from minitoolai.images import endpoints as job_views
from minitoolai.images import webhooks
from minitoolai.images.endpoints import ImageDesk
from minitoolai.speech import endpoint as speech
from minitoolai.speech.service import SpeechService

# (merged from health) Is it alive, and will requests be served.


@reads("/healthz")
async def healthz() -> dict[str, str]:
    """200 while the process answers at all."""
    return {"status": "ok"}


@reads("/readyz")
async def readyz(request: Request[Any, Any, State]) -> Response[dict[str, str]]:
    """200 when requests will be served; 503 with the reason while they will not."""
    why_not = request.app.state.why_not_ready()
    if why_not is None:
        return Response({"status": "ready"})
    return Response({"status": "not ready", "reason": why_not}, status_code=503, headers={"retry-after": "2"})


HANDLERS = [
    account.balance,
    account.usage,
    account.generation,
    account.models,
    account.model,
    account.voices,
    job_views.events,
    job_views.cancel,
    job_views.picture,
    webhooks.webhooks,
    healthz,
    readyz,
    openapi.document,
]


def hot_paths(chats: ChatService, speeches: SpeechService, keys: KeyVerifier) -> dict[str, App]:
    """The paths that bypass the framework: it would cost more than all of the work."""
    api, openai = ChatEndpoint(chats, keys, ChatDialect("api")), ChatEndpoint(chats, keys, ChatDialect("openai"))
    text = ChatEndpoint(chats, keys, CompletionsDialect())
    responses = ChatEndpoint(chats, keys, ResponsesDialect(chats.clock))
    embeddings = ChatEndpoint(chats, keys, EmbeddingsDialect())
    speaks = speech.SpeechEndpoint(speeches, keys)
    return {
        "/api/chat-completions": api,
        "/api/chat-completions/": api,
        "/v1/chat/completions": openai,
        "/v1/chat/completions/": openai,
        "/v1/completions": text,
        "/v1/completions/": text,
        "/v1/responses": responses,
        "/v1/responses/": responses,
        "/v1/embeddings": embeddings,
        "/v1/embeddings/": embeddings,
        "/api/texttospeech": speaks,
        "/api/texttospeech/": speaks,
        "/v1/audio/speech": speaks,
        "/v1/audio/speech/": speaks,
    }


def image_paths(desk: ImageDesk, keys: KeyVerifier) -> dict[str, App]:
    """Those of image jobs that take a body; the others are in the framework."""
    endpoints: dict[str, App] = {
        "/api/texttoimage": images.SubmitEndpoint(desk, keys),
        "/api/texttoimage/jobs": images.PollEndpoint(desk),
        "/v1/images/generations": images.GenerateEndpoint(desk, keys),
    }
    return endpoints | {f"{path}/": endpoint for path, endpoint in endpoints.items()}


def other_paths(state: State) -> Litestar:
    """Everything else, in the framework."""
    return Litestar(
        HANDLERS,
        state=state,
        openapi_config=None,
        exception_handlers={ServiceError: _service_error, HTTPException: _http_error},
        logging_config=None,
    )


def _service_error(request: Request[Any, Any, State], error: ServiceError) -> Response[bytes]:
    headers = {key.decode(): value.decode() for key, value in error_headers(error)}
    body = error_body(error, request.scope["path"])
    return Response(body, status_code=status_and_type(error)[0], media_type="application/json", headers=headers)


def _http_error(request: Request[Any, Any, State], error: HTTPException) -> Response[bytes]:
    """The framework's own refusals, in our words and shape."""
    path = request.scope["path"]
    if error.status_code == 404:
        words = f"there is nothing at {path[:200]}; {_nearest(path)}/openapi.json lists what there is"
        return _service_error(request, NotFound(words))
    allowed = (error.headers or {}).get("allow", "another method")
    answer = _service_error(request, InvalidRequest(f"use {allowed} here", code="method_not_allowed"))
    answer.status_code = error.status_code
    answer.headers.update(error.headers or {})
    return answer


def _nearest(path: str) -> str:
    """Most who miss have forgotten the `/v1` of the base URL, or sent it twice."""
    close = difflib.get_close_matches(path[:80].rstrip("/"), openapi.describe()["paths"], n=1, cutoff=0.75)
    return f"did you mean {close[0]}? " if close else ""
