"""Messages between a pool of voices and its child processes, and the interface of a loaded kind of voice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from minitoolai.core.inference import AudioFormat
from minitoolai.core.marks import SpeechMark

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import Samples


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
    mark: SpeechMark | None = None


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
    """Audio, its number of samples, and how many samples of the sentence are left; or the reason why there is none."""

    audio: bytes = b""
    samples: int = 0
    samples_left: int = 0
    error: str | None = None

    @property
    def has_more(self) -> bool:
        return self.samples_left > 0


Command = LoadVoices | Begin | Speak | NextSlice | Discard


class Synthesizer(Protocol):
    """Loaded voices of one kind of engine."""

    def speak(self, voice: str, text: str, speed: float) -> Samples:
        """Return one sentence as 24 kHz samples."""
