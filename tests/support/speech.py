"""Speech for tests: the catalog, requests, and decoding with ffmpeg and sox."""

from __future__ import annotations

import subprocess
from typing import Any

import requests

from tests.support.programs import program
from tests.support.server import Account

RATE_HZ = 24_000
PRICE = 15_000
#: Five to eight seconds when spoken; numbers and an abbreviation in it.
CLIP = "Every member had read the report beforehand, and most of them agreed with its findings. Dr. Smith paid $3.50."


def catalog(base_url: str) -> str:
    """Return a catalog: `tts-1` is the embedded voice, `tone` a fake one, `away` the upstream at `base_url`."""
    return f"""
[engines.hibari]
kind = "hibari"
model = "hibari-0.2"

[engines.tone]
kind = "fake"
model = "tone-1"
delay_ms = 20

[engines.away]
kind = "upstream"
base_url = "{base_url}"
max_characters = 100
names = {{ away = "tts-far-away" }}

[engines.piper]
kind = "piper"
model = "piper"

[chat.quick]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = ["tone"]

[speech."tts-1"]
price = "15.00"
max_characters = 200_000
voice = "heart"
voices = [
  {{ id = "heart", engine = "hibari", language = "en-US", licence = "Apache-2.0", aliases = ["alloy", "fable"] }},
  {{ id = "emma", engine = "hibari", language = "en-GB", licence = "Apache-2.0", file = "bf_emma.int8.onnx" }},
]

[speech.tone]
price = "15.00"
max_characters = 200_000
voice = "tone"
voices = [{{ id = "tone", engine = "tone", language = "en", licence = "none" }}]

[speech.away]
price = "15.00"
max_characters = 200_000
voice = "alloy"
voices = [{{ id = "alloy", engine = "away", language = "*", licence = "theirs" }}]

[speech.silent]
price = "15.00"
max_characters = 200_000
voice = "joe"
voices = [{{ id = "joe", engine = "piper", language = "en-US", licence = "CC0-1.0", file = "nowhere.onnx" }}]
"""


def speak(account: Account, path: str = "/v1/audio/speech", **fields: Any) -> requests.Response:
    """Request speech and return the whole response. The default is `tts-1` and CLIP."""
    body = {"model": "tts-1", "input": CLIP, **fields}
    return requests.post(account.server.url + path, json=body, headers=account.headers, timeout=60)


def start_speaking(account: Account, path: str = "/v1/audio/speech", **fields: Any) -> requests.Response:
    """Request speech and return as soon as the head arrives. The caller closes the response."""
    body = {"model": "tts-1", "input": CLIP, **fields}
    return requests.post(account.server.url + path, json=body, headers=account.headers, timeout=60, stream=True)


def decoded(audio: bytes, form: str) -> int:
    """Return the number of samples at 24 kHz that ffmpeg decodes. Fails on any warning."""
    as_raw = ["-f", "s16le", "-ar", str(RATE_HZ), "-ac", "1"]
    source = as_raw if form == "pcm" else []
    command = [program("ffmpeg"), "-v", "error", *source, "-i", "-", *as_raw, "-"]
    done = subprocess.run(command, input=audio, capture_output=True, check=True, timeout=60)
    assert done.stderr == b"", done.stderr
    return len(done.stdout) // 2


def decoded_by_sox(audio: bytes, form: str) -> int:
    """Return the number of samples that sox decodes from a wav or flac."""
    command = [program("sox"), "-V1", "-t", form, "--ignore-length", "-", "-t", "raw", "-e", "signed", "-b", "16", "-"]
    done = subprocess.run(command, input=audio, capture_output=True, check=True, timeout=60)
    return len(done.stdout) // 2
