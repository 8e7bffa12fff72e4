"""Sentences as samples: whole, or made by hibari's model as they are read, so that the first sound need not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from minitoolai.engines.speech.encoding import Samples

#: A part is computed with this many more frames on each side, which its first and last windows reach into.
_MARGIN = 4


class WholeSound:
    """Samples that exist already."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._at = 0

    @property
    def length(self) -> int:
        return len(self._samples)

    def read(self, samples: int) -> Samples:
        part = self._samples[self._at : self._at + samples]
        self._at += len(part)
        return part


class HibariSound:
    """A sentence by hibari. Its network runs at the start; the samples are computed from its output on request.

    The same as hibari's own `dsp.synth`, in parts: each needs the frames beside it, and the noise of shared frames is
    kept, so that no part differs from the whole.
    """

    def __init__(self, model: Any, text: str, speed: float) -> None:
        import numpy as np

        self._parts = [
            _Utterance(
                model.sess.run(
                    None,
                    {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)},
                )
            )
            for phonemes in model.phonemize(text)
            if len(ids := model.ids(phonemes)) > 2
        ]
        self.length = sum(part.length for part in self._parts)

    def read(self, samples: int) -> Samples:
        import numpy as np

        blocks: list[NDArray[np.int16]] = []
        while samples > 0 and self._parts:
            block = self._parts[0].read(samples)
            if len(block):
                blocks.append(block)
                samples -= len(block)
            else:
                self._parts.pop(0)
        return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)


class _Utterance:
    """The output of one run of the network."""

    def __init__(self, outputs: list[NDArray[np.float32]]) -> None:
        import numpy as np
        from hibari import dsp

        *spectra, f0 = (output[0] for output in outputs)
        self._spectra = spectra
        self._frames = len(f0)
        self.length = self._frames * dsp.HOP
        self._pulses = dsp.pulses(f0)
        self._random = np.random.default_rng()
        #: Noise of the frames from `_noise_from` on, as far as it has been drawn.
        self._noise = np.zeros((spectra[0].shape[0], 0), np.complex64)
        self._noise_from = 0
        self._at = 0

    def read(self, samples: int) -> Samples:
        """Return up to this many further samples, in whole frames unless they are the last."""
        import numpy as np
        from hibari import dsp

        first = self._at // dsp.HOP
        last = min(self._frames, -(-(self._at + samples) // dsp.HOP))
        begin, end = max(0, first - _MARGIN), min(self._frames, last + _MARGIN)
        audio = self._synthesize(begin, end)
        start = self._at - begin * dsp.HOP
        part = audio[start : min(start + samples, last * dsp.HOP - begin * dsp.HOP)]
        self._at += len(part)
        return (np.clip(part, -1.0, 1.0) * 32767.0).astype(np.int16)

    def _synthesize(self, begin: int, end: int) -> NDArray[np.float32]:
        """Return the samples of these frames; those near a cut are wrong."""
        import numpy as np
        from hibari import dsp

        harmonic, turn, noise, free, phase = (each[:, begin:end] for each in self._spectra)
        pulses = self._pulses[begin * dsp.HOP : end * dsp.HOP]
        spectrum = dsp.stft(pulses, end - begin)
        rotation = np.empty(harmonic.shape, np.complex64)
        angle = np.tanh(turn) * np.float32(np.pi)
        np.cos(angle, out=rotation.real)
        np.sin(angle, out=rotation.imag)
        spectrum *= rotation * dsp.ex(harmonic)
        spectrum += self._noise_of(begin, end) * dsp.ex(noise)
        np.cos(phase, out=rotation.real)
        np.sin(phase, out=rotation.imag)
        spectrum += rotation * dsp.ex(free)
        audio: NDArray[np.float32] = dsp.ola(spectrum)
        return audio

    def _noise_of(self, begin: int, end: int) -> NDArray[np.complex64]:
        import numpy as np

        kept = self._noise[:, begin - self._noise_from :]
        bins, missing = len(kept), end - begin - kept.shape[1]
        drawn = self._random.standard_normal((bins, 2 * missing), dtype=np.float32).view(np.complex64)
        self._noise, self._noise_from = np.concatenate([kept, drawn], axis=1), begin
        return self._noise
