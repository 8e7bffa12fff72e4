"""A deterministic transcriber for tests: a segment of one word per second of a recording, in the real child process."""

from __future__ import annotations

import time

from minitoolai.core.transcription import Segment, Word
from minitoolai.engines.transcription.audio import measure
from minitoolai.engines.transcription.messages import BeginRecording, TranscriptReply

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
#: A prompt with one of these words lets the second part fail, kills the child, or hears more than was measured.
FAILS, DIES, LIES = "unhearable", "deadly", "endless"
_PART_S = 2


class FakeModel:
    """Hears two words in two seconds of any recording."""

    def __init__(self, delay_ms: float) -> None:
        self._delay_s = delay_ms / 1000

    def begin(self, command: BeginRecording) -> FakeJob | TranscriptReply:
        """Begin a recording."""
        if command.language == "xx":
            return TranscriptReply(refusal="the language is not supported", param="language")
        return FakeJob(command, self._delay_s)


class FakeJob:
    """One recording in progress."""

    def __init__(self, command: BeginRecording, delay_s: float) -> None:
        self._command = command
        self._delay_s = delay_s
        self._length_ms = measure(command.path)[1]
        if LIES in command.prompt:
            self._length_ms += 3_600_000
        self._at_s = 0

    def next(self) -> TranscriptReply:
        """Hear the next two seconds."""
        if self._at_s * 1000 >= self._length_ms:
            return TranscriptReply(processed_ms=self._length_ms, is_complete=True)
        time.sleep(self._delay_s)
        if self._at_s and FAILS in self._command.prompt:
            raise ValueError(self._command.prompt)
        if self._at_s and DIES in self._command.prompt:
            raise SystemExit(1)
        segments = []
        for second in range(self._at_s, self._at_s + _PART_S):
            if second * 1000 < self._length_ms:
                word = WORDS[second % len(WORDS)]
                heard = Word(word, float(second), float(second + 1))
                words = [heard] if self._command.words else []
                segments.append(Segment(start=heard.start, end=heard.end, text=f" {word}", words=words))
        self._at_s += _PART_S
        processed_ms = min(self._length_ms, self._at_s * 1000)
        return TranscriptReply(segments=segments, processed_ms=processed_ms, language="english")
