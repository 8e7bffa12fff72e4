"""A speaker for the real child process that does what the text says: hang, or be slow."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minitoolai.engines.encoding import Samples
    from minitoolai.engines.voice_process import VoiceFile


class OddSpeaker:
    """In the child."""

    def speak(self, voice: str, text: str, speed: float) -> Samples:
        """`block` never ends; `crawl 3` takes three seconds with hardly any processor time."""
        import numpy as np

        how, _, seconds = text.partition(" ")
        if how == "block":
            threading.Event().wait()
        if how == "crawl":
            end_s = time.monotonic() + float(seconds)
            while time.monotonic() < end_s:
                # As a process that a busy machine lets run now and then.
                time.sleep(0.05)
        return np.ones(100, np.int16)


def make_speaker(voices: list[VoiceFile], delay_ms: float) -> OddSpeaker:
    """Called in the child."""
    return OddSpeaker()
