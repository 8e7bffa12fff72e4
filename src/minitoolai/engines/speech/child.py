"""The child process of speech engines: receives commands on standard input, sends audio on standard output.

Run as `python -m minitoolai.engines.speech.child`. Several texts are in progress concurrently. Each sentence is a
separate command, so that no text waits for the whole of another, and nothing is synthesized before it is requested.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Protocol

import msgspec

from minitoolai.core.inference import AudioFormat
from minitoolai.engines.child_process import enter_child, read_frame, to_frame
from minitoolai.engines.speech.encoding import AudioEncoder

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import Samples

#: Chats have priority: speech is synthesized many times faster than real time and can yield the CPU.
NICENESS = 15
#: How many samples to encode per reply. The first slice of a sentence is short, to reduce the delay of the first audio;
#: the second is long enough for opus, which makes a page of each second.
FIRST_SLICE = 30_000
SLICE = 120_000


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────


class VoiceFile(msgspec.Struct, frozen=True):
    """A voice to load, with the path of its file if it has one."""

    id: str
    path: str


class LoadVoices(msgspec.Struct, frozen=True, tag="load"):
    """The first command: load the voices of this kind of engine. Gets a reply."""

    kind: str
    voices: list[VoiceFile]
    delay_ms: float


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Begin a text. Gets no reply."""

    id: int
    voice: str
    format: AudioFormat
    speed: float


class Speak(msgspec.Struct, frozen=True, tag="speak"):
    """Synthesize the next sentence of a text; None ends the text. Gets a reply."""

    id: int
    text: str | None


class NextSlice(msgspec.Struct, frozen=True, tag="next"):
    """Return the next slice of the last sentence. Gets a reply."""

    id: int


class Discard(msgspec.Struct, frozen=True, tag="discard"):
    """Drop a text that is no longer wanted. Gets no reply."""

    id: int


class Reply(msgspec.Struct, frozen=True):
    """Audio, its number of samples, and whether the sentence has more slices; or why there is none."""

    audio: bytes = b""
    samples: int = 0
    has_more: bool = False
    error: str | None = None


Command = LoadVoices | Begin | Speak | NextSlice | Discard


class Synthesizer(Protocol):
    """Loaded voices of one kind of engine."""

    def speak(self, voice: str, text: str, speed: float) -> Samples:
        """Return one sentence as 24 kHz samples."""


class VoiceLoop:
    """Handles commands. Its only state is the texts in progress."""

    def __init__(self) -> None:
        self._synthesizer: Synthesizer
        self._texts: dict[int, _Text] = {}

    def handle(self, command: Command) -> Reply | None:
        """Return the reply, if the command gets one. A sentence that cannot be synthesized gets an error as reply."""
        match command:
            case LoadVoices():
                return self._load(command)
            case Begin():
                self._texts[command.id] = _Text(command)
                return None
            case Discard():
                self._texts.pop(command.id, None)
                return None
            case Speak():
                return self._speak(command)
            case NextSlice():
                return self._texts[command.id].next_slice(SLICE)

    def _load(self, command: LoadVoices) -> Reply:
        # Imported here because the module imports this one.
        from minitoolai.engines.speech.voices import make_synthesizer

        try:
            self._synthesizer = make_synthesizer(command.kind, command.voices, command.delay_ms)
        except Exception as error:  # noqa: BLE001 - the parent reports the error
            return _failed(error)
        return Reply()

    def _speak(self, command: Speak) -> Reply:
        text = self._texts.get(command.id)
        if text is None:
            return Reply(error="there is no such text")
        if command.text is None:
            del self._texts[command.id]
            return Reply(text.encoder.finish())
        try:
            text.remaining = self._synthesizer.speak(text.command.voice, command.text, text.command.speed)
        except Exception as error:  # noqa: BLE001 - concerns one sentence only
            return _failed(error)
        return text.next_slice(FIRST_SLICE)


class _Text:
    """A text in progress: its encoder, and the samples of its last sentence that are not encoded yet."""

    def __init__(self, command: Begin) -> None:
        self.command = command
        self.encoder = AudioEncoder(command.format)
        self.remaining: Samples | None = None

    def next_slice(self, max_samples: int) -> Reply:
        """Encode up to this many samples of the sentence."""
        assert self.remaining is not None
        part, self.remaining = self.remaining[:max_samples], self.remaining[max_samples:]
        return Reply(self.encoder.encode(part), len(part), has_more=len(self.remaining) > 0)


def _failed(error: Exception) -> Reply:
    return Reply(error=f"{type(error).__name__}: {error}"[:300])


def main() -> None:
    """Handle commands until standard input ends."""
    out = enter_child(NICENESS)
    loop, decode = VoiceLoop(), msgspec.msgpack.Decoder(Command).decode
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        reply = loop.handle(decode(frame))
        if reply is not None:
            out.write(to_frame(reply))
            out.flush()
    # There is nothing to save, so do not wait for the threads of libraries.
    os._exit(0)


if __name__ == "__main__":
    main()
