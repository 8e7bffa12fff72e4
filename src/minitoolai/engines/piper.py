"""Piper: the operator's own voice files, through the extra `minitoolai[piper]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitoolai.core.voices import VoiceEntry
from minitoolai.engines.encoding import RATE_HZ
from minitoolai.engines.voice_pool import VoicePool, is_installed
from minitoolai.engines.voice_process import VoiceFile

if TYPE_CHECKING:
    from minitoolai.engines.encoding import Samples


class PiperEngine(VoicePool):
    """Speaks with `NAME.onnx` beside its `NAME.onnx.json`."""

    module = "minitoolai.engines.piper"

    def why_not_ready(self) -> str | None:
        if not is_installed("piper"):
            return "no piper: pip install 'minitoolai[piper]'"
        return super().why_not_ready()

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        path = self.path_of(voice)
        if path and Path(path).is_file() and not Path(path + ".json").is_file():
            return f"no file {path}.json, which tells piper how to use {Path(path).name}"
        return super().why_not_voice(voice)


class PiperSpeaker:
    """In the child: one model a voice."""

    def __init__(self, voices: list[VoiceFile]) -> None:
        self._voices: dict[str, Any] = {voice.id: load_voice(voice.path) for voice in voices}

    def speak(self, voice: str, text: str, speed: float) -> Samples:
        import numpy as np
        from piper import SynthesisConfig

        # Piper stretches the model's own pace, which is not 1 for every voice.
        model = self._voices[voice]
        length = (getattr(model.config, "length_scale", None) or 1.0) / speed
        chunks = list(model.synthesize(text, SynthesisConfig(length_scale=length)))
        if not chunks:
            return np.zeros(0, np.int16)
        audio = np.concatenate([chunk.audio_int16_array for chunk in chunks])
        return resampled(audio, chunks[0].sample_rate)


def load_voice(path: str) -> Any:
    """Load a voice on one thread. Piper takes one per core, and those loop while they wait for each other."""
    import onnxruntime
    from piper import PiperConfig, PiperVoice

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    config = PiperConfig.from_dict(json.loads(Path(path + ".json").read_text("utf-8")))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return PiperVoice(config=config, session=session)


def resampled(samples: Samples, rate_hz: int) -> Samples:
    """The same sound at 24 kHz, by way of its spectrum: nothing is lost but what 24 kHz cannot hold."""
    import numpy as np

    if rate_hz == RATE_HZ or not len(samples):
        return samples
    # A second of silence behind it keeps the end from leaking into the beginning; whole seconds make both lengths fit.
    seconds = len(samples) // rate_hz + 2
    spectrum = np.fft.rfft(samples, seconds * rate_hz)
    bins = seconds * RATE_HZ // 2 + 1
    audio = np.fft.irfft(spectrum[:bins], seconds * RATE_HZ) * (RATE_HZ / rate_hz)
    length = round(len(samples) * RATE_HZ / rate_hz)
    return np.clip(np.rint(audio[:length]), -32768, 32767).astype(np.int16)


def make_speaker(voices: list[VoiceFile], delay_ms: float) -> PiperSpeaker:
    """Called in the child."""
    return PiperSpeaker(voices)
