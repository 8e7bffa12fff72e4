"""The embedded speech engines, one voice pool each: hibari-tts, Piper, and a deterministic fake for tests.

A registry maps the kinds of the catalog to pools, for the parent, and to synthesizers, for the child process. Importing
this module imports none of their libraries.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minitoolai.core.catalog import VoiceEntry
from minitoolai.engines.speech.encoding import RATE_HZ
from minitoolai.engines.speech.messages import Synthesizer, VoiceFile
from minitoolai.engines.speech.pool import VoicePool, is_installed

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import Samples

# ── hibari-tts: the embedded voice ────────────────────────────────────────────────────────────────────────────

#: hibari reads numbers of up to 36 digits. Split longer ones into digits.
_LONG_NUMBER = re.compile(r"\d{25,}")


class HibariEngine(VoicePool):
    """The model in hibari's wheel, and voices from the operator's files. Never uses hibari's download of voices."""

    kind = "hibari"

    def why_not_ready(self) -> str | None:
        if not is_installed("hibari"):
            return "no hibari: pip install hibari-tts"
        return super().why_not_ready()

    def is_bundled(self, voice: VoiceEntry) -> bool:
        return voice.id == "heart"


class HibariSynthesizer:
    """One model per voice and one text reader per spelling, in the child process."""

    def __init__(self, voices: list[VoiceFile]) -> None:
        import hibari
        import hibari.voices

        readers: dict[bool, Any] = {}
        self._voices: dict[str, Any] = {}
        for voice in voices:
            british = hibari.voices.VOICES[voice.id]["british"]
            # Without a path hibari uses the model in its wheel, which only contains `heart`.
            model = hibari.Hibari(voice.id, model=voice.path or None, g2p=readers.get(british))
            readers[british] = model.g2p
            model("Ready.")
            self._voices[voice.id] = model

    def speak(self, voice: str, text: str, speed: float) -> Samples:
        import numpy as np

        audio = self._voices[voice](_LONG_NUMBER.sub(lambda digits: " ".join(digits[0]), text), speed=speed)
        samples: Samples = (np.clip(audio, -1.0, 1.0) * 32767.0).astype(np.int16)
        return samples


# ── Piper: the operator's voice files, with the extra `minitoolai[piper]` ─────────────────────────────────────


class PiperEngine(VoicePool):
    """Voices from files `NAME.onnx`, each with its `NAME.onnx.json`."""

    kind = "piper"

    def why_not_ready(self) -> str | None:
        if not is_installed("piper"):
            return "no piper: pip install 'minitoolai[piper]'"
        return super().why_not_ready()

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        path = self.path_of(voice)
        if path and Path(path).is_file() and not Path(path + ".json").is_file():
            return f"no file {path}.json, which tells piper how to use {Path(path).name}"
        return super().why_not_voice(voice)


class PiperSynthesizer:
    """One model per voice, in the child process."""

    def __init__(self, voices: list[VoiceFile]) -> None:
        from piper import PiperVoice

        self._voices: dict[str, Any] = {voice.id: PiperVoice.load(voice.path) for voice in voices}

    def speak(self, voice: str, text: str, speed: float) -> Samples:
        import numpy as np
        from piper import SynthesisConfig

        # Scale the model's own pace, which is not 1 for all voices.
        model = self._voices[voice]
        length = (getattr(model.config, "length_scale", None) or 1.0) / speed
        chunks = list(model.synthesize(text, SynthesisConfig(length_scale=length)))
        if not chunks:
            return np.zeros(0, np.int16)
        audio = np.concatenate([chunk.audio_int16_array for chunk in chunks])
        return resample(audio, chunks[0].sample_rate)


def resample(samples: Samples, rate_hz: int) -> Samples:
    """Convert audio to 24 kHz through its spectrum, which loses nothing that 24 kHz can represent."""
    import numpy as np

    if rate_hz == RATE_HZ or not len(samples):
        return samples
    # A second of silence at the end prevents wrap-around; whole seconds give both rates an integer length.
    seconds = len(samples) // rate_hz + 2
    spectrum = np.fft.rfft(samples, seconds * rate_hz)
    bins = seconds * RATE_HZ // 2 + 1
    audio = np.fft.irfft(spectrum[:bins], seconds * RATE_HZ) * (RATE_HZ / rate_hz)
    length = round(len(samples) * RATE_HZ / rate_hz)
    return np.clip(np.rint(audio[:length]), -32768, 32767).astype(np.int16)


# ── a deterministic fake: a tone of 50 ms per letter ──────────────────────────────────────────────────────────

SECONDS_PER_LETTER = 0.05
#: A sentence with the first word cannot be synthesized; one with the second kills the child process.
FAILS = "unspeakable"
DIES = "deadly"


class FakeSpeechEngine(VoicePool):
    """Accepts any voice, and runs in the real child process."""

    kind = "fake"

    def is_bundled(self, voice: VoiceEntry) -> bool:
        return True


class ToneSynthesizer:
    """Generates the tones, in the child process."""

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
        time_s = np.arange(round(letters * SECONDS_PER_LETTER / speed * RATE_HZ)) / RATE_HZ
        return (np.sin(2 * np.pi * 440 * time_s) * 8000).astype(np.int16)


# ── the registry ──────────────────────────────────────────────────────────────────────────────────────────────

#: By the engine kind of the catalog.
VOICE_POOLS: Final[dict[str, type[VoicePool]]] = {
    pool.kind: pool for pool in (HibariEngine, PiperEngine, FakeSpeechEngine)
}
_SYNTHESIZERS: Final[dict[str, Callable[[list[VoiceFile], float], Synthesizer]]] = {
    "hibari": lambda voices, _: HibariSynthesizer(voices),
    "piper": lambda voices, _: PiperSynthesizer(voices),
    "fake": lambda _, delay_ms: ToneSynthesizer(delay_ms / 1000),
}


def make_synthesizer(kind: str, voices: list[VoiceFile], delay_ms: float) -> Synthesizer:
    """Load voices, in the child process. `delay_ms` is the duration of a fake sentence."""
    return _SYNTHESIZERS[kind](voices, delay_ms)
