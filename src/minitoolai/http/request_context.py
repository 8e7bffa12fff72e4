"""Per-request context: request ID, extra response headers and generation ID. Also CORS.

The headers are put into uvicorn's default headers, so every handler's response carries them.
"""

from __future__ import annotations

import itertools
import re
from typing import Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.core.clock import random_text
from minitoolai.http.asgi import Headers, Receive, Scope, Send, header

#: Key of the request context in the ASGI scope.
REQUEST_CONTEXT: Final = "minitoolai.request_context"
_VALID_ID = re.compile(rb"[0-9A-Za-z._:-]{1,64}")
#: Generated request IDs: a random prefix per process, and a number.
_PROCESS_PREFIX = random_text(10)
_numbers = itertools.count(1)


class RequestContext:
    """Context of one request."""

    __slots__ = ("_extra_headers", "_request_id", "_send", "_sent_id", "generation", "is_counted")

    def __init__(self, send: Send, sent_id: bytes) -> None:
        """Store the request's `X-Request-Id`, which is empty if the client sent none."""
        self._send = send
        self._sent_id = sent_id
        self._request_id: str | None = None
        self._extra_headers: Headers | None = None
        self.generation: str | None = None
        #: True once the request was counted against the rate limits.
        self.is_counted = False

    def request_id(self) -> str:
        """Return the request ID for logs and responses: a valid `X-Request-Id` of the client, or a generated one."""
        if self._request_id is None:
            sent = self._sent_id
            is_valid = sent and _VALID_ID.fullmatch(sent)
            self._request_id = sent.decode() if is_valid else f"{_PROCESS_PREFIX}-{next(_numbers)}"
        return self._request_id

    def add_request_id(self) -> None:
        """Add the request ID to the response, so that a client can quote it."""
        self.add([(b"x-request-id", self.request_id().encode())])

    def is_response_started(self) -> bool:
        """Return True if the response has started. Behind a server other than uvicorn this is unknown, and True."""
        cycle = getattr(self._send, "__self__", None)
        return not isinstance(cycle, RequestResponseCycle) or cycle.response_started

    def add(self, headers: Headers) -> None:
        """Add these headers to the response. Has no effect behind a server other than uvicorn."""
        if self._extra_headers is not None:
            self._extra_headers += headers
            return
        cycle = getattr(self._send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            # A copy, because all responses share the server's own list.
            self._extra_headers = cycle.default_headers = [*cycle.default_headers, *headers]


def set_generation(scope: Scope, generation: str) -> None:
    """Record the generation of this request, for its later log lines."""
    context = scope.get(REQUEST_CONTEXT)
    if context is not None:
        context.generation = generation


# ── CORS: pages of any origin may call the API, because it needs a key and ignores cookies ─────────────────────────

_CORS_HEADERS: Headers = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", b"*")]
_PREFLIGHT_HEADERS: Headers = [
    *_CORS_HEADERS,
    (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
    # The wildcard does not cover `authorization`.
    (b"access-control-allow-headers", b"authorization, *"),
    (b"access-control-max-age", b"86400"),
]


def allow_origin(scope: Scope, context: RequestContext) -> None:
    """Allow the page that sent the request to read the response. Image files add this header themselves."""
    if header(scope, b"origin") and not scope["path"].startswith("/api/texttoimage/pictures/"):
        context.add(_CORS_HEADERS)


def is_preflight(scope: Scope) -> bool:
    """Return True for a CORS preflight request."""
    return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") != b""


async def preflight(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Respond to a preflight: any origin, any header."""
    await send({"type": "http.response.start", "status": 204, "headers": _PREFLIGHT_HEADERS})
    await send({"type": "http.response.body", "body": b""})
