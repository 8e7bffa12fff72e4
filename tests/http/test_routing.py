"""Method dispatch, trailing slashes and bodies of the routes that Starlette serves."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from minitoolai.core.errors import BodyTooLarge, ClientLeft
from minitoolai.http.routing import MethodRoute, json_response, read_body, reads, route

Message = MutableMapping[str, Any]


@reads("/things")
async def things(request: Request) -> Response:
    return json_response({"things": []})


@reads("/things/{name:path}")
async def thing(request: Request) -> Response:
    return PlainTextResponse(request.path_params["name"])


@route("/events", "GET")
async def events(request: Request) -> Response:
    return PlainTextResponse("")


async def create(request: Request) -> Response:
    return PlainTextResponse("created", 201)


ROUTES = [things, thing, events, MethodRoute("/mixed", {"POST": create, "GET": events.endpoints["GET"]})]


def call(method: str, path: str, *messages: Message) -> tuple[int, dict[str, str], bytes]:
    """Send one request to an app of these routes. Return status, headers and body."""
    app, sent = Starlette(routes=ROUTES), []
    app.router.redirect_slashes = False
    waiting = list(messages)

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("path", ["/things", "/things/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_trailing_slash_changes_nothing(method: str, path: str) -> None:
    status, headers, _ = call(method, path)
    assert (status, headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize(("path", "name"), [("/things/a", b"a"), ("/things/a/b", b"a/b"), ("/things/a\n", b"a\n")])
def test_a_path_parameter_may_have_any_character(path: str, name: bytes) -> None:
    assert call("GET", path)[2] == name


def test_a_final_newline_is_not_the_same_path() -> None:
    assert call("GET", "/things\n")[0] == 404


@pytest.mark.parametrize(
    ("path", "allow"),
    [("/things", "GET, HEAD, OPTIONS"), ("/events", "GET, OPTIONS"), ("/mixed", "POST, GET, OPTIONS")],
)
def test_every_method_of_a_path_is_in_allow(path: str, allow: str) -> None:
    status, headers, body = call("OPTIONS", path)
    assert (status, headers["allow"], body) == (204, allow, b"")
    status, headers, _ = call("PUT", path)
    assert (status, headers["allow"]) == (405, allow)


def test_head_is_refused_where_it_is_not_named() -> None:
    assert call("HEAD", "/events")[0] == 405


def test_each_method_has_its_handler() -> None:
    assert (call("POST", "/mixed")[0], call("GET", "/mixed")[0]) == (201, 200)


def test_the_route_is_named_for_traces_without_its_parameters() -> None:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/things/secret", "headers": []}

    async def send(message: Message) -> None:
        pass

    _, child = thing.matches(scope)
    scope |= child
    asyncio.run(thing.handle(scope, None, send))  # type: ignore[arg-type]
    assert scope["path_template"] == "/things/{name}"


def body_of(largest: int, *messages: Message) -> bytes:
    waiting = list(messages)

    async def receive() -> Message:
        return waiting.pop(0)

    return asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), largest))


def chunk(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_read_in_parts_up_to_the_limit() -> None:
    assert body_of(4, chunk(b"ab", more=True), chunk(b"cd", more=False)) == b"abcd"


def test_a_body_above_the_limit_is_refused_before_it_ends() -> None:
    with pytest.raises(BodyTooLarge):
        body_of(3, chunk(b"ab", more=True), chunk(b"cd", more=True))


def test_a_caller_who_disconnects_within_the_body_is_an_error_of_its_own() -> None:
    with pytest.raises(ClientLeft):
        body_of(9, chunk(b"ab", more=True), {"type": "http.disconnect"})
