"""Reading request bodies and sending responses over plain ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minitoolai.core.errors import BodyTooLarge, ClientLeft, Overloaded, WrongContentType
from minitoolai.http import asgi
from minitoolai.http.bodies.bodies import KB, BodyLimits, read_parsed

JSON_HEADERS = [(b"content-type", b"application/json")]
LIMITS = BodyLimits(total=8 * KB, text=8 * KB)


def read(headers: list[tuple[bytes, bytes]], *messages: dict[str, Any]) -> bytes:
    """Read a body that arrives in these messages."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return asyncio.run(read_parsed(bytes, {"headers": headers}, receive, LIMITS))


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def sent_by(respond: Any) -> list[dict[str, Any]]:
    """Return the messages that a response consists of behind a server other than uvicorn."""
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(respond(send))
    return messages


def test_a_body_is_joined_from_its_parts() -> None:
    assert read(JSON_HEADERS, part(b'{"a":1}')) == b'{"a":1}'
    assert read(JSON_HEADERS, part(b'{"a"', more=True), part(b":", more=True), part(b"1}")) == b'{"a":1}'


@pytest.mark.parametrize("kind", [b"application/json; charset=utf-8", b"APPLICATION/JSON", b"application/geo+json"])
def test_every_json_content_type_is_accepted(kind: bytes) -> None:
    assert read([(b"content-type", kind)], part(b"{}")) == b"{}"


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"text/plain")], [(b"content-type", b"json")]])
def test_any_other_content_type_is_refused_before_the_body_is_read(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(WrongContentType, match="Content-Type: application/json"):
        read(headers)


def test_a_client_that_disconnects_during_its_body_is_reported() -> None:
    with pytest.raises(ClientLeft):
        read(JSON_HEADERS, {"type": "http.disconnect"})
    with pytest.raises(ClientLeft):
        read(JSON_HEADERS, part(b"{", more=True), {"type": "http.disconnect"})


def test_a_body_announced_as_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(BodyTooLarge):
        read([*JSON_HEADERS, (b"content-length", str(LIMITS.total + 1).encode())])


def test_a_body_that_grows_too_large_is_refused() -> None:
    half = b"x" * (LIMITS.total // 2)
    assert read(JSON_HEADERS, part(half, more=True), part(half)) == half + half
    with pytest.raises(BodyTooLarge):
        read(JSON_HEADERS, part(half, more=True), part(half + b"x"))


def test_the_first_of_repeated_headers_counts() -> None:
    scope: dict[str, Any] = {"headers": [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]}
    assert asgi.headers_by_name(scope) == {b"a": b"1", b"b": b"2"}
    assert (asgi.header(scope, b"a"), asgi.header(scope, b"c")) == (b"1", b"")
    assert asgi.sort_headers(scope) is asgi.headers_by_name(scope)


def test_a_response_carries_its_length() -> None:
    start, body = sent_by(lambda send: asgi.respond(send, 201, b"done", [(b"x-a", b"1")]))
    assert (start["status"], start["headers"]) == (201, [(b"x-a", b"1"), (b"content-length", b"4")])
    assert body == {"type": "http.response.body", "body": b"done"}


def test_an_error_response_says_when_to_retry() -> None:
    start, body = sent_by(lambda send: asgi.respond_error(send, Overloaded("Busy.", retry_after_s=5), []))
    assert start["status"] == 503
    assert (b"retry-after", b"5") in start["headers"]
    assert b'"message":"Busy."' in body["body"]
