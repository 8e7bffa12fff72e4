"""Recordings for tests: made on the spot, sent as forms; and the catalog of their server."""

from __future__ import annotations

import subprocess
import wave
from io import BytesIO
from typing import Any

import numpy as np
import requests

from tests.support.programs import program
from tests.support.server import Account

RATE_HZ = 16_000
#: Nano-dollars per second of `whisper-1` and of the fake.
PRICE = 100_000
#: What the fake hears in five seconds.
FIVE = "one two three four five"


def catalog(base_url: str, whisper: str = "") -> str:
    """Return a catalog: `heard` is a fake, `far-*` the upstream at `base_url`, `whisper-1` a model of a folder."""
    embedded = f'\n[engines.whisper]\nkind = "whisper"\nmodel = "whisper-tiny.en"\nfile = "{whisper}"\n'
    model = '\n[transcription."whisper-1"]\nprice = "0.006"\ntranslates = true\nengines = ["whisper"]\n'
    return f"""
[engines.fake]
kind = "fake"
model = "fake-1"

[engines.slow]
kind = "fake"
model = "fake-slow"
delay_ms = 400

[engines.far]
kind = "upstream"
base_url = "{base_url}"
names = {{ far-whisper = "whisper-large" }}
costs = {{ far-whisper = {{ input = "50" }} }}

[engines.closed]
kind = "upstream"
base_url = "{base_url}"
needs_key = true

[chat.quick]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = ["fake"]

[transcription.heard]
price = "0.006"
translates = true
max_seconds = 3600
engines = ["fake"]

[transcription.slow]
price = "0.006"
engines = ["slow"]

[transcription.far-whisper]
price = "0.006"
translates = true
engines = ["far"]

[transcription.far-text]
price = "0.003"
formats = ["json"]
engines = ["far"]

[transcription.absent]
price = "0.006"
engines = ["closed"]
{embedded + model if whisper else ""}"""


def tone(seconds: float, rate_hz: int = RATE_HZ) -> bytes:
    """Return a wav of this length."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return wav((np.sin(2 * np.pi * 440 * times) * 8000).astype("<i2"), rate_hz)


def wav(samples: Any, rate_hz: int = RATE_HZ) -> bytes:
    """Return 16-bit samples as a wav."""
    out = BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return out.getvalue()


def converted(source: bytes, container: str, *options: str) -> bytes:
    """Return a recording in another container, by ffmpeg."""
    command = [program("ffmpeg"), "-v", "error", "-i", "-", *options, "-f", container, "-"]
    return subprocess.run(command, input=source, capture_output=True, check=True, timeout=60).stdout


def film() -> bytes:
    """Return a video of one second without sound."""
    picture = ["-f", "lavfi", "-i", "color=size=64x64:rate=5:duration=1"]
    command = [program("ffmpeg"), "-v", "error", *picture, "-f", "matroska", "-"]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def send(
    account: Account,
    audio: bytes | None,
    path: str = "/v1/audio/transcriptions",
    *,
    name: str = "clip.wav",
    headers: dict[str, str] | None = None,
    stream: bool = False,
    **fields: Any,
) -> requests.Response:
    """Send a form. The model is `heard` by default; a list sends a field several times; None leaves a field out.

    `stream` is that of requests; the field of that name is `streamed`.
    """
    form = {"model": "heard", **fields}
    if "streamed" in form:
        form["stream"] = form.pop("streamed")
    files = None if audio is None else {"file": (name, audio)}
    data = {key: value for key, value in form.items() if value is not None}
    return requests.post(
        account.server.url + path,
        data=data,
        files=files or {"": ("", b"")},
        headers=account.headers | (headers or {}),
        timeout=300,
        stream=stream,
    )


def events(text: str) -> list[dict[str, Any]]:
    """Return the data of each event."""
    from tests.support.ask import events as read

    return read(text)


def without(audio: bytes, share: float) -> bytes:
    """Return the beginning of a file, as after a connection that broke."""
    return audio[: int(len(audio) * (1 - share))]
