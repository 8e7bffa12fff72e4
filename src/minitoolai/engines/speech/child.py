"""The child process of speech engines: receives commands on standard input, sends audio on standard output.

Run as `python -m minitoolai.engines.speech.child`. Several texts are in progress concurrently. Each sentence is a
separate command, so that no text waits for the whole of another, and nothing is synthesized before it is requested.
"""

from __future__ import annotations

import os
import sys
from collections import deque

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
from minitoolai.engines.speech.sound import WholeSound

#: How many samples to encode per reply. The first slice of a sentence is short, to reduce the delay of the first audio,
#: but long enough for opus, which makes a page of each second. Encoding 12,000 samples as mp3 took 8 ms.
FIRST_SLICE, FIRST_OPUS_SLICE = 4_800, 30_000
SLICE = 120_000
#: How many samples of a gathered text to leave unmade until they are sent. A sentence of which only the length is known
#: takes two thirds of the time, but 20 times the memory of its samples.
MAX_UNMADE = 240_000


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
            return self._forget_if_done(command.id, self._texts[command.id].next_slice(SLICE))
        except Exception as error:  # noqa: BLE001 - concerns one sentence only
            return _failed(error)

    def _forget_if_done(self, text_id: int, reply: Reply) -> Reply:
        if self._texts[text_id].is_finished and not reply.has_more:
            del self._texts[text_id]
        return reply

    def _speak(self, command: Speak) -> Reply:
        text = self._texts.get(command.id)
        if text is None:
            return Reply(error="there is no such text")
        try:
            if command.text is None:
                return self._forget_if_done(command.id, text.finish())
            return text.begin(
                self._synthesizer.speak(text.command.voice, command.text, text.command.speed), command.is_only
            )
        except Exception as error:  # noqa: BLE001 - concerns one sentence only
            return _failed(error)


class _Text:
    """A text in progress: its encoder, and the sentences of which samples are left.

    A gathered text is sent only once the length of all its sentences is known.
    """

    def __init__(self, command: Begin) -> None:
        self.command = command
        self._encoder: AudioEncoder | None = None
        self._sounds: deque[Sound] = deque()
        self._left = 0
        self._is_gathered = command.is_gathered
        #: Whether the last sentence has been synthesized.
        self.is_finished = False

    def begin(self, sound: Sound, is_only: bool) -> Reply:
        """Begin a sentence, and return its first slice. The only one of a text need not be gathered."""
        if self._is_gathered and not is_only:
            # The network has run, so the length is known. Its output is large, so keep only a little of it.
            is_large = self._left + sound.length > MAX_UNMADE
            self._sounds.append(WholeSound(sound.read(sound.length)) if is_large else sound)
            self._left += sound.length
            return Reply()
        self._is_gathered = False
        self._sounds, self._left = deque([sound]), sound.length
        if self._encoder is None:
            self._encoder = self._make_encoder(sound.length if is_only else None)
        return self.next_slice(self._first_slice)

    @property
    def _first_slice(self) -> int:
        return FIRST_OPUS_SLICE if self.command.format == "opus" else FIRST_SLICE

    def _make_encoder(self, length: int | None) -> AudioEncoder:
        return AudioEncoder(self.command.format, self.command.mark, length)

    def next_slice(self, max_samples: int) -> Reply:
        """Encode up to this many samples of the sentence, or of a gathered text."""
        assert self._encoder is not None
        part = self._sounds[0].read(max_samples)
        self._left -= len(part)
        audio = self._encoder.encode(part)
        if len(part) < max_samples and len(self._sounds) > 1:
            self._sounds.popleft()
        if self.is_finished and not self._left:
            audio += self._encoder.finish()
        return Reply(audio, len(part), self._left)

    def finish(self) -> Reply:
        """Return the remaining bytes, or the first slice of a gathered text, whose last slice will include them."""
        self.is_finished = True
        if self._encoder is None:
            self._encoder = self._make_encoder(self._left)
        if not self._left:
            return Reply(self._encoder.finish())
        return self.next_slice(self._first_slice)


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
