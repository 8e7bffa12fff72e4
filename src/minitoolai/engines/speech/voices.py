"""hibari-tts: the embedded voice. Its model lies in its wheel; other voices are files of the operator's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from minitoolai.core.catalog import VoiceEntry
from minitoolai.engines.speech.child import VoiceFile
from minitoolai.engines.speech.pool import VoicePool, is_installed

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import Samples

#: hibari reads numbers of up to 36 digits; longer ones are no numbers, and are read digit by digit.
_LONG_NUMBER = re.compile(r"\d{25,}")


class HibariEngine(VoicePool):
    """Loads only what is on this machine: hibari's own habit of downloading a voice is never reached."""

    module = "minitoolai.engines.speech.voices"

    def why_not_ready(self) -> str | None:
        if not is_installed("hibari"):
            return "no hibari: pip install hibari-tts"
        return super().why_not_ready()

    def is_bundled(self, voice: VoiceEntry) -> bool:
        return voice.id == "heart"


class HibariSpeaker:
    """In the child: one model a voice, one reader of text for each spelling."""

    def __init__(self, voices: list[VoiceFile]) -> None:
        import hibari
        import hibari.voices

        readers: dict[bool, Any] = {}
        self._voices: dict[str, Any] = {}
        for voice in voices:
            british = hibari.voices.VOICES[voice.id]["british"]
            # Without a path hibari takes the model in its wheel, which only `heart` has.
            model = hibari.Hibari(voice.id, model=voice.path or None, g2p=readers.get(british))
            readers[british] = model.g2p
            model("Ready.")
            self._voices[voice.id] = model

    def speak(self, voice: str, text: str, speed: float) -> Samples:
        import numpy as np

        audio = self._voices[voice](_LONG_NUMBER.sub(lambda digits: " ".join(digits[0]), text), speed=speed)
        samples: Samples = (np.clip(audio, -1.0, 1.0) * 32767.0).astype(np.int16)
        return samples


def make_speaker(voices: list[VoiceFile], delay_ms: float) -> HibariSpeaker:
    """Called in the child."""
    return HibariSpeaker(voices)
