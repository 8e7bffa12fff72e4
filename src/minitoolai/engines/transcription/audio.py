"""Read uploaded recordings, in a child process: recognize the container, measure it, decode it to 16 kHz.

Files come from strangers. The container is recognized by its first bytes and opened as exactly that, because FFmpeg's
playlists would open other files and addresses. Nothing is read ahead, so memory does not depend on the length.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Samples = np.ndarray[Any, np.dtype[np.float32]]

RATE_HZ = 16_000
#: Container → FFmpeg's name of its demuxer.
DEMUXERS = {"wav": "wav", "flac": "flac", "ogg": "ogg", "mp3": "mp3", "mp4": "mov", "webm": "matroska", "aac": "aac"}
#: Containers that libsndfile reads, where PyAV is not installed.
_WITHOUT_PYAV = ("wav", "flac", "ogg", "mp3")
#: Least bits of a second of audio. Bounds the length that a short file may claim.
LEAST_BITS_PER_S = 200
SUPPORTED = "flac, m4a, mp3, mp4, ogg, opus, wav and webm"


class UnreadableFile(Exception):
    """The file cannot be read, for a reason that the caller can fix."""


def container_of(path: str) -> str:
    """Return the container by its first bytes. Raise UnreadableFile if it is none of DEMUXERS."""
    with Path(path).open("rb") as file:
        head = file.read(64)
        if head.startswith(b"ID3") and len(head) >= 10:
            # A tag precedes mp3 and AAC alike.
            file.seek(10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)))
            head = file.read(64) or head
    if not head:
        raise UnreadableFile("the file is empty")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    for begin, container in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3"), (b"\x1a\x45\xdf\xa3", "webm")):
        if head.startswith(begin):
            return container
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if head[0] == 0xFF and head[1:2] and head[1] & 0xE0 == 0xE0:
        # The layer is 0 in AAC (ADTS) and 1 to 3 in MPEG audio.
        return "mp3" if head[1] & 0x06 else "aac"
    raise UnreadableFile(f"the file is no audio or video that is supported; send {SUPPORTED}")


def measure(path: str) -> tuple[str, int]:
    """Return the container and the length in milliseconds that its packets declare. Raise UnreadableFile."""
    container = container_of(path)
    size = Path(path).stat().st_size
    if util.find_spec("av") is not None:
        length_ms = _measure_packets(path, container)
    elif container in _WITHOUT_PYAV:
        length_ms = _measure_frames(path)
    else:
        raise UnreadableFile(f"{container} files cannot be read here; send flac, mp3, ogg or wav")
    if length_ms <= 0:
        raise UnreadableFile("the file has no audio in it")
    return container, min(length_ms, size * 8 * 1000 // LEAST_BITS_PER_S)


def _measure_frames(path: str) -> int:
    import soundfile

    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _damaged(error) from error
    return int(info.frames) * 1000 // max(1, int(info.samplerate))


def _measure_packets(path: str, container: str) -> int:
    import av

    try:
        with av.open(path, format=DEMUXERS[container], options={"protocol_whitelist": "file"}) as opened:
            stream = _audio_stream(opened)
            base = stream.time_base or Fraction(1, RATE_HZ)
            ticks, first, last = 0, None, 0
            for packet in opened.demux(stream):
                if packet.size:
                    ticks += max(0, packet.duration or 0)
                if packet.pts is not None:
                    first = packet.pts if first is None else min(first, packet.pts)
                    last = max(last, packet.pts + max(0, packet.duration or 0))
            # Matroska need not give a packet a duration; then the times of the packets tell the length.
            length = max(ticks, last - (first or 0) if first is not None else 0)
            return int(length * base * 1000)
    except av.error.FFmpegError as error:
        raise _damaged(error) from error


def _audio_stream(opened: Any) -> Any:
    if not opened.streams.audio:
        raise UnreadableFile("the file has no audio track")
    return opened.streams.audio[0]


def read_samples(path: str) -> Iterator[Samples]:
    """Yield the audio, mixed to one channel, in blocks. A file that is cut off ends where it is. Raise UnreadableFile.

    Damaged packets are left out, as players do.
    """
    import av
    import numpy as np

    container = container_of(path)
    has_audio = False
    failure: Exception | None = None
    try:
        with av.open(path, format=DEMUXERS[container], options={"protocol_whitelist": "file"}) as opened:
            stream = _audio_stream(opened)
            resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
            for packet in opened.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError as error:
                    failure = error
                    continue
                for frame in [*frames, *([None] if not packet.size else [])]:
                    for resampled in resampler.resample(frame):
                        has_audio = True
                        yield resampled.to_ndarray()[0].astype(np.float32, copy=False)
    except av.error.FFmpegError as error:
        failure = error
    if not has_audio and failure is not None:
        raise _damaged(failure) from failure


def _damaged(error: Exception) -> UnreadableFile:
    del error  # FFmpeg's messages contain the path of the file.
    return UnreadableFile("the file is damaged or incomplete and cannot be decoded; export it again")
