"""Which request the code at work belongs to, for the log. Never what was asked, nor with which key."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Protocol


class RequestFacts(Protocol):
    """What a line of the log may say of a request."""

    #: Name of the paid work, once there is some.
    generation: str | None

    def request_id(self) -> str:
        """What the caller named it, else a name of ours; the same each time."""


#: Set at the edge; tasks that a request starts inherit it.
CURRENT: Final[ContextVar[RequestFacts | None]] = ContextVar("minitoolai.request", default=None)
