"""Write a transcript in the formats of OpenAI's API: json, text, srt, vtt and verbose_json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from minitoolai.core.transcription import Segment, TranscriptFormat, TranscriptionRequest

_encode = msgspec.json.Encoder().encode
CONTENT_TYPES: dict[TranscriptFormat, bytes] = {
    "json": b"application/json",
    "verbose_json": b"application/json",
    "text": b"text/plain; charset=utf-8",
    "srt": b"text/plain; charset=utf-8",
    "vtt": b"text/vtt; charset=utf-8",
}


class FinishedTranscript(msgspec.Struct, frozen=True):
    """Everything that a format may show. `seconds` are those that are charged."""

    text: str
    segments: list[Segment]
    language: str | None
    duration_ms: int
    seconds: int


def usage_json(seconds: int) -> dict[str, Any]:
    """Return the usage in OpenAI's form."""
    return {"type": "duration", "seconds": seconds}


def render(request: TranscriptionRequest, transcript: FinishedTranscript) -> bytes:
    """Return the body of the response."""
    match request.format:
        case "text":
            return (transcript.text + "\n").encode()
        case "srt":
            return _subtitles(_with_text(transcript.segments), ",", numbered=True).encode()
        case "vtt":
            return b"WEBVTT\n\n" + _subtitles(_with_text(transcript.segments), ".", numbered=False).encode()
        case "verbose_json":
            return _encode(_verbose(request, transcript))
    return _encode({"text": transcript.text, "usage": usage_json(transcript.seconds)})


def _verbose(request: TranscriptionRequest, transcript: FinishedTranscript) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "task": request.task,
        "language": transcript.language or "",
        "duration": transcript.duration_ms / 1000,
        "text": transcript.text,
    }
    if request.segments:
        shown["segments"] = [
            {
                "id": number,
                "seek": segment.seek,
                "start": segment.start,
                "end": segment.end,
                "text": segment.text,
                "tokens": segment.tokens,
                "temperature": segment.temperature,
                "avg_logprob": segment.avg_logprob,
                "compression_ratio": segment.compression_ratio,
                "no_speech_prob": segment.no_speech_prob,
            }
            for number, segment in enumerate(transcript.segments)
        ]
    if request.words:
        shown["words"] = [word for segment in transcript.segments for word in segment.words]
    return shown | {"usage": usage_json(transcript.seconds)}


def _with_text(segments: Sequence[Segment]) -> list[Segment]:
    return [segment for segment in segments if segment.text.strip()]


def _subtitles(segments: Sequence[Segment], point: str, *, numbered: bool) -> str:
    blocks = []
    for number, segment in enumerate(segments, 1):
        # An arrow would end the line of times, and an empty line the block.
        text = "\n".join(filter(None, map(str.strip, segment.text.replace("-->", "->").splitlines())))
        head = f"{number}\n" if numbered else ""
        blocks.append(f"{head}{_time(segment.start, point)} --> {_time(segment.end, point)}\n{text}\n\n")
    return "".join(blocks)


def _time(seconds: float, point: str) -> str:
    ms = max(0, round(seconds * 1000))
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
