"""Data types of transcription: the request, the uploaded file, and the parts of a transcript."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
TRANSCRIPT_FORMATS: tuple[TranscriptFormat, ...] = get_args(TranscriptFormat)
TranscriptTask = Literal["transcribe", "translate"]


class UploadedFile(msgspec.Struct, frozen=True):
    """A file of a form, on the local disk. It is deleted when its request ends."""

    path: Path
    name: str
    size: int
    #: SHA-256 of its contents.
    digest: str


class Recording(msgspec.Struct, frozen=True):
    """A file with sound: its container, and its length as its packets declare it."""

    path: Path
    name: str
    size: int
    container: str
    length_ms: int


class TranscriptionRequest(msgspec.Struct):
    """Validated request for a transcript. `fields` are those of the form that have no attribute."""

    model: str
    task: TranscriptTask
    file: UploadedFile
    format: TranscriptFormat
    #: Language of the recording (ISO 639-1); None to detect it.
    language: str | None = None
    prompt: str = ""
    temperature: float = 0.0
    #: Include the segments, and the times of words.
    segments: bool = False
    words: bool = False
    #: Send the text in server-sent events.
    stream: bool = False
    fields: dict[str, Any] = {}
    #: The account that pays. Engines with few slots share them among accounts.
    account_id: int = 0


class Word(msgspec.Struct, frozen=True):
    """A word with its begin and end in seconds."""

    word: str
    start: float
    end: float


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A few seconds of a transcript, in the form of OpenAI's `verbose_json` but for the number."""

    start: float
    end: float
    text: str
    seek: int = 0
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    words: list[Word] = []


class TranscriptPart(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine heard since the last part. After it, the first `processed_ms` of the recording are processed."""

    processed_ms: int
    text: str = ""
    segments: list[Segment] = []
    #: English name of the language, in lower case, once it is known.
    language: str | None = None
    #: `processed_ms` is our own count, because the engine reported none, or one that is not believed.
    is_estimated: bool = False
