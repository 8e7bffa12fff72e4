"""Requests and results of engines, independent of any engine and of HTTP: chat, speech and image jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.marks import SpeechMark
from minitoolai.core.models import GenerationState


class TokenDetails(msgspec.Struct, frozen=True):
    """OpenAI's details of prompt tokens. Zero if the engine does not report them.

    Left out of responses unless the engine reports them: the tokens that it wrote to its prompt cache (OpenRouter's
    name), those of them that it keeps for an hour instead of minutes, and the tokens of images.
    """

    cached_tokens: int | None = 0
    audio_tokens: int | None = 0
    cache_write_tokens: int | UnsetType | None = UNSET
    cache_write_1h_tokens: int | UnsetType | None = UNSET
    image_tokens: int | UnsetType | None = UNSET


class CompletionDetails(msgspec.Struct, frozen=True):
    """OpenAI's details of completion tokens. Zero if the engine does not report them."""

    reasoning_tokens: int | None = 0
    audio_tokens: int | None = 0
    accepted_prediction_tokens: int | None = 0
    rejected_prediction_tokens: int | None = 0


class Usage(msgspec.Struct, frozen=True):
    """Token counts. `prompt_tokens` includes the cached ones."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int = 0
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @property
    def cached_tokens(self) -> int:
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0

    @property
    def is_plain(self) -> bool:
        """Return True if no token has a price of its own: each is in the bucket `input` or `output`."""
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return (
            prompt is None
            or not (
                prompt.cached_tokens
                or prompt.audio_tokens
                or prompt.cache_write_tokens
                or prompt.cache_write_1h_tokens
                or prompt.image_tokens
            )
        ) and (completion is None or not (completion.reasoning_tokens or completion.audio_tokens))

    def prompt_buckets(self) -> Iterator[tuple[str, int]]:
        """Yield the prompt tokens that have a price of their own (`core/catalog/prices.py`), as reported."""
        details = self.prompt_tokens_details
        if details is None:
            return
        yield "cached_input", details.cached_tokens or 0
        hourly = details.cache_write_1h_tokens or 0
        yield "cache_write_1h", hourly
        yield "cache_write", max(0, (details.cache_write_tokens or 0) - hourly)
        yield "audio_input", details.audio_tokens or 0
        yield "image_input", details.image_tokens or 0

    def output_buckets(self) -> Iterator[tuple[str, int]]:
        """Yield the output tokens that have a price of their own, as reported."""
        details = self.completion_tokens_details
        if details is not None:
            yield "reasoning", details.reasoning_tokens or 0
            yield "audio_output", details.audio_tokens or 0

    def without_cache(self) -> Usage:
        """Return the usage as if the prompt cache had neither been read nor written."""
        if self.prompt_tokens_details is None:
            return self
        details = TokenDetails(0, self.prompt_tokens_details.audio_tokens)
        return msgspec.structs.replace(self, prompt_tokens_details=details)

    @property
    def cache_write_tokens(self) -> int:
        """Return the prompt tokens written to the engine's cache, for any time."""
        details = self.prompt_tokens_details
        return (details.cache_write_tokens or 0) if details else 0

    @property
    def cache_write_1h_tokens(self) -> int:
        """Return those of `cache_write_tokens` that are kept for an hour."""
        details = self.prompt_tokens_details
        return (details.cache_write_1h_tokens or 0) if details else 0


