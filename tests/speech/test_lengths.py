"""The length of short texts in every format, as told by soundfile, sox, ffmpeg and Chromium."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import soundfile
from playwright.sync_api import Browser, sync_playwright

from tests.support.chromium import chromium as launch
from tests.support.programs import program
from tests.support.server import Account
from tests.support.speech import RATE_HZ, speak

#: Two sentences; wav and flac tell their length nevertheless.
SHORT = "Hello there. This is a short text."
ONE = "This is one sentence of the tone."
TEXTS = pytest.mark.parametrize("text", [ONE, SHORT])
TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac"}


def seconds(text: str) -> float:
    """Return how long the tone of a text is: 50 ms a letter."""
    return sum(map(str.isalnum, text)) * 0.05


def made(account: Account, text: str, form: str) -> bytes:
    answer = speak(account, model="tone", input=text, response_format=form)
    assert answer.status_code == 200
    return answer.content


@TEXTS
@pytest.mark.parametrize("form", ["wav", "flac"])
def test_soundfile_and_sox_read_wav_and_flac_to_the_sample(account: Account, text: str, form: str) -> None:
    audio, samples = made(account, text, form), round(seconds(text) * RATE_HZ)
    assert soundfile.info(BytesIO(audio)).frames == samples
    assert len(soundfile.read(BytesIO(audio))[0]) == samples
    command = [program("sox"), "-t", form, "-", "-n", "stat"]
    told = subprocess.run(command, input=audio, capture_output=True, check=True).stderr.decode()
    assert told.split("Samples read:")[1].split()[0] == str(samples)
    assert "WARN" not in told


@pytest.mark.parametrize("form", ["mp3", "opus"])
def test_soundfile_reads_mp3_and_opus_to_the_sample(account: Account, form: str) -> None:
    audio = soundfile.read(BytesIO(made(account, ONE, form)))[0]
    assert len(audio) == round(seconds(ONE) * RATE_HZ)


@TEXTS
@pytest.mark.parametrize("form", [*TYPES, "pcm"])
def test_ffmpeg_reads_every_format(account: Account, text: str, form: str, tmp_path: Path) -> None:
    # From a file, because ffmpeg ignores the padding of an mp3 in a pipe.
    file = tmp_path / f"speech.{form}"
    file.write_bytes(made(account, text, form))
    raw = ["-f", "s16le", "-ar", str(RATE_HZ), "-ac", "1"]
    command = [program("ffmpeg"), "-v", "error", *(raw if form == "pcm" else []), "-i", str(file), *raw, "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b""
    extra = len(done.stdout) // 2 - round(seconds(text) * RATE_HZ)
    # aac has no field for padding, and neither has mp3 whose length is unknown at its start.
    allowed = 2 * 1024 if form == "aac" else 2 * 1152 if form == "mp3" and text == SHORT else 0
    assert 0 <= extra <= allowed


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


DURATION = """async ({audio, type}) => {
  const player = new Audio();
  player.src = URL.createObjectURL(new Blob([Uint8Array.from(atob(audio), c => c.charCodeAt(0))], {type}));
  await new Promise((resolve, reject) => {
    player.onloadedmetadata = resolve;
    player.onerror = () => reject(player.error.message);
  });
  return player.duration;
}"""


@pytest.mark.parametrize("form", TYPES)
def test_chromium_shows_the_length(account: Account, browser: Browser, form: str) -> None:
    page = browser.new_page()
    if not page.evaluate("type => new Audio().canPlayType(type)", TYPES[form]):
        assert form == "aac", "Chromium is built without this codec"
        return
    audio = base64.b64encode(made(account, ONE, form)).decode()
    shown: Any = page.evaluate(DURATION, {"audio": audio, "type": TYPES[form]})
    # An aac stream does not tell its length, so the browser guesses it from the bit rate.
    assert shown == pytest.approx(
        seconds(ONE), abs=0.001 if form in ("wav", "flac") else 0.1 if form != "aac" else 1.0
    ), json.dumps(shown)
