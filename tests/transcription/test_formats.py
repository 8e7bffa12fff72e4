"""A transcript in each format of OpenAI's API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minitoolai.core.transcription import Segment, TranscriptFormat, TranscriptionRequest, UploadedFile, Word
from minitoolai.transcription.formats import FinishedTranscript, render

SEGMENTS = [
    Segment(start=0.0, end=2.5, text=" Hello there. ", words=[Word("Hello", 0.0, 1.0)]),
    Segment(start=2.5, end=3.0, text="  "),
    Segment(start=3.0, end=3723.0004, text=" An --> arrow,\n\n and two lines. "),
]
TRANSCRIPT = FinishedTranscript("Hello there.", SEGMENTS, "english", 3_723_000, 3_723)


def rendered(form: TranscriptFormat, transcript: FinishedTranscript = TRANSCRIPT, **options: Any) -> str:
    file = UploadedFile(Path("a.wav"), "a.wav", 1, "")
    return render(TranscriptionRequest("ear", "transcribe", file, form, **options), transcript).decode()


def test_text_and_json_have_the_whole_text() -> None:
    assert rendered("text") == "Hello there.\n"
    assert json.loads(rendered("json")) == {"text": "Hello there.", "usage": {"type": "duration", "seconds": 3723}}


def test_subtitles_leave_out_what_has_no_text_and_cannot_be_broken_by_it() -> None:
    assert rendered("srt") == (
        "1\n00:00:00,000 --> 00:00:02,500\nHello there.\n\n"
        "2\n00:00:03,000 --> 01:02:03,000\nAn -> arrow,\nand two lines.\n\n"
    )
    assert rendered("vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHello there.\n\n"
        "00:00:03.000 --> 01:02:03.000\nAn -> arrow,\nand two lines.\n\n"
    )


def test_verbose_json_has_segments_and_words_only_if_they_were_asked_for() -> None:
    plain = json.loads(rendered("verbose_json"))
    assert plain == {
        "task": "transcribe",
        "language": "english",
        "duration": 3723.0,
        "text": "Hello there.",
        "usage": {"type": "duration", "seconds": 3723},
    }
    full = json.loads(rendered("verbose_json", segments=True, words=True))
    assert [segment["id"] for segment in full["segments"]] == [0, 1, 2]
    assert full["segments"][0]["text"] == " Hello there. "
    assert full["words"] == [{"word": "Hello", "start": 0.0, "end": 1.0}]


def test_an_unknown_language_is_empty() -> None:
    unknown = FinishedTranscript("", [], None, 0, 0)
    assert json.loads(rendered("verbose_json", unknown))["language"] == ""
    assert rendered("srt", unknown) == ""