class MessagesForm(msgspec.Struct):
    """Request for `/v1/messages` as it was sent, for engines that speak Anthropic's format, and how a chat differs.

    All other engines get the chat that it was translated to.
    """

    #: Documented fields of the body. The engine replaces `model`, `max_tokens` and `stream`.
    fields: dict[str, Any]
    #: `anthropic-version` and `anthropic-beta`, if the caller sent them.
    headers: dict[str, str] = {}
    #: Why no other engine can serve the request; None if every engine can.
    refusal: InvalidRequest | None = None
    #: The reasoning effort of a chat that corresponds to `thinking` and `output_config.effort`.
    effort: str | None = None
    #: Fields that have no meaning for another engine, for `x-dropped-fields`. `effort_fields` only without an effort.
    dropped: list[str] = []
    effort_fields: list[str] = []
    #: Sources of images, each with the `image_url` of the chat. The fetched image may replace its URL.
    images: list[tuple[dict[str, Any], dict[str, Any]]] = []
    #: URLs of documents and the names of their fields. The engine fetches them.
    urls: list[tuple[str, str]] = []
    #: Bytes of documents and of earlier thinking: part of the bound, but not of the chat.
    document_bytes: int = 0
    other_bytes: int = 0
    #: The engine may edit the prompt, so that it has fewer tokens than our count.
    may_shrink: bool = False
    #: Tool names in the chat → names of the caller, where they differ.
    tool_names: dict[str, str] = {}
    #: Places of messages' parts in the chat → places in the caller's body, for errors.
    places: dict[str, str] = {}


class ChatRequest(msgspec.Struct):
    """Validated chat request. `fields` are the documented fields of the body that have no attribute of their own."""

    model: str
    messages: list[dict[str, Any]]
    fields: dict[str, Any]
    stream: bool
    include_usage: bool
    limit: int | None
    choices: int = 1
    text_bytes: int = 0
    #: Bytes of other values that are sent to the engine. Part of the bound, but hardly of the prompt.
    other_bytes: int = 0
    images: list[str] = []
    #: Undocumented fields, which an engine gets only if its catalog entry forwards them.
    extras: dict[str, Any] = {}
    #: Names of the fields and tools that are not sent to any engine.
    dropped: list[str] = []
    dropped_tools: list[str] = []
    #: A default limit may be lowered to fit the context; a requested one may not.
    limit_is_default: bool = False
    #: The balance allows fewer output tokens than requested.
    clamped: bool = False
    #: Wait in the queue of an engine with limited concurrency.
    waits: bool = False
    #: Returns the place in an engine's queue, from 1, while the request waits there.
    queue_place: Callable[[], int] | None = None
    #: Text completion: a text, several texts, or tokens. `messages` is then empty.
    prompt: Any = None
    #: Embeddings: texts or tokens. `messages` is then empty.
    embed: list[Any] | None = None
    #: State of the HTTP dialect, which only the dialect reads, to build the response.
    form: Any = None
    #: The account that pays. Engines with few slots share them among accounts.
    account_id: int = 0
    #: The request in Anthropic's format, if it was sent in it.
    messages_form: MessagesForm | None = None
    #: Routing preferences (chat/preferences.py). None for most requests.
    preferences: Any = None

    def for_model(self, name: str) -> ChatRequest:
        """Copy the request for another model. Changes to the copy's fields and names of fields stay in the copy."""
        return msgspec.structs.replace(
            self,
            model=name,
            fields=self.fields.copy(),
            extras=self.extras.copy(),
            dropped=self.dropped.copy(),
            dropped_tools=self.dropped_tools.copy(),
        )

    def set_queue_place(self, place: Callable[[], int]) -> None:
        """Note that the request waits in a queue, in which `place` returns its place."""
        self.queue_place = place

    def forwarded(self, names: Collection[str]) -> dict[str, Any]:
        """Copy the fields for an engine that gets these undocumented fields, too."""
        if not self.extras:
            return self.fields.copy()
        return self.fields | {name: self.extras[name] for name in names if name in self.extras}


AudioFormat = Literal["mp3", "wav", "flac", "opus", "aac", "pcm"]


class SpeechRequest(msgspec.Struct):
    """Validated speech request. `fields` is the request body without the fields that have their own attribute."""

    model: str
    text: str
    voice: str | None
    format: AudioFormat
    speed: float
    fields: dict[str, Any]
    #: Send audio in server-sent events instead of plain bytes.
    as_events: bool = False
    #: Language of the text according to the caller; None to detect it.
    language: str | None = None
    #: None leaves the speech unmarked.
    mark: SpeechMark | None = None
    #: The account that pays. Engines with few slots share them among accounts.
    account_id: int = 0


