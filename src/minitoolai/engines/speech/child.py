"""The child process that speaks. Its parent sends orders on standard input and reads sounds on standard output.

Run as `python -m minitoolai.engines.speech.child`. Several texts are open at once; each sentence is an order of its
own, so that none waits for the whole of another, and none is spoken before somebody wants to hear it.
"""

from __future__ import annotations

import os
import struct
import sys
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Protocol

import msgspec

from minitoolai.core.inference import AudioFormat
from minitoolai.engines.child_process import die_with_parent
from minitoolai.engines.speech.encoding import AudioEncoder

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import Samples

HEAD = struct.Struct("<I")
#: Chats come first: a voice is many times faster than real time, and yields the processor to whoever wants it.
NICENESS = 15
#: Samples encoded at once. The first of a sentence are few, for somebody waits; opus makes a page of each second.
FIRST_SLICE = 30_000
SLICE = 120_000


class VoiceFile(msgspec.Struct, frozen=True):
    """A voice to load: its name, and its file where it has one."""

    id: str
    path: str


class LoadVoices(msgspec.Struct, frozen=True, tag="load"):
    """First of all: which module speaks, with which voices. Answered."""

    module: str
    voices: list[VoiceFile]
    delay_ms: float


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """A new text. Not answered."""

    id: int
    voice: str
    format: AudioFormat
    speed: float


class Say(msgspec.Struct, frozen=True, tag="say"):
    """Its next sentence; without a text, its end. Answered."""

    id: int
    text: str | None


class More(msgspec.Struct, frozen=True, tag="more"):
    """The rest of the sentence said last, or another slice of it. Answered."""

    id: int


class Drop(msgspec.Struct, frozen=True, tag="drop"):
    """Nobody listens any more. Not answered."""

    id: int


class Said(msgspec.Struct, frozen=True):
    """The answer: audio, the samples in it, whether the sentence goes on; or why there is none."""

    audio: bytes = b""
    samples: int = 0
    more: bool = False
    error: str | None = None


Order = LoadVoices | Begin | Say | More | Drop


class Synthesizer(Protocol):
    """What a module that speaks offers as `make_speaker(voices, delay_ms)`."""

    def speak(self, voice: str, text: str, speed: float) -> Samples:
        """One sentence as 24 kHz samples."""


class _Text:
    def __init__(self, order: Begin) -> None:
        self.order = order
        self.encoder = AudioEncoder(order.format)
        self.rest: Samples | None = None

    def next_slice(self, most: int) -> Said:
        """Encode as much of the sentence."""
        assert self.rest is not None
        part, self.rest = self.rest[:most], self.rest[most:]
        return Said(self.encoder.encode(part), len(part), more=len(self.rest) > 0)


class VoiceLoop:
    """Carries out orders; the only state is the texts under way."""

    def __init__(self) -> None:
        self._speaker: Synthesizer
        self._texts: dict[int, _Text] = {}

    def carry_out(self, order: Order) -> Said | None:
        """The answer, where the order has one. A sentence that cannot be spoken is an answer, too."""
        match order:
            case LoadVoices():
                return self._load(order)
            case Begin():
                self._texts[order.id] = _Text(order)
                return None
            case Drop():
                self._texts.pop(order.id, None)
                return None
            case Say():
                return self._say(order)
            case More():
                return self._texts[order.id].next_slice(SLICE)

    def _load(self, order: LoadVoices) -> Said:
        try:
            self._speaker = import_module(order.module).make_speaker(order.voices, order.delay_ms)
        except Exception as fault:  # noqa: BLE001 the parent says what is wrong
            return _failed(fault)
        return Said()

    def _say(self, order: Say) -> Said:
        text = self._texts.get(order.id)
        if text is None:
            return Said(error="there is no such text")
        if order.text is None:
            del self._texts[order.id]
            return Said(text.encoder.finish())
        try:
            text.rest = self._speaker.speak(text.order.voice, order.text, text.order.speed)
        except Exception as fault:  # noqa: BLE001 one sentence's fault
            return _failed(fault)
        return text.next_slice(FIRST_SLICE)


def _failed(fault: Exception) -> Said:
    return Said(error=f"{type(fault).__name__}: {fault}"[:300])


def main() -> None:
    """Carry out orders until standard input ends."""
    die_with_parent()
    os.nice(NICENESS)
    # Only frames may go to standard output, whatever a library prints.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    desk, decode = VoiceLoop(), msgspec.msgpack.Decoder(Order).decode
    while (frame := _read_frame(sys.stdin.buffer)) is not None:
        answer = desk.carry_out(decode(frame))
        if answer is not None:
            out.write(to_frame(answer))
            out.flush()
    # Nothing to save: leave without waiting for the threads of libraries.
    os._exit(0)


def _read_frame(stream: IO[bytes]) -> bytes | None:
    head = stream.read(HEAD.size)
    return stream.read(HEAD.unpack(head)[0]) if len(head) == HEAD.size else None


def to_frame(message: Any) -> bytes:
    """A message with its length before it."""
    body = msgspec.msgpack.encode(message)
    return HEAD.pack(len(body)) + body


if __name__ == "__main__":
    main()
