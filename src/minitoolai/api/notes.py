"""Headers that an answer gets whoever writes it: handed to the server beside the handler, once for the answer."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from minitoolai.api.asgi import Headers, Send

#: Where a request's notes stand in its scope.
NOTES: Final = "minitoolai.notes"


class Notes:
    """What is noted about one request on its way."""

    __slots__ = ("_send", "is_counted")

    def __init__(self, send: Send) -> None:
        self._send = send
        #: It was counted against the limits.
        self.is_counted = False

    def add(self, headers: Headers) -> None:
        """Put these on the answer. Behind any other server than ours, the answer goes without."""
        cycle = getattr(self._send, "__self__", None)
        if isinstance(cycle, RequestResponseCycle):
            cycle.default_headers = [*cycle.default_headers, *headers]
