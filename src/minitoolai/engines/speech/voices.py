"""The embedded speech engines, one voice pool each: hibari-tts, Piper, and a deterministic fake for tests.

A registry maps the kinds of the catalog to pools, for the parent, and to synthesizers, for the child process. Importing
this module imports none of their libraries.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from minitoolai.core.catalog.catalog import VoiceEntry, language_of
from minitoolai.engines.speech import stretch
from minitoolai.engines.speech.encoding import RATE_HZ
from minitoolai.engines.speech.messages import Sound, Synthesizer, VoiceFile
from minitoolai.engines.speech.pool import VoicePool, is_installed
from minitoolai.engines.speech.sound import HibariSound, WholeSound

# ── hibari-tts: the embedded voice ────────────────────────────────────────────────────────────────────────────


class HibariEngine(VoicePool):
    """The model in hibari's wheel, and voices from the operator's files. Never uses hibari's download of voices."""

    kind = "hibari"

    def why_not_ready(self) -> str | None:
        if not self.is_placed and not is_installed("hibari"):
            return "no hibari: pip install hibari-tts"
        return super().why_not_ready()

    def is_bundled(self, voice: VoiceEntry) -> bool:
        return voice.id == "heart" or voice.id.startswith("heart-")


class HibariSynthesizer:
    """One model per file and one text reader per spelling, in the child process."""

    dictionary: Callable[[str], bool] | None
    expects_languages = True

    def __init__(self, voices: list[VoiceFile]) -> None:
        import hibari
        import hibari.voices

        from minitoolai.engines.speech.reading.language import dictionary_of

        readers: dict[bool, Any] = {}
        models: dict[tuple[str, str], Any] = {}
        self._voices: dict[str, tuple[Any, float]] = {}
        for voice in voices:
            name = voice.id if voice.id in hibari.voices.VOICES else voice.id.partition("-")[0]
            british = hibari.voices.VOICES[name]["british"]
            model = models.get((name, voice.path))
            if model is None:
                # Without a path hibari uses the model in its wheel, which only contains `heart`.
                model = hibari.Hibari(name, model=voice.path or None, g2p=readers.get(british))
                readers[british], models[name, voice.path] = model.g2p, model
                model("Ready.")
            self._voices[voice.id] = model, voice.pitch
        lexicons = [reader.lexicon for reader in readers.values()]
        self.dictionary = dictionary_of([table for each in lexicons for table in (each.golds, each.silvers)])

    def speak(self, voice: str, text: str, speed: float) -> Sound:
        # Imported in the child process only.
        from minitoolai.engines.speech.reading.spoken_text import speakable

        model, pitch = self._voices[voice]
        base = stretch.base_speed(speed)
        sound = HibariSound(model, speakable(text), base)
        if speed == base and pitch == 1:
            return sound
        return WholeSound(stretch.retimed(sound.read(sound.length), speed / base, pitch))


# ── Piper: the operator's voice files, with the extra `minitoolai[piper]` ─────────────────────────────────────


class PiperEngine(VoicePool):
    """Voices from files `NAME.onnx`, each with its `NAME.onnx.json`."""

    kind = "piper"

    def why_not_ready(self) -> str | None:
        if not self.is_placed and not is_installed("piper"):
            return "no piper: pip install 'minitoolai[piper]'"
        return super().why_not_ready()

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        path = self.path_of(voice)
        if not self.is_placed and path and Path(path).is_file() and not Path(path + ".json").is_file():
            return f"no file {path}.json, which tells piper how to use {Path(path).name}"
        return super().why_not_voice(voice)


class PiperSynthesizer:
    """One model per voice, in the child process."""

    dictionary: Callable[[str], bool] | None = None
    expects_languages = True

    def __init__(self, voices: list[VoiceFile]) -> None:
        from piper import PiperVoice

        self._voices = {voice.id: (PiperVoice.load(voice.path), voice) for voice in voices}

    def speak(self, voice: str, text: str, speed: float) -> Sound:
        import numpy as np
        from piper import SynthesisConfig

        from minitoolai.engines.speech.reading.spoken_text import speakable

        # Scale the model's own pace, which is not 1 for all voices.
        model, entry = self._voices[voice]
        length = getattr(model.config, "length_scale", None) or 1.0
        text = speakable(text) if language_of(entry.language) == "en" else text
        chunks = list(model.synthesize(text, SynthesisConfig(length_scale=length)))
        if not chunks:
            return WholeSound(np.zeros(0, np.int16))
        audio = np.concatenate([chunk.audio_int16_array for chunk in chunks])
        return WholeSound(stretch.retimed(stretch.resample(audio, chunks[0].sample_rate), speed, entry.pitch))


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

    dictionary: Callable[[str], bool] | None = None
    expects_languages = False

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def speak(self, voice: str, text: str, speed: float) -> Sound:
        import numpy as np

        time.sleep(self._delay_s)
        if FAILS in text:
            raise ValueError(text)
        if DIES in text:
            raise SystemExit(1)
        letters = sum(character.isalnum() for character in text)
        time_s = np.arange(round(letters * SECONDS_PER_LETTER / speed * RATE_HZ)) / RATE_HZ
        return WholeSound((np.sin(2 * np.pi * 440 * time_s) * 8000).astype(np.int16))


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
