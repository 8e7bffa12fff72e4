"""Headers that an answer gets whoever writes it: handed to the server beside the handler, once for the answer."""

from __future__ import annotations

import itertools
import re
from typing import Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.core.clock import random_text
from minitoolai.http.asgi import Headers, Receive, Scope, Send, header

#: Where a request's notes stand in its scope.
NOTES: Final = "minitoolai.notes"
_SENSIBLE = re.compile(rb"[0-9A-Za-z._:-]{1,64}")
#: Names of ours: this process's own word, drawn once, and a number.
_WORD = random_text(10)
_numbers = itertools.count(1)


class RequestContext:
    """What is noted about one request on its way."""

    __slots__ = ("_added", "_request_id", "_send", "_sent_id", "generation", "is_counted")

    def __init__(self, send: Send, sent_id: bytes) -> None:
        """`sent_id`: the request's `X-Request-Id`, empty where it has none."""
        self._send = send
        self._sent_id = sent_id
        self._request_id: str | None = None
        self._added: Headers | None = None
        self.generation: str | None = None
        #: It was counted against the limits.
        self.is_counted = False

    def request_id(self) -> str:
        """For the log and the answer: `X-Request-Id` where the caller sent a sensible one, else a name of ours."""
        if self._request_id is None:
            sent = self._sent_id
            is_sensible = sent and _SENSIBLE.fullmatch(sent)
            self._request_id = sent.decode() if is_sensible else f"{_WORD}-{next(_numbers)}"
        return self._request_id

    def sign(self) -> None:
        """The answer says which request it is of, so that a caller can name it to us."""
        self.add([(b"x-request-id", self.request_id().encode())])

    def add(self, headers: Headers) -> None:
        """Put these on the answer. Behind any other server than ours, the answer goes without."""
        if self._added is not None:
            self._added += headers
            return
        cycle = getattr(self._send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            # Those of the server itself are shared by all answers.
            self._added = cycle.default_headers = [*cycle.default_headers, *headers]


def name_work(scope: Scope, generation: str) -> None:
    """From now on, lines of the log about this request name the paid work that it began."""
    notes = scope.get(NOTES)
    if notes is not None:
        notes.generation = generation


# (merged from origins) Pages of other origins may call the API: whoever calls it must hold a key, and no cookie counts here.

_EVERYBODY: Headers = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", b"*")]
_PREFLIGHT: Headers = [
    *_EVERYBODY,
    (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
    # The star does not stand for this one.
    (b"access-control-allow-headers", b"authorization, *"),
    (b"access-control-max-age", b"86400"),
]


def welcome(scope: Scope, notes: RequestContext) -> None:
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
