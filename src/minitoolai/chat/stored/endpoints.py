"""HTTP endpoints of `/v1/responses`: create, read, delete and cancel stored responses."""

from __future__ import annotations

import re
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.chat.dialects.responses_request import PendingResponse
from minitoolai.chat.endpoint import headers_of, refuse_method, respond_whole, stream
from minitoolai.chat.service import ChatService
from minitoolai.chat.stored.background import BackgroundResponses
from minitoolai.chat.stored.store import Json
from minitoolai.core.errors import ClientLeft, InvalidRequest, ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.http.asgi import JSON, Receive, Scope, Send, respond, respond_error
from minitoolai.http.auth import authenticate
from minitoolai.http.bodies.bodies import BodyLimits, read_parsed
from minitoolai.http.exchanges import RECORDING, record
from minitoolai.http.request_context import set_generation
from minitoolai.http.routing import MethodRoute, json_response, route
from minitoolai.http.validation import shortened

#: Items on a page, as in OpenAI's API.
DEFAULT_PAGE, LARGEST_PAGE = 20, 100


class ResponsesEndpoint:
    """ASGI app for POST to `/v1/responses`: like `ChatEndpoint`, but reads stored items, and may queue the chat."""

    def __init__(
        self, chats: ChatService, keys: KeyVerifier, background: BackgroundResponses, limits: BodyLimits
    ) -> None:
        self._chats = chats
        self._keys = keys
        self._background = background
        self._dialect = background.dialect
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: ChatRequest | None = None
        try:
            if scope["method"] != "POST":
                await refuse_method(scope, send, self._dialect.path)
                return
            caller = await authenticate(scope, self._keys)
            if caller.body_days and RECORDING not in scope:
                await record(self, self._keys, caller, scope, receive, send)
                return
            request = await read_parsed(self._dialect.parse, scope, receive, self.limits)
            if isinstance(request.form, PendingResponse):
                request = await self._background.complete(caller, request.form)
            if request.form.is_background:
                run, accepted = await self._background.submit(caller, request)
                set_generation(scope, run.name)
                await respond(send, 200, accepted, [JSON, *headers_of(run)])
                return
            run = await self._chats.begin(caller, request)
        except ClientLeft:
            return
        except ServiceError as error:
            if request is not None and error.is_fault:
                self._chats.count_refusal(request, error)
            await respond_error(send, self._dialect.map_error(error), [], self._dialect.path)
            return
        run.cancellation.arm()
        set_generation(scope, run.name)
        await (stream if request.stream else respond_whole)(run, self._dialect, receive, send)


# ── stored responses ──────────────────────────────────────────────────────────────────────────────────────


def _service(request: Request) -> BackgroundResponses:
    return cast(BackgroundResponses, request.app.state.responses)


async def retrieve(request: Request) -> Response:
    """Return a stored response in its present state."""
    caller = await authenticate(request.scope, request.app.state.key_verifier)
    if request.query_params.get("stream", "false").lower() == "true":
        raise InvalidRequest(
            "stream is not supported here: poll the response until its status is completed", param="stream"
        )
    store = _service(request).store
    row = await store.find(caller, request.path_params["response_id"])
    return json_response(await store.response(row))


async def delete(request: Request) -> Response:
    """Delete a stored response. One that is in progress is cancelled first."""
    caller = await authenticate(request.scope, request.app.state.key_verifier)
    name = request.path_params["response_id"]
    await _service(request).delete(caller, name)
    return json_response({"id": name, "object": "response", "deleted": True})


response = MethodRoute("/v1/responses/{response_id}", {"GET": retrieve, "DELETE": delete})


@route("/v1/responses/{response_id}/cancel", "POST")
async def cancel(request: Request) -> Response:
    """Cancel a background response, and return it."""
    caller = await authenticate(request.scope, request.app.state.key_verifier)
    return json_response(await _service(request).cancel(caller, request.path_params["response_id"]))


@route("/v1/responses/{response_id}/input_items", "GET")
async def input_items(request: Request) -> Response:
    """Return a page of the input items of a stored response."""
    caller = await authenticate(request.scope, request.app.state.key_verifier)
    query = request.query_params
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order is {shortened(order)}; it must be asc or desc", param="order")
    limit = _limit(query.get("limit", str(DEFAULT_PAGE)))
    items = await _service(request).store.input_items(caller, request.path_params["response_id"])
    return json_response(page_of(items if order == "asc" else items[::-1], query.get("after"), limit))


def _limit(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= LARGEST_PAGE:
        raise InvalidRequest(
            f"limit is {shortened(text)}; it must be a whole number from 1 to {LARGEST_PAGE}", param="limit"
        )
    return int(text)


def page_of(items: list[Json], after: str | None, limit: int) -> Json:
    """Return the page of these items after one of them, as OpenAI's lists are."""
    begin = 0
    if after is not None:
        begin = next((index for index, item in enumerate(items, 1) if item["id"] == after), -1)
    if begin < 0:
        raise InvalidRequest("after must be the ID of an item of this list", param="after")
    page = items[begin : begin + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": begin + limit < len(items),
    }
