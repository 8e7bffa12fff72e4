"""Read request bodies and send responses as plain ASGI, for the handlers of hot paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minitoolai.core.errors import BodyTooLarge, ClientLeft, ServiceError, WrongContentType
from minitoolai.http.errors import error_body, error_headers, status_and_type
from minitoolai.http.types import App, Headers, Receive, Scope, Send
from minitoolai.http.uvicorn_fast_path import try_fast_response

__all__ = [
    "JSON",
    "LARGEST_BODY",
    "App",
    "Headers",
    "Receive",
    "Scope",
    "Send",
    "header",
    "headers_by_name",
    "read_json_body",
    "respond",
    "respond_error",
    "sort_headers",
]

LARGEST_BODY = 20 * 1024 * 1024
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


async def read_json_body(scope: Scope, receive: Receive) -> bytes:
    """Read the whole body. Raises BodyTooLarge, WrongContentType, or ClientLeft if the client disconnects."""
    headers = headers_by_name(scope)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > LARGEST_BODY:
        raise _too_large()
    kind = headers.get(b"content-type", b"")
    if kind != b"application/json" and not _is_json(kind):
        raise WrongContentType("The body must be JSON, sent with the header Content-Type: application/json.")
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if message["type"] == "http.disconnect":
            raise ClientLeft("The client disconnected before the request was complete.")
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("The client disconnected before the request was complete.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY:
            raise _too_large()
    return b"".join(parts)


def _is_json(content_type: bytes) -> bool:
    kind = content_type.partition(b";")[0].strip().lower()
    return kind == b"application/json" or kind.endswith(b"+json")


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {LARGEST_BODY // 1024 // 1024} MB. Send a smaller request.")


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a complete response."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    if try_fast_response(send, status, body, headers):
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: ServiceError, headers: Headers, path: str = "") -> None:
    """Send an error in the format of this path's clients: OpenAI's, or the image API's own."""
    await respond(send, status_and_type(error)[0], error_body(error, path), [JSON, *headers, *error_headers(error)])