class SpeechSegment(msgspec.Struct, frozen=True):
    """Part of a text that is spoken as one unit, usually a sentence. `characters` of the text precede its end."""

    text: str
    characters: int


class AudioChunk(msgspec.Struct, frozen=True):
    """Audio in the requested format. After it, `characters` of the text have been spoken.

    `samples` counts the samples so far, or is None if only the engine knows.
    """

    audio: bytes
    characters: int
    samples: int | None = None


# ── image jobs ────────────────────────────────────────────────────────────────────────────────────────────────────


#: What an image job does: draw from words alone, change an image by words, draw an image like one, or enlarge one.
ImageTask = Literal["generate", "edit", "variation", "upscale"]
#: File formats of finished images.
ImageFormat = Literal["png", "jpeg", "webp"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)


class ImageJobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Validated request for an image job: sizes in pixels, scheduler one of the eighteen names."""

    model: str
    prompt: str
    negative_prompt: str = ""
    scheduler: str = "DPM++ SDE"
    steps: int = 4
    cfg_scale: float = 2.0
    width: int = 1024
    height: int = 1024
    #: None: chosen at random and reported in the job.
    seed: int | None = None
    webhook_url: str | None = None
    #: One of the qualities of the model; "" if the request chose none.
    quality: str = ""
    task: ImageTask = "generate"
    #: Keys of the uploaded images in the object store, and of the mask; "" for no mask. Deleted when the job ends.
    images: tuple[str, ...] = ()
    mask: str = ""
    #: How much of the uploaded image is replaced, above 0 to 1: the noise level at which sampling begins.
    strength: float = 1.0
    output_format: ImageFormat = "png"
    #: Quality of jpeg and webp, 0 to 100.
    output_compression: int = 100
    #: W3C `traceparent` of the request if tracing is on, so that the worker's spans join its trace.
    trace: str | None = None


class EditInputs(msgspec.Struct, frozen=True):
    """Uploaded images as RGB PNG, the first of exactly the size of the result, and the mask as grey PNG of that size.

    White parts of the mask are redrawn, black parts stay as they are.
    """

    images: tuple[bytes, ...]
    mask: bytes | None = None


class SubmittedJob(msgspec.Struct, frozen=True):
    """ID of a new job, below 2^53 and unguessable, and the signature that grants access to it."""

    job_id: int
    signature: str
    #: No process can run it now; the operator lets jobs wait for workers that start when there are some.
    waits_for_worker: bool = False


class ImageJob(msgspec.Struct, frozen=True, kw_only=True):
    """State of an image job."""

    job_id: int
    #: Public ID, as in the header `x-generation-id`.
    generation: str
    account_id: int
    state: GenerationState
    #: Number of queued jobs before this one; 0 unless it is queued.
    ahead: int = 0
    step: int = 0
    steps: int
    seed: int
    #: Model name in the catalog, and the model that generated the image.
    model: str
    #: The engine that runs it.
    engine: str = ""
    served_model: str | None = None
    #: The model that customers see, also while the job waits. `is_demo`: a stand-in, in place of an engine of its own.
    shown_model: str = ""
    is_demo: bool = False
    #: Key of the image in the object store; None before the end, after a failure, and once retention removed it.
    object: str | None = None
    error_code: str | None = None
    error: str | None = None
    width: int
    height: int
    output_format: ImageFormat = "png"
    created_ms: int
    finished_ms: int | None = None

    @property
    def is_over(self) -> bool:
        """Return True if the job has ended. After that, only retention changes it, by removing the image."""
        return self.state not in ("queued", "running")

    @property
    def progress(self) -> float:
        """Return the progress, 0 to 1."""
        return 1.0 if self.state == "succeeded" else self.step / self.steps


decode_image_job_request = msgspec.json.Decoder(ImageJobRequest).decode
