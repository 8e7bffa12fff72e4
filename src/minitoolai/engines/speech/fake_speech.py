"""A deterministic voice for tests and load: a tone of 50 ms for each character, in the real child process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from minitoolai.core.catalog import VoiceEntry
from minitoolai.engines.speech.child import VoiceFile
from minitoolai.engines.speech.encoding import RATE_HZ
from minitoolai.engines.speech.pool import VoicePool

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import Samples

SECONDS_PER_CHARACTER = 0.05
#: A sentence that holds this word cannot be spoken; one that holds the next kills the process.
FAILS = "unspeakable"
DIES = "deadly"


class FakeSpeechEngine(VoicePool):
    """Speaks any voice."""

    module = "minitoolai.engines.speech.fake_speech"

    def is_bundled(self, voice: VoiceEntry) -> bool:
        return True


class ToneSpeaker:
    """In the child."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def speak(self, voice: str, text: str, speed: float) -> Samples:
        import numpy as np

        time.sleep(self._delay_s)
        if FAILS in text:
            raise ValueError(text)
        if DIES in text:
            raise SystemExit(1)
        letters = sum(character.isalnum() for character in text)
        time_s = np.arange(round(letters * SECONDS_PER_CHARACTER / speed * RATE_HZ)) / RATE_HZ
        return (np.sin(2 * np.pi * 440 * time_s) * 8000).astype(np.int16)


def make_speaker(voices: list[VoiceFile], delay_ms: float) -> ToneSpeaker:
    """Called in the child."""
    return ToneSpeaker(delay_ms / 1000)
