"""The request context: request IDs, generation IDs and CORS."""

from __future__ import annotations

import asyncio
import re
from types import MethodType
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.http.request_context import (
    REQUEST_CONTEXT,
    RequestContext,
    allow_origin,
    is_preflight,
    preflight,
    set_generation,
)

SERVER_HEADERS = [(b"date", b"now")]


class Cycle(RequestResponseCycle):  # type: ignore[misc]
    """A uvicorn request, of which only the default headers are used."""

    def __init__(self) -> None:
        self.default_headers = SERVER_HEADERS


def context(sent_id: bytes = b"") -> tuple[RequestContext, Cycle]:
    cycle = Cycle()
    return RequestContext(MethodType(RequestResponseCycle.send, cycle), sent_id), cycle


@pytest.mark.parametrize("sent", [b"a", b"req_1.2:3-4", b"x" * 64])
def test_a_valid_request_id_of_the_client_is_kept(sent: bytes) -> None:
    assert context(sent)[0].request_id() == sent.decode()


@pytest.mark.parametrize("sent", [b"", b"x" * 65, b"a b", b"a\r\nx-evil: 1", b"caf\xc3\xa9", b"a\n"])
def test_any_other_request_id_is_replaced_by_a_unique_one(sent: bytes) -> None:
    one, other = context(sent)[0], context(sent)[0]
    assert re.fullmatch(r"[0-9A-Za-z]{10}-\d+", one.request_id())
    assert one.request_id() == one.request_id() != other.request_id()


def test_added_headers_reach_this_response_only() -> None:
    mine, cycle = context(b"mine")
    mine.add_request_id()
    mine.add([(b"x-ratelimit-limit-requests", b"5")])
    assert cycle.default_headers == [
        *SERVER_HEADERS,
        (b"x-request-id", b"mine"),
        (b"x-ratelimit-limit-requests", b"5"),
    ]
    assert SERVER_HEADERS == [(b"date", b"now")]


def test_behind_another_server_the_headers_are_left_out() -> None:
    async def send(_: Any) -> None:
        raise AssertionError("nothing is sent")

    RequestContext(send, b"id").add_request_id()


def test_a_generation_is_recorded_for_the_log() -> None:
    mine = context()[0]
    set_generation({REQUEST_CONTEXT: mine}, "gen-1")
    assert mine.generation == "gen-1"
    set_generation({}, "gen-2")


def test_a_page_of_any_origin_may_read_the_response() -> None:
    for headers, path, allowed in (
        ([(b"origin", b"https://example.com")], "/v1/models", True),
        ([], "/v1/models", False),
        ([(b"origin", b"https://example.com")], "/api/texttoimage/pictures/1", False),
    ):
        mine, cycle = context()
        allow_origin({"headers": headers, "path": path}, mine)
        assert ((b"access-control-allow-origin", b"*") in cycle.default_headers) == allowed


def test_a_preflight_is_an_options_request_that_names_a_method() -> None:
    asks = [(b"access-control-request-method", b"POST")]
    assert is_preflight({"method": "OPTIONS", "headers": asks})
    assert not is_preflight({"method": "OPTIONS", "headers": []})
    assert not is_preflight({"method": "POST", "headers": asks})


def test_a_preflight_allows_the_authorization_header() -> None:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(preflight({}, send, send))  # type: ignore[arg-type]
    headers = dict(messages[0]["headers"])
    assert messages[0]["status"] == 204
    assert headers[b"access-control-allow-headers"].startswith(b"authorization")
    assert {b"GET", b"POST", b"DELETE"} <= set(headers[b"access-control-allow-methods"].split(b", "))
