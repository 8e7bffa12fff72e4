"""The child process that looks for watermarks in one file of unknown origin, with bounded memory and CPU time.

Run as `python -m minitoolai.engines.marks.check FILE`. Keys arrive as JSON on standard input; the result is one line of
JSON on standard output.
"""

from __future__ import annotations

import base64
import resource
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_MEMORY_BYTES = 2 * 1024**3
MAX_CPU_S = 60
MAX_PIXELS = 50_000_000
#: So much of a recording is looked at.
MAX_SOUND_S = 60
#: Marks are searched in an image scaled down to this.
MAX_SIDE = 1536
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


class FoundMark(msgspec.Struct, frozen=True):
    """A mark: the index of the key that fits (-1: no key of this installation), its code, and how clear it is."""

    key: int
    code: int
    sync: float
    scale: float


class CheckResult(msgspec.Struct, frozen=True):
    """The marks that were found; `kind` is "image", "sound", or "" for a file that is neither.

    The code of a sound is its day.
    """

    kind: str
    marks: list[FoundMark]
    why: str = ""


def check(path: Path, keys: list[bytes]) -> CheckResult:
    """Return the marks of a file."""
    from minitoolai.engines.marks.image import detect

    grey, why = _luminance(path)
    if grey is None:
        return _check_sound(path, keys) or CheckResult("", [], why)
    found = detect(grey, keys)
    marks = [FoundMark(keys.index(m.key) if m.key else -1, m.code or 0, m.sync, m.scale) for m in found]
    return CheckResult("image", marks)


def _check_sound(path: Path, keys: list[bytes]) -> CheckResult | None:
    """Return the mark of a sound file, or None if it is none that can be read."""
    import numpy as np

    from minitoolai.engines.marks.speech import detect_speech

    samples, why = _samples(path)
    if samples is None:
        return CheckResult("sound", [], why) if why else None
    found = detect_speech((samples / 32768).astype(np.float32), keys)
    if found is None:
        return CheckResult("sound", [])
    return CheckResult(
        "sound", [FoundMark(keys.index(found.key) if found.key else -1, found.day or 0, found.sync, 1.0)]
    )


def _samples(path: Path) -> tuple[NDArray[np.int16] | None, str]:
    """Return the beginning of a recording at 24 kHz, or why there is none: "" if the file is no recording.

    libsndfile is always installed. AAC, MP4 and WebM need PyAV, which comes with the recogniser.
    """
    import soundfile

    from minitoolai.engines.speech.stretch import resample
    from minitoolai.engines.transcription.audio import UnreadableFile, container_of

    try:
        with soundfile.SoundFile(path) as file:
            rate_hz = file.samplerate
            samples = file.read(MAX_SOUND_S * rate_hz, dtype="int16", always_2d=True)[:, 0]
            return resample(samples, rate_hz), ""
    except (soundfile.LibsndfileError, ValueError, MemoryError):
        pass
    try:
        container_of(str(path))
        return (_decoded(path), "") if util.find_spec("av") is not None else (None, "no_decoder")
    except UnreadableFile:
        return None, ""


def _decoded(path: Path) -> NDArray[np.int16]:
    """Decode the beginning of a recording by PyAV. Raise UnreadableFile."""
    import numpy as np

    from minitoolai.engines.speech.stretch import resample
    from minitoolai.engines.transcription.audio import RATE_HZ, UnreadableFile, read_samples

    blocks: list[NDArray[np.float32]] = []
    missing = MAX_SOUND_S * RATE_HZ
    for block in read_samples(str(path)):
        blocks.append(block[:missing])
        missing -= len(block)
        if missing <= 0:
            break
    if not blocks:
        raise UnreadableFile("the file has no audio in it")
    whole = np.clip(np.concatenate(blocks) * 32768, -32768, 32767)
    return resample(whole.astype(np.int16), RATE_HZ)


def _luminance(path: Path) -> tuple[NDArray[np.float32] | None, str]:
    """Return the luminance, or why there is none. Transparent pixels are white."""
    import numpy as np
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None, "too_large"
            image.draft("RGB", (MAX_SIDE, MAX_SIDE))
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                page = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(page, upright.convert("RGBA"))
            plain = upright.convert("L")
            plain.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError):
        return None, "not_an_image"
    return np.asarray(plain, np.float32), ""


def main() -> None:
    """Check the file that the arguments name."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    keys = [base64.b64decode(text) for text in msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])]
    sys.stdout.buffer.write(msgspec.json.encode(check(Path(sys.argv[1]), keys)) + b"\n")


if __name__ == "__main__":
    main()
