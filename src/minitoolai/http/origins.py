"""Pages of other origins may call the API: whoever calls it must hold a key, and no cookie counts here."""

from __future__ import annotations

from minitoolai.http.asgi import Headers, Receive, Scope, Send, header
from minitoolai.http.request_context import Notes

_EVERYBODY: Headers = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", b"*")]
_PREFLIGHT: Headers = [
    *_EVERYBODY,
    (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
    # The star does not stand for this one.
    (b"access-control-allow-headers", b"authorization, *"),
    (b"access-control-max-age", b"86400"),
]


def welcome(scope: Scope, notes: Notes) -> None:
    """Where a browser says from which page it asks, let that page read the answer. Pictures say so by themselves."""
    if header(scope, b"origin") and not scope["path"].startswith("/api/texttoimage/pictures/"):
        notes.add(_EVERYBODY)


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks what it may ask."""
    return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") != b""


async def preflight(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An answer to it: anything, with any header."""
    await send({"type": "http.response.start", "status": 204, "headers": _PREFLIGHT})
    await send({"type": "http.response.body", "body": b""})
