"""Read headers and send whole responses as plain ASGI, for the handlers of hot paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minitoolai.core.errors import ServiceError
from minitoolai.http.errors import error_body, error_headers, status_of
from minitoolai.http.serving.fast_path import try_fast_response
from minitoolai.http.types import App, Headers, Receive, Scope, Send

__all__ = [
    "JSON",
    "App",
    "Headers",
    "Receive",
    "Scope",
    "Send",
    "header",
    "headers_by_name",
    "respond",
    "respond_error",
    "sort_headers",
    "whole_headers",
]

JSON = (b"content-type", b"application/json")
_BY_NAME: Final = "minitoolai.headers"


def sort_headers(scope: Scope) -> dict[bytes, bytes]:
    """Sort the headers by name once per request and keep them in the scope, so later lookups need no search."""
    by_name = scope[_BY_NAME] = headers_by_name(scope)
    return by_name


def headers_by_name(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the request's headers by lower-case name. Of repeated headers, the first wins."""
    by_name: dict[bytes, bytes] | None = scope.get(_BY_NAME)
    return dict(reversed(scope["headers"])) if by_name is None else by_name


def header(scope: Mapping[str, Any], name: bytes) -> bytes:
    """Return the first header with this lower-case name, or empty bytes."""
    return headers_by_name(scope).get(name, b"")


def whole_headers(headers: Headers, body: bytes) -> Headers:
    """Return the headers that a complete response is sent with."""
    return [*headers, (b"content-length", b"%d" % len(body))]


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a complete response."""
    headers = whole_headers(headers, body)
    if try_fast_response(send, status, body, headers):
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: ServiceError, headers: Headers, path: str = "") -> None:
    """Send an error in the format of this path's clients: OpenAI's, Anthropic's, or the image API's own."""
    await respond(send, status_of(error, path), error_body(error, path), [JSON, *headers, *error_headers(error)])
