"""Messages between a pool of voices and its child processes, and the interface of a loaded kind of voice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from minitoolai.core.inference import AudioFormat
from minitoolai.core.marks import SpeechMark

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import Samples


class VoiceFile(msgspec.Struct, frozen=True):
    """A voice to load, with the path of its file if it has one, its language tag and how much higher it speaks."""

    id: str
    path: str
    language: str = "en-US"
    pitch: float = 1.0


class LoadVoices(msgspec.Struct, frozen=True, tag="load"):
    """The first command: load the voices of this kind of engine. Gets a reply."""

    kind: str
    voices: list[VoiceFile]
    delay_ms: float


class Identify(msgspec.Struct, frozen=True, tag="identify"):
    """Return the language of a text if a voice of the language `spoken` cannot read it. Gets a reply."""

    text: str
    spoken: str


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Begin a text. Gets no reply."""

    id: int
    voice: str
    format: AudioFormat
    speed: float
    mark: SpeechMark | None = None
    #: Send nothing before the length of the whole text is known, so that the header tells it.
    is_gathered: bool = False


class Speak(msgspec.Struct, frozen=True, tag="speak"):
    """Synthesize the next sentence of a text; None ends the text, and sends what was gathered. Gets a reply."""

    id: int
    text: str | None
    #: The text has no other sentence, so its header tells its length.
    is_only: bool = False


class NextSlice(msgspec.Struct, frozen=True, tag="next"):
    """Return the next slice of the last sentence, or of a gathered text. Gets a reply."""

    id: int


class Discard(msgspec.Struct, frozen=True, tag="discard"):
    """Drop a text that is no longer wanted. Gets no reply."""

    id: int


class Reply(msgspec.Struct, frozen=True):
    """Audio, its number of samples, and how many samples of the sentence are left; or the reason why there is none.

    The reply to `Identify` has a language instead.
    """

    audio: bytes = b""
    samples: int = 0
    samples_left: int = 0
    error: str | None = None
    language: str | None = None

    @property
    def has_more(self) -> bool:
        return self.samples_left > 0


Command = LoadVoices | Identify | Begin | Speak | NextSlice | Discard


class Synthesizer(Protocol):
    """Loaded voices of one kind of engine."""

    #: Tells whether a word is in the voices' English dictionary; None if they have none.
    dictionary: Callable[[str], bool] | None
    #: Load the model that detects languages at the start.
    expects_languages: bool

    def speak(self, voice: str, text: str, speed: float) -> Sound:
        """Begin one sentence."""


class Sound(Protocol):
    """One sentence as 24 kHz samples, made as they are read."""

    @property
    def length(self) -> int:
        """Return the number of samples of the whole sentence, known from the start."""

    def read(self, samples: int) -> Samples:
        """Return up to this many further samples."""
