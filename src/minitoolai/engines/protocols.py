"""The interfaces of chat, image and speech engines. Adapters translate every failure of an engine into an EngineError.

A chat engine responds in OpenAI's wire format (server-sent events, or one JSON object), so that one code path serves
all chat engines.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

import msgspec

from minitoolai import __version__
from minitoolai.core.catalog.catalog import VoiceEntry
from minitoolai.core.catalog.suppliers import EngineLabel
from minitoolai.core.counting import Tokenizer
from minitoolai.core.inference import AudioChunk, ChatRequest, ImageTask, SpeechRequest, SpeechSegment
from minitoolai.core.marks import Watermark
from minitoolai.engines.concurrency import ConcurrencyLimit

# ── chat ──────────────────────────────────────────────────────────────────────────────────────────────────────


class ChatResponse(Protocol):
    """A chat response in flight. The caller must close it on every path."""

    async def next_bytes(self) -> bytes:
        """Wait for bytes and return them, or b"" at the end. Raises EngineError if the engine breaks off."""

    def set_callbacks(
        self, on_readable: Callable[[], None] | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> bool:
        """Call `on_readable` whenever `read_nowait` has something; None ends that. Return False if unsupported.

        `on_chunk`, if given, receives the bytes directly in the simple and frequent cases, in order with `read_nowait`.
        """

    def read_nowait(self) -> bytes | None:
        """Return the bytes that `next_bytes` would return without waiting, or None. Raises EngineError."""

    async def read(self) -> bytes:
        """Return the remaining bytes, for a response that is not streamed."""

    async def close(self) -> None:
        """Release the response. If it has not ended, stop the engine's work on it."""


class ChatEngine(Protocol):
    """An engine for chats. Its attributes never change; its methods may be called at any time."""

    name: str
    #: How errors call the engine, and what in its answers must not reach customers.
    label: EngineLabel
    #: Chunks carry all documented fields, so they can be forwarded unchanged.
    complete_chunks: bool
    #: Each event of a stream is one token, so our own count of a response that was cut is exact.
    token_events: bool
    #: Counts output for which the engine reported no usage. None if the catalog names no tokenizer.
    tokenizer: Tokenizer | None
    #: The engine continues and bills after a disconnect: read on to get the usage that it reports.
    bills_after_cancel: bool
    #: Tokens read from the engine's prompt cache are sold at their own price.
    sells_cache: bool
    #: Undocumented request fields that are sent to the engine.
    forwards: frozenset[str]
    #: The engine fetches images by URL itself; otherwise it receives their bytes.
    fetches_images: bool
    #: The engine supports few image formats: convert every image to PNG first.
    plain_images: bool
    #: The engine speaks Anthropic's format: it responds in it to requests that were sent in it.
    speaks_messages: bool
    first_token_timeout_s: float | None
    total_timeout_s: float | None

    @property
    def concurrency(self) -> ConcurrencyLimit | None:
        """Return the slots and the queue of the engine, or None if neither is limited here."""

    @property
    def vision(self) -> bool:
        """Return True if the engine accepts images."""

    def why_not_ready(self) -> str | None:
        """Return None if the engine is ready, else the reason and the remedy, for `minitoolai models`."""

    def vision_unavailable_reason(self) -> str | None:
        """Return the reason and the remedy if vision is configured but unusable. The engine may still be ready."""

    def context_tokens(self) -> int | None:
        """Return the limit of prompt and response tokens together, if it is lower than the catalog's."""

    def unsupported_field(self, request: ChatRequest) -> str | None:
        """Return the first field of the request that this engine cannot honour."""

    def check_capacity(self) -> None:
        """Raise EngineFull if a request sent now could not even be queued."""

    def is_busy(self) -> bool:
        """Return True if a request sent now would have to wait in the queue."""

    async def count_prompt(self, request: ChatRequest) -> int | None:
        """Return the exact number of prompt tokens, or None if only the engine's response reports it."""

    async def count_messages(self, request: ChatRequest) -> int | None:
        """Return the exact number of prompt tokens, even if only the engine's server can count them, or None.

        Unlike `count_prompt` it may send a request. Raises EngineError or another failure.
        """

    async def open(self, request: ChatRequest, limit: int) -> ChatResponse:
        """Send the request, limited to `limit` output tokens, and return when the response begins.

        Raises EngineRefused, EngineRateLimited, EngineTimeout or EngineError if it does not.
        """

    async def start(self) -> None:
        """Load, spawn or connect what the engine needs."""

    async def stop(self) -> None:
        """Release all resources."""


# ── images ────────────────────────────────────────────────────────────────────────────────────────────────────

#: Called with (completed steps, total steps) of one image.
OnProgress = Callable[[int, int], None]


class ImageRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A validated request for one image: everything that determines the result."""

    prompt: str
    #: The model of the catalog that was asked for, for engines that draw each in a look of its own.
    model: str = ""
    negative_prompt: str = ""
    scheduler: str = "DPM++ SDE"
    steps: int = 4
    cfg_scale: float = 2.0
    width: int = 1024
    height: int = 1024
    seed: int = 0
    #: For upstreams that have several; "" leaves the choice to them.
    quality: str = ""
    task: ImageTask = "generate"
    #: Images to change, as RGB PNG, and the mask as grey PNG. The first image and the mask have the size of the result.
    images: tuple[bytes, ...] = ()
    mask: bytes | None = None
    #: Share of the noise schedule that is sampled, from the end; 1 begins at its first level.
    strength: float = 1.0
    #: The program that the image's metadata names.
    generator: str = f"minitoolai {__version__}"
    #: Embedded as the last step; None leaves the image unmarked.
    watermark: Watermark | None = None


class GeneratedImage(msgspec.Struct, frozen=True, kw_only=True):
    """A finished image. `model` is the model that generated it; `slot_id` identifies it within its batch."""

    png: bytes
    model: str
    slot_id: int = 0


class FailedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that failed for a reason of its own, such as out of memory, while its batch continues."""

    slot_id: int
    error: str
    #: The request caused the failure, so another attempt would fail too.
    refused: bool = False


