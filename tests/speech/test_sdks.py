"""OpenAI's client libraries create speech with only their base URL changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import openai
import pytest

from tests.support.programs import NODE, install_node, program
from tests.support.server import Account
from tests.support.speech import CLIP, RATE_HZ, decoded, speak

FORMATS = ("mp3", "wav", "flac", "opus", "pcm")


@pytest.fixture(scope="session")
def node() -> Path:
    """Return the folder of Node programs, with OpenAI's package installed."""
    install_node()
    return NODE


@pytest.mark.parametrize("form", FORMATS)
def test_the_python_client_streams_to_a_file(account: Account, tmp_path: Path, form: str) -> None:
    samples = len(speak(account, response_format="pcm").content) // 2
    with (
        openai.OpenAI(base_url=account.server.url + "/v1", api_key=account.key, max_retries=0) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1",
            voice="alloy",
            input=CLIP,
            response_format=form,  # type: ignore[arg-type]
        ) as answer,
    ):
        answer.stream_to_file(tmp_path / "clip")
    assert samples >= 5 * RATE_HZ
    assert decoded((tmp_path / "clip").read_bytes(), form) == pytest.approx(samples, rel=0.02)


def test_the_python_client_reads_events(account: Account) -> None:
    with (
        openai.OpenAI(base_url=account.server.url + "/v1", api_key=account.key, max_retries=0) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=CLIP, stream_format="sse"
        ) as answer,
    ):
        text = answer.read().decode()
    assert text.count("speech.audio.delta") >= 2
    assert text.count("speech.audio.done") == 1


def test_the_python_client_knows_our_refusals(account: Account) -> None:
    with (
        openai.OpenAI(base_url=account.server.url + "/v1", api_key=account.key, max_retries=0) as client,
        pytest.raises(openai.BadRequestError) as refusal,
    ):
        client.audio.speech.create(model="tts-1", voice="nobody", input="Hello.")
    assert refusal.value.param == "voice"


@pytest.mark.acceptance
@pytest.mark.parametrize("form", FORMATS)
def test_the_node_client_streams_to_a_file(account: Account, node: Path, tmp_path: Path, form: str) -> None:
    samples = len(speak(account, response_format="pcm").content) // 2
    command = [program("node"), "speech.mjs", account.server.url + "/v1", account.key, form, str(tmp_path / "clip")]
    subprocess.run(command, cwd=node, env={**os.environ, "TEXT": CLIP}, check=True, timeout=60)
    assert decoded((tmp_path / "clip").read_bytes(), form) == pytest.approx(samples, rel=0.02)
