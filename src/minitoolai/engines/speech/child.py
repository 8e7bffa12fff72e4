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
from minitoolai.engines.speech.messages import (
    Begin,
    Command,
    Discard,
    Identify,
    LoadVoices,
    NextSlice,
    Reply,
    Sound,
    Speak,
    Synthesizer,
)
from minitoolai.engines.speech.reading.language import LanguageDetector

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import Samples

#: How many samples to encode per reply. The first slice of a sentence is short, to reduce the delay of the first audio,
#: but long enough for opus, which makes a page of each second. Encoding 12,000 samples as mp3 took 8 ms.
FIRST_SLICE, FIRST_OPUS_SLICE = 4_800, 30_000
SLICE = 120_000


class VoiceLoop:
    """Handles commands. Its only state is the texts in progress."""

    def __init__(self) -> None:
        self._synthesizer: Synthesizer
        self._detector: LanguageDetector
        self._texts: dict[int, _Text] = {}

    def handle(self, command: Command) -> Reply | None:
        """Return the reply, if the command gets one. A sentence that cannot be synthesized gets an error as reply."""
        match command:
            case LoadVoices():
                return self._load(command)
            case Identify():
                return self._identify(command)
            case Begin():
                self._texts[command.id] = _Text(command)
                return None
            case Discard():
                self._texts.pop(command.id, None)
                return None
            case Speak():
                return self._speak(command)
            case NextSlice():
                return self._next(command)

    def _load(self, command: LoadVoices) -> Reply:
        # Imported here, so that the libraries of a voice are loaded by its own kind of child only.
        from minitoolai.engines.speech.voices import make_synthesizer

        try:
            self._synthesizer = make_synthesizer(command.kind, command.voices, command.delay_ms)
            self._detector = LanguageDetector(self._synthesizer.dictionary)
            if self._synthesizer.expects_languages:
                self._detector.preload()
        except Exception as error:  # noqa: BLE001 - the parent reports the error
            return _failed(error)
        return Reply()

    def _identify(self, command: Identify) -> Reply:
        try:
            return Reply(language=self._detector.foreign_language(command.text, command.spoken))
        except Exception as error:  # noqa: BLE001 - the parent reports the error
            return _failed(error)

    def _next(self, command: NextSlice) -> Reply:
        try:
            return self._texts[command.id].next_slice(SLICE)
        except Exception as error:  # noqa: BLE001 - concerns one sentence only
            return _failed(error)

    def _speak(self, command: Speak) -> Reply:
        text = self._texts.get(command.id)
        if text is None:
            return Reply(error="there is no such text")
        if command.text is None:
            del self._texts[command.id]
            return Reply(text.finish())
        try:
            text.begin(self._synthesizer.speak(text.command.voice, command.text, text.command.speed), command.is_only)
            return text.next_slice(FIRST_OPUS_SLICE if text.command.format == "opus" else FIRST_SLICE)
        except Exception as error:  # noqa: BLE001 - concerns one sentence only
            return _failed(error)


class _Text:
    """A text in progress: its encoder, and the sentence of which samples are left."""

    def __init__(self, command: Begin) -> None:
        self.command = command
        self._encoder: AudioEncoder | None = None
        self._sound: Sound | None = None
        self._left = 0
        #: Samples of a short text that is encoded at its end.
        self._gathered: list[Samples] | None = [] if command.is_gathered else None

    def begin(self, sound: Sound, is_only: bool) -> None:
        """Begin a sentence. The only one of a text need not be gathered, because its length is known."""
        self._sound, self._left = sound, sound.length
        if is_only:
            self._gathered = None
        if self._encoder is None and self._gathered is None:
            self._encoder = self._make_encoder(sound.length if is_only else None)

    def _make_encoder(self, length: int | None) -> AudioEncoder:
        return AudioEncoder(self.command.format, self.command.mark, length)

    def next_slice(self, max_samples: int) -> Reply:
        """Encode up to this many samples of the sentence."""
        assert self._sound is not None
        part = self._sound.read(max_samples)
        self._left -= len(part)
        if self._gathered is not None:
            self._gathered.append(part)
            return Reply(b"", len(part), self._left)
        assert self._encoder is not None
        return Reply(self._encoder.encode(part), len(part), self._left)

    def finish(self) -> bytes:
        """Return the remaining bytes."""
        if self._gathered is None:
            return (self._encoder or self._make_encoder(0)).finish()
        encoder = self._make_encoder(sum(map(len, self._gathered)))
        return b"".join([*map(encoder.encode, self._gathered), encoder.finish()])


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