class ImageEngine(Protocol):
    """An engine for images, as a worker sees it. Its methods may be called at any time."""

    name: str
    #: Most uploaded images of one edit; 0 if the engine only draws from words.
    max_images: int

    @property
    def max_concurrency(self) -> int:
        """Return how many images the engine takes concurrently; a worker claims no more jobs than that."""

    @property
    def is_up(self) -> bool:
        """Return True if the engine takes images now. Jobs stay queued while it is starting or restarting."""

    def why_not_ready(self, model: str) -> str | None:
        """Return None if the engine can serve this model of the catalog, else the reason and the remedy."""

    def lora_names(self, model: str) -> Collection[str] | None:
        """Return the LoRAs that a prompt may name by tags, or None if the engine receives tags as they are."""

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Return the batch of an image. Images with equal keys share model calls."""

    async def start(self) -> None:
        """Load, spawn or connect what the engine needs. Raises EngineError."""

    async def stop(self) -> None:
        """Release all resources. Images in flight raise EngineError."""

    async def generate(self, model: str, request: ImageRequest, on_progress: OnProgress) -> GeneratedImage:
        """Generate one image; many may be in flight. Cancelling the call stops the work between two steps.

        Raises EngineRefused if the request caused the failure; any other EngineError is worth a retry.
        """


class Batch(Protocol):
    """Images in flight on one engine in a child process, generated by continuous batching.

    Images of different requests share each model call; they join and leave between calls. Not thread-safe.
    """

    def __len__(self) -> int:
        """Return the number of unfinished images."""

    def add(self, request: ImageRequest, on_progress: OnProgress | None = None) -> int:
        """Add an image, which joins the next model call. Return its slot ID."""

    def remove(self, slot_id: int) -> None:
        """Drop an image that is no longer wanted. An unknown slot ID is not an error."""

    def step(self) -> Sequence[GeneratedImage | FailedImage]:
        """Run one model call for all images and return those that it finished.

        An exception concerns the whole batch: the caller then restarts each image alone.
        """


class BatchEngine(Protocol):
    """An engine that runs one model call at a time in a child process.

    Built from plain data in both processes: in the parent it only answers `why_not_ready` and `batch_key`, which work
    before `start` and without heavy libraries; in the child it generates images.
    """

    name: str

    def why_not_ready(self, model: str) -> str | None:
        """Return None if the engine can serve this model of the catalog, else the reason and the remedy."""

    def lora_names(self, model: str) -> Collection[str] | None:
        """Return the LoRAs that a prompt may name, or None for any. Like `why_not_ready`, it works before `start`."""

    def batch_key(self, model: str, width: int, height: int) -> str:
        """Return the batch of an image. Equal keys mean the same checkpoint and the same latent size."""

    def start(self) -> None:
        """Import the heavy libraries and get ready. Raises EngineError."""

    def stop(self) -> None:
        """Release all resources."""

    def open(self, model: str) -> Batch:
        """Return an empty batch for a model of the catalog, loading its weights if needed. Raises EngineError."""


# ── speech ────────────────────────────────────────────────────────────────────────────────────────────────────


class SpeechResponse(Protocol):
    """A text that is being synthesized. The caller must close it on every path."""

    async def next_sound(self) -> AudioChunk | None:
        """Return the next audio, or None at the end. Synthesizes nothing ahead of this call. Raises EngineError."""

    async def close(self) -> None:
        """Drop the remaining text and release the voice."""


class SpeechEngine(Protocol):
    """An engine for speech. Text goes in sentence by sentence; audio in the requested format comes out."""

    name: str
    #: Request fields that are sent to the engine unchanged.
    forwards: frozenset[str]

    @property
    def concurrency(self) -> ConcurrencyLimit | None:
        """Return the slots and the queue of the engine, or None if neither is limited here."""

    def why_not_ready(self) -> str | None:
        """Return None if the engine is ready, else the reason and the remedy, for `minitoolai models`."""

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        """Return None if the engine can use this voice, else the reason and the remedy."""

    def served_model(self, model: str) -> str:
        """Return the name of the model that serves requests for `model`."""

    def unsupported_field(self, request: SpeechRequest) -> str | None:
        """Return the first field of the request that this engine cannot honour."""

    def check_capacity(self) -> None:
        """Raise EngineFull if a request sent now could not even be queued."""

    async def foreign_language(self, text: str, language: str) -> str | None:
        """Return the code of the text's language if it is clearly another one; None also if the engine cannot tell.

        English is accepted for every language, because texts in all languages quote it.
        """

    async def open(self, request: SpeechRequest, voice: VoiceEntry, pieces: Iterator[SpeechSegment]) -> SpeechResponse:
        """Reserve a voice for a text, given as pieces that together are the whole. Raises Overloaded or EngineError."""

    async def start(self) -> None:
        """Load, spawn or connect what the engine needs."""

    async def stop(self) -> None:
        """Release all resources."""
