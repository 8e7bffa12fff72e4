"""What every chat engine offers, and the border at which its failures become ours.

An engine answers in OpenAI's own bytes (server-sent events, or one JSON object), so that one path serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from minitoolai.core.catalog import VoiceEntry
from minitoolai.core.inference import AudioChunk, ChatRequest, SpeechRequest, SpeechSegment


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

    def vision_unavailable_reason(self) -> str | None:
        """A sentence with the remedy where it was given eyes that are of no use; it may be ready without them."""

    def context_tokens(self) -> int | None:
        """Tokens of prompt and answer together, where this is narrower than what the catalog says."""

    def unsupported_field(self, request: ChatRequest) -> str | None:
        """The first field of the request that this engine cannot honour."""

    def check_capacity(self) -> None:
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


# (merged from base_images) What image engines offer, on two levels.
# (merged from base_images)
# (merged from base_images) A worker speaks to an `ImageEngine`. Behind one of them, in a child process, a `CanvasEngine` advances many pictures
# (merged from base_images) one model call at a time: rows of different requests share a call, join while others are half drawn, leave when done.

#: Told (steps done, steps in all) as one picture comes along.
OnProgress = Callable[[int, int], None]


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One picture asked for, already checked: everything that decides what is drawn."""

    prompt: str
    negative_prompt: str = ""
    scheduler: str = "DPM++ SDE"
    steps: int = 4
    cfg_scale: float = 2.0
    width: int = 1024
    height: int = 1024
    seed: int = 0


class GeneratedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A finished picture. `model` is what really drew it; `ticket` names it on its canvas."""

    png: bytes
    model: str
    ticket: int = 0


class FailedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A picture that left its canvas unfinished, for a reason of its own: out of memory, say. The others go on."""

    ticket: int
    error: str
    #: The request is to blame: another attempt would end the same way.
    refused: bool = False


# ── what a worker speaks to ───────────────────────────────────────────────────────────────────────────────


class ImageEngine(Protocol):
    """Somebody who draws. Everything may be called at any time."""

    name: str
    #: Pictures it takes at once; more are not claimed for it.
    rows: int

    @property
    def is_up(self) -> bool:
        """It takes pictures just now. What waits for one that is starting again goes on waiting."""

    def why_not_ready(self, model: str) -> str | None:
        """None when it can draw this model of the catalog; else a sentence with the remedy."""

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Pictures with the same key are drawn together, whatever else differs."""

    async def start(self) -> None:
        """Get ready: load, spawn, connect. EngineError."""

    async def stop(self) -> None:
        """Let go of everything; pictures under way raise EngineError."""

    async def draw(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        """One picture of a model of the catalog; many may be under way. Cancelled, it lets go between two steps.

        EngineRefused: the request is to blame. Any other EngineError: try again.
        """


# ── what runs in a child process ──────────────────────────────────────────────────────────────────────────


class Batch(Protocol):
    """Pictures under way on one engine. Not safe for threads: whoever opened it advances it."""

    def __len__(self) -> int:
        """How many pictures are not finished yet."""

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Begin a picture; it joins the next model call. The ticket names it among the finished ones."""

    def remove(self, ticket: int) -> None:
        """Forget a picture that nobody waits for any more. An unknown ticket is no error."""

    def step(self) -> Sequence[GeneratedImage | FailedImage]:
        """One model call for every picture under way; returns those that it ended.

        What it raises concerns them all: each is then drawn again from its beginning, alone.
        """


class BatchEngine(Protocol):
    """Somebody who draws, one model call at a time. Made from plain data, here for its facts and in the child to work.

    `why_not_ready` and `batch_key` answer without heavy libraries and before `start`.
    """

    name: str

    def why_not_ready(self, model: str) -> str | None:
        """None when it can draw this model of the catalog; else a sentence with the remedy."""

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Pictures with the same key share a canvas: same checkpoint and latent size."""

    def start(self) -> None:
        """Get ready. Heavy libraries are imported here and not before. EngineError."""

    def stop(self) -> None:
        """Let go of everything."""

    def open(self, model: str) -> Batch:
        """An empty canvas for a model of the catalog; its weights are loaded where they are not yet. EngineError."""


# (merged from base_speech) What every speech engine offers: text goes in sentence by sentence, audio in the caller's format comes out.


class SpokenAnswer(Protocol):
    """A text being spoken. Whoever opened it closes it, on every path."""

    async def next_sound(self) -> AudioChunk | None:
        """What is spoken next, None at the end; nothing is spoken ahead of what is asked for. EngineError."""

    async def close(self) -> None:
        """Let go. What is not spoken yet never will be, and the voice is free."""


class SpeechEngine(Protocol):
    """Somebody who speaks. Everything may be called at any time."""

    name: str

    def why_not_ready(self) -> str | None:
        """None when it can speak; else a sentence with the remedy, for `minitoolai models`."""

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        """None when it can speak with this voice; else a sentence with the remedy."""

    def served_model(self, model: str) -> str:
        """What really speaks when this model is asked for."""

    def unsupported_field(self, request: SpeechRequest) -> str | None:
        """The first field of the request that this engine cannot honour."""

    def check_capacity(self) -> None:
        """Overloaded if a request sent now would not even be queued."""

    async def open(self, request: SpeechRequest, voice: VoiceEntry, pieces: Iterator[SpeechSegment]) -> SpokenAnswer:
        """Take a voice; the pieces together are the text. Overloaded, EngineError."""

    async def start(self) -> None:
        """Get ready: load, spawn, connect."""

    async def stop(self) -> None:
        """Let go of everything."""
