"""What goes to an engine and what comes back, in words that fit every engine."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


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


class Piece(msgspec.Struct, frozen=True):
    """A sentence, or as much of one as is spoken at once; `characters` of the text are behind it."""

    text: str
    characters: int


class Sound(msgspec.Struct, frozen=True):
    """Some audio in the format asked for; with it, `characters` of the text are spoken.

    `samples` counts what is heard so far, None where only the engine knows.
    """

    audio: bytes
    characters: int
    samples: int | None = None
