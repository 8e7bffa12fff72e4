"""What bare ASGI handlers share: reading a body with a limit, answering with bytes."""

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
    """`headers_by_name`, once for a request, where it comes in: whoever asks for one later need not search."""
    by_name = scope[_BY_NAME] = headers_by_name(scope)
    return by_name


def headers_by_name(scope: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The request's headers by their lower-case names; of two alike the first."""
    by_name: dict[bytes, bytes] | None = scope.get(_BY_NAME)
    return dict(reversed(scope["headers"])) if by_name is None else by_name


def header(scope: Mapping[str, Any], name: bytes) -> bytes:
    """The first header of this lower-case name, or nothing."""
    return headers_by_name(scope).get(name, b"")


async def read_json_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. BodyTooLarge, WrongContentType; ClientLeft if the caller hangs up meanwhile."""
    headers = headers_by_name(scope)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > LARGEST_BODY:
        raise _too_large()
    kind = headers.get(b"content-type", b"")
    if kind != b"application/json" and not _is_json(kind):
        raise WrongContentType("send the body as JSON with the header Content-Type: application/json")
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if message["type"] == "http.disconnect":
            raise ClientLeft("the caller hung up before its request was whole")
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the caller hung up before its request was whole")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY:
            raise _too_large()
    return b"".join(parts)


def _is_json(content_type: bytes) -> bool:
    kind = content_type.partition(b";")[0].strip().lower()
    return kind == b"application/json" or kind.endswith(b"+json")


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {LARGEST_BODY // 1024 // 1024} MB; send less")


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """One whole answer."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    if try_fast_response(send, status, body, headers):
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: ServiceError, headers: Headers, path: str = "") -> None:
    """One error, in the shape that this path's callers expect: OpenAI's, or the contract's own for pictures."""
    await respond(send, status_and_type(error)[0], error_body(error, path), [JSON, *headers, *error_headers(error)])
