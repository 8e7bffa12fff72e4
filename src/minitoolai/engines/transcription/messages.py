"""Messages between the server and the child processes that measure and transcribe recordings."""

from __future__ import annotations

import msgspec

from minitoolai.core.transcription import Segment, TranscriptTask


class LoadModel(msgspec.Struct, frozen=True, tag="load"):
    """The first command: limit the memory, and load a model unless the child only measures. Gets a reply."""

    memory_mb: int
    #: whisper, fake, or "" for a child that measures.
    kind: str = ""
    folder: str = ""
    threads: int = 1
    delay_ms: float = 0.0


class MeasureFile(msgspec.Struct, frozen=True, tag="measure"):
    """Read the packets of a file, without decoding them. Gets a reply."""

    path: str


class BeginRecording(msgspec.Struct, frozen=True, tag="begin", kw_only=True):
    """Begin a recording. Gets a reply."""

    id: int
    path: str
    task: TranscriptTask
    language: str | None
    prompt: str
    temperature: float
    words: bool


class NextPart(msgspec.Struct, frozen=True, tag="next"):
    """Transcribe the next half minute, at most. Gets a reply."""

    id: int


class DropRecording(msgspec.Struct, frozen=True, tag="discard"):
    """Drop a recording that is no longer wanted. Gets no reply."""

    id: int


class TranscriptReply(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one command. `error` is set if it failed; `refusal` if the file or the request is the cause."""

    error: str | None = None
    refusal: str | None = None
    #: The field at fault.
    param: str = "file"
    #: To MeasureFile: the container and the length.
    container: str = ""
    length_ms: int = 0
    #: To NextPart: the text, the seconds processed, and whether that is all.
    segments: list[Segment] = []
    processed_ms: int = 0
    is_complete: bool = False
    language: str | None = None


TranscriptCommand = LoadModel | MeasureFile | BeginRecording | NextPart | DropRecording
