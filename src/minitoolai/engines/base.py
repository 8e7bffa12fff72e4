"""What every chat engine offers, and the border at which its failures become ours.

An engine answers in OpenAI's own bytes (server-sent events, or one JSON object), so that one path serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from minitoolai.core.inference import ChatRequest


class ChatAnswer(Protocol):
    """An answer under way. Whoever opened it closes it, on every path."""

    async def next_bytes(self) -> bytes:
        """The next bytes as they come, empty at the end. EngineError if the engine broke off."""

    def listen(self, listener: Callable[[], None] | None, sink: Callable[[bytes], None] | None = None) -> bool:
        """Have `listener` called whenever `take` has something; None ends that. False: only `next_bytes` is offered.

        `sink`, where given, gets the bytes themselves in the cases that are simple and frequent, in order with `take`.
        """

    def take(self) -> bytes | None:
        """What `next_bytes` would return at once, or None where it would wait. EngineError."""

    async def read(self) -> bytes:
        """All that is left, for an answer that is not streamed."""

    async def close(self) -> None:
        """Let go. If the answer has not ended, the engine is told to stop."""


class ChatEngine(Protocol):
    """Somebody who answers chats. Frozen facts as attributes; everything may be called at any time."""

    name: str
    #: Chunks carry every documented field: they may be forwarded as they are.
    complete_chunks: bool
    #: Each event of a stream is one token. Our own count of an answer that was cut is then exact.
    token_events: bool
    #: After we hang up it goes on, and bills: read on to the usage it reports.
    bills_after_cancel: bool
    #: It fetches the pictures that a URL names; else it is given their bytes.
    fetches_images: bool
    #: It knows few kinds of pictures: whatever it is given was unpacked here and is a PNG.
    plain_images: bool
    first_token_timeout_s: float | None
    total_timeout_s: float | None

    @property
    def vision(self) -> bool:
        """Whether pictures may be shown to it."""

    def why_not_ready(self) -> str | None:
        """None when it can answer; else a sentence with the remedy, for `minitoolai models`."""

    def why_blind(self) -> str | None:
        """A sentence with the remedy where it was given eyes that are of no use; it may be ready without them."""

    def context_tokens(self) -> int | None:
        """Tokens of prompt and answer together, where this is narrower than what the catalog says."""

    def unsupported_field(self, request: ChatRequest) -> str | None:
        """The first field of the request that this engine cannot honour."""

    def check_room(self) -> None:
        """Overloaded if a request sent now would not even be queued."""

    def is_busy(self) -> bool:
        """Whether a request sent now would have to wait for its turn."""

    async def count_prompt(self, request: ChatRequest) -> int | None:
        """The exact count of the prompt's tokens, or None where only the engine itself knows."""

    async def open(self, request: ChatRequest, limit: int) -> ChatAnswer:
        """Send the request with `limit` output tokens forced; returns when the answer begins.

        EngineRefused, EngineRateLimited, EngineTimeout or EngineError where it does not.
        """

    async def start(self) -> None:
        """Get ready: load, spawn, connect."""

    async def stop(self) -> None:
        """Let go of everything."""
