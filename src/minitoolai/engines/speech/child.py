"""The child process of speech engines: receives commands on standard input, sends audio on standard output.

Run as `python -m minitoolai.engines.speech.child`. Several texts are in progress concurrently. Each sentence is a
separate command, so that no text waits for the whole of another, and nothing is synthesized before it is requested.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from minitoolai.engines.child_process import enter_child, read_frame, to_frame
from minitoolai.engines.speech.encoding import AudioEncoder
from minitoolai.engines.speech.messages import Begin, Command, Discard, LoadVoices, NextSlice, Reply, Speak, Synthesizer

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import Samples

#: How many samples to encode per reply. The first slice of a sentence is short, to reduce the delay of the first audio;
#: the second is long enough for opus, which makes a page of each second.
FIRST_SLICE = 30_000
SLICE = 120_000


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
        # Imported here, so that the libraries of a voice are loaded by its own kind of child only.
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
        self.encoder = AudioEncoder(command.format, command.mark)
        self.remaining: Samples | None = None

    def next_slice(self, max_samples: int) -> Reply:
        """Encode up to this many samples of the sentence."""
        assert self.remaining is not None
        part, self.remaining = self.remaining[:max_samples], self.remaining[max_samples:]
        return Reply(self.encoder.encode(part), len(part), len(self.remaining))


def _failed(error: Exception) -> Reply:
    return Reply(error=f"{type(error).__name__}: {error}"[:300])


def main() -> None:
    """Handle commands until standard input ends."""
    out = enter_child()
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
