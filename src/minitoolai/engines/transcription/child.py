"""The child process of transcription: measures and transcribes recordings. Run as a module, it reads commands on stdin.

Several recordings are in progress concurrently. Each half minute is a command of its own, so that a short recording
does not wait for a whole long one, and nothing is transcribed before it is requested.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Protocol

import msgspec

from minitoolai.engines.child_process import enter_child, read_frame, to_frame
from minitoolai.engines.transcription.audio import UnreadableFile, measure
from minitoolai.engines.transcription.messages import (
    BeginRecording,
    DropRecording,
    LoadModel,
    MeasureFile,
    NextPart,
    TranscriptCommand,
    TranscriptReply,
)

#: Lower than the server's own priority and that of the chat model.
NICENESS = 15


class Job(Protocol):
    """A recording in progress."""

    def next(self) -> TranscriptReply:
        """Transcribe the next part. Raise UnreadableFile."""


class Model(Protocol):
    """A loaded transcriber."""

    def begin(self, command: BeginRecording) -> Job | TranscriptReply:
        """Begin a recording, or return why not."""


class CommandLoop:
    """Handles commands. Its only state is the recordings in progress."""

    def __init__(self) -> None:
        self._model: Model
        self._jobs: dict[int, Job] = {}

    def handle(self, command: TranscriptCommand) -> TranscriptReply | None:
        """Return the reply, if the command gets one."""
        try:
            return self._handle(command)
        except UnreadableFile as error:
            return TranscriptReply(refusal=str(error))
        except MemoryError:
            return TranscriptReply(refusal="the file needs too much memory to decode; convert it to mp3 or wav")
        except Exception as error:  # noqa: BLE001 - concerns one command only
            return TranscriptReply(error=f"{type(error).__name__}: {error}"[:300])

    def _handle(self, command: TranscriptCommand) -> TranscriptReply | None:
        match command:
            case LoadModel():
                self._load(command)
                return TranscriptReply()
            case MeasureFile():
                container, length_ms = measure(command.path)
                return TranscriptReply(container=container, length_ms=length_ms)
            case BeginRecording():
                job = self._model.begin(command)
                if isinstance(job, TranscriptReply):
                    return job
                self._jobs[command.id] = job
                return TranscriptReply()
            case NextPart():
                job = self._jobs[command.id]
                reply = job.next()
                if reply.is_complete:
                    del self._jobs[command.id]
                return reply
            case DropRecording():
                self._jobs.pop(command.id, None)
                return None

    def _load(self, command: LoadModel) -> None:
        limit = command.memory_mb * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        # Imported here, so that the libraries of a model are loaded by its own kind of child only.
        if command.kind == "whisper":
            from minitoolai.engines.transcription.whisper import WhisperModel

            self._model = WhisperModel(command.folder, command.threads)
        elif command.kind == "fake":
            from minitoolai.engines.transcription.fake import FakeModel

            self._model = FakeModel(command.delay_ms)


def main() -> None:
    """Handle commands until standard input ends."""
    out = enter_child(NICENESS)
    loop, decode = CommandLoop(), msgspec.msgpack.Decoder(TranscriptCommand).decode
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        reply = loop.handle(decode(frame))
        if reply is not None:
            out.write(to_frame(reply))
            out.flush()
    # There is nothing to save, so do not wait for the threads of libraries.
    os._exit(0)


if __name__ == "__main__":
    main()
