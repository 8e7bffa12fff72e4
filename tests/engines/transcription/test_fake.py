"""The transcriber for tests hears a word a second, and fails on request."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from minitoolai.engines.transcription.fake import DIES, FAILS, LIES, FakeJob, FakeModel
from minitoolai.engines.transcription.messages import BeginRecording, TranscriptReply


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "five.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * 8000 * 5))
    return path


def begun(path: Path, prompt: str = "", *, words: bool = False) -> FakeJob:
    command = BeginRecording(
        id=1, path=str(path), task="transcribe", language=None, prompt=prompt, temperature=0, words=words
    )
    job = FakeModel(0).begin(command)
    assert isinstance(job, FakeJob)
    return job


def heard(job: FakeJob) -> list[TranscriptReply]:
    parts = [job.next()]
    while not parts[-1].is_complete:
        parts.append(job.next())
    return parts


def test_five_seconds_are_five_words_in_parts_of_two_seconds(recording: Path) -> None:
    parts = heard(begun(recording))
    assert [[segment.text for segment in part.segments] for part in parts] == [
        [" one", " two"], [" three", " four"], [" five"], [],
    ]  # fmt: skip
    assert [part.processed_ms for part in parts] == [2000, 4000, 5000, 5000]
    assert all(not segment.words for part in parts for segment in part.segments)
    spoken = heard(begun(recording, words=True))[0].segments[1].words
    assert [(word.word, word.start, word.end) for word in spoken] == [("two", 1.0, 2.0)]


@pytest.mark.parametrize(("prompt", "error"), [(FAILS, ValueError), (DIES, SystemExit)])
def test_the_second_part_fails_on_request(recording: Path, prompt: str, error: type[BaseException]) -> None:
    job = begun(recording, prompt)
    assert job.next().segments
    with pytest.raises(error):
        job.next()


def test_more_is_heard_than_was_measured_on_request(recording: Path) -> None:
    job = begun(recording, LIES)
    assert sum(len(job.next().segments) for _ in range(5)) == 10


def test_an_unknown_language_is_refused(recording: Path) -> None:
    command = BeginRecording(
        id=1, path=str(recording), task="transcribe", language="xx", prompt="", temperature=0, words=False
    )
    refused = FakeModel(0).begin(command)
    assert isinstance(refused, TranscriptReply)
    assert (refused.refusal, refused.param) == ("the language is not supported", "language")
