"""What goes to an engine and what comes back, in words that fit every engine."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from minitoolai.core.models import GenerationState


class TokenDetails(msgspec.Struct, frozen=True):
    """OpenAI's finer counts; an engine that knows none leaves zeros."""

    cached_tokens: int | None = 0
    audio_tokens: int | None = 0


class CompletionDetails(msgspec.Struct, frozen=True):
    """OpenAI's finer counts of what was generated."""

    reasoning_tokens: int | None = 0
    audio_tokens: int | None = 0
    accepted_prediction_tokens: int | None = 0
    rejected_prediction_tokens: int | None = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens read and written. `prompt_tokens` includes the cached ones."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int = 0
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @property
    def cached_tokens(self) -> int:
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0


class ChatRequest(msgspec.Struct):
    """A checked request. `fields` is the caller's body without what the other attributes carry."""

    model: str
    messages: list[dict[str, Any]]
    fields: dict[str, Any]
    stream: bool
    include_usage: bool
    limit: int | None
    choices: int = 1
    text_bytes: int = 0
    images: list[str] = []
    #: A limit nobody asked for may be lowered to fit the context; one that was asked for may not.
    limit_is_default: bool = False
    #: The balance bought fewer output tokens than were asked for.
    clamped: bool = False
    #: It waits for its turn at an engine that takes only so many at once.
    waits: bool = False
    #: A plain text, several, or tokens, to be continued instead of a chat; `messages` is then empty.
    prompt: Any = None
    #: Texts, or tokens, to be turned into vectors instead of a chat; `messages` is then empty.
    embed: list[Any] | None = None
    #: What the edge needs to answer in the form of the question; nobody else looks at it.
    form: Any = None


AudioFormat = Literal["mp3", "wav", "flac", "opus", "pcm"]


class SpeechRequest(msgspec.Struct):
    """A checked request. `fields` is the caller's body without what the other attributes carry."""

    model: str
    text: str
    voice: str | None
    format: AudioFormat
    speed: float
    fields: dict[str, Any]
    #: Audio inside server-sent events instead of plain bytes.
    as_events: bool = False
    #: What the caller says the text is written in; None leaves it to us.
    language: str | None = None


class SpeechSegment(msgspec.Struct, frozen=True):
    """A sentence, or as much of one as is spoken at once; `characters` of the text are behind it."""

    text: str
    characters: int


class AudioChunk(msgspec.Struct, frozen=True):
    """Some audio in the format asked for; with it, `characters` of the text are spoken.

    `samples` counts what is heard so far, None where only the engine knows.
    """

    audio: bytes
    characters: int
    samples: int | None = None


# (merged from pictures) A picture from request to end, in words that fit every edge and every engine.


class ImageJobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for, already checked: sizes in pixels, scheduler one of the eighteen names."""

    model: str
    prompt: str
    negative_prompt: str = ""
    scheduler: str = "DPM++ SDE"
    steps: int = 4
    cfg_scale: float = 2.0
    width: int = 1024
    height: int = 1024
    #: None: drawn by lot, and told in the job.
    seed: int | None = None
    webhook_url: str | None = None
    #: W3C `traceparent` of the request, where traces are wanted: whoever draws it tells of it there.
    trace: str | None = None


class SubmittedJob(msgspec.Struct, frozen=True):
    """The job's number, below 2^53 and not guessable, and what proves the right to look at it."""

    job_id: int
    signature: str


class ImageJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it stands."""

    job_id: int
    #: As in the header `x-generation-id`.
    generation: str
    account_id: int
    state: GenerationState
    #: Jobs that are drawn before this one; 0 unless it is queued.
    ahead: int = 0
    step: int = 0
    steps: int
    seed: int
    #: The catalog's name, and what really drew it.
    model: str
    served_model: str | None = None
    #: The picture's key in the object store; None before its end, after a failure, and once retention removed it.
    object: str | None = None
    error_code: str | None = None
    error: str | None = None
    width: int
    height: int
    created_ms: int
    finished_ms: int | None = None

    @property
    def is_over(self) -> bool:
        """Nothing will change any more but the object, when retention removes it."""
        return self.state not in ("queued", "running")

    @property
    def progress(self) -> float:
        """0 to 1."""
        return 1.0 if self.state == "succeeded" else self.step / self.steps


decode_image_job_request = msgspec.json.Decoder(ImageJobRequest).decode
