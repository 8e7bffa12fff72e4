"""Route requests with Starlette, except for the hot paths, which `app.Server` finds in a dictionary."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from minitoolai.core.errors import BodyTooLarge, ClientLeft

Endpoint = Callable[[Request], Awaitable[Response]]

_encode = msgspec.json.Encoder().encode


class MethodRoute(Route):
    """A path, with or without a trailing slash, and the handler of each of its methods."""

    def __init__(self, path: str, endpoints: Mapping[str, Endpoint]) -> None:
        super().__init__(path, next(iter(endpoints.values())))
        self.endpoints = dict(endpoints)
        self.allow = ", ".join([*self.endpoints, "OPTIONS"])
        # Match every method here, so that `handle` can answer 405 and OPTIONS.
        self.methods = None
        # Starlette's pattern ends in "$", which would also match before a final newline.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"/?\Z", re.DOTALL)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the handler of the method; raise HTTPException 405 if there is none."""
        #: For traces: the path itself may carry names and signatures.
        scope["path_template"] = self.path_format
        endpoint = self.endpoints.get(scope["method"])
        if endpoint is not None:
            response = await endpoint(Request(scope, receive, send))
        elif scope["method"] == "OPTIONS":
            response = Response(status_code=204, headers={"allow": self.allow})
        else:
            raise HTTPException(405, headers={"allow": self.allow})
        await response(scope, receive, send)


def route(path: str, *methods: str) -> Callable[[Endpoint], MethodRoute]:
    """Make a handler the route of these methods at this path."""
    return lambda endpoint: MethodRoute(path, dict.fromkeys(methods, endpoint))


def reads(path: str) -> Callable[[Endpoint], MethodRoute]:
    """Make a handler the route of GET and HEAD at this path: monitors and load balancers send HEAD."""
    return route(path, "GET", "HEAD")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with this value as its JSON body."""
    return Response(_encode(value), status, headers, "application/json")


async def read_body(request: Request, largest: int) -> bytes:
    """Read the whole body. Raise BodyTooLarge beyond `largest` bytes, ClientLeft if the caller disconnects."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > largest:
                raise BodyTooLarge(f"The body is larger than {largest // 1024} kB. Send a smaller request.")
    except ClientDisconnect as error:
        raise ClientLeft("The client disconnected before the request was complete.") from error
    return bytes(body)
