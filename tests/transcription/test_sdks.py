"""OpenAI's client libraries transcribe with only their base URL changed."""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from minitoolai.core.transcription import TRANSCRIPT_FORMATS
from tests.support.programs import NODE, install_node, program
from tests.support.recordings import FIVE, send, tone
from tests.support.server import Account

FIVE_SECONDS = tone(5)


@pytest.fixture
def client(account: Account) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=account.server.url + "/v1", api_key=account.key, max_retries=0) as client:
        yield client


def expected(account: Account, form: str) -> str:
    return send(account, FIVE_SECONDS, response_format=form).text


@pytest.mark.parametrize("form", TRANSCRIPT_FORMATS)
def test_the_python_client_reads_five_formats(account: Account, client: openai.OpenAI, form: str) -> None:
    answer = client.audio.transcriptions.create(model="heard", file=("a.wav", FIVE_SECONDS), response_format=form)  # type: ignore[call-overload]
    if form in ("json", "verbose_json"):
        assert answer.text == FIVE
        assert answer.usage.seconds == 5
    else:
        assert answer == expected(account, form)
    if form == "verbose_json":
        assert [segment.text for segment in answer.segments][:2] == [" one", " two"]
        assert answer.duration == 5


def test_the_python_client_reads_words_events_and_translations(client: openai.OpenAI) -> None:
    told = client.audio.transcriptions.create(
        model="heard", file=("a.wav", FIVE_SECONDS), response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert told.words is not None
    assert [word.word for word in told.words] == FIVE.split()
    stream = client.audio.transcriptions.create(model="heard", file=("a.wav", FIVE_SECONDS), stream=True)
    found = list(stream)
    assert "".join(event.delta for event in found if event.type == "transcript.text.delta") == FIVE
    assert found[-1].type == "transcript.text.done"
    with warnings.catch_warnings():
        # The client calls the whole endpoint deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        assert client.audio.translations.create(model="heard", file=("a.wav", FIVE_SECONDS)).text == FIVE


def test_the_python_client_knows_our_refusals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.audio.transcriptions.create(model="heard", file=("a.wav", b"no recording"))
    assert (refusal.value.param, refusal.value.code) == ("file", "invalid_file")


@pytest.mark.acceptance
@pytest.mark.parametrize("form", [*TRANSCRIPT_FORMATS, "stream"])
def test_the_node_client_reads_five_formats_and_events(account: Account, tmp_path: Path, form: str) -> None:
    install_node()
    file = tmp_path / "a.wav"
    file.write_bytes(FIVE_SECONDS)
    command = [program("node"), "transcribe.mjs", account.server.url + "/v1", account.key, "heard", form, str(file)]
    said = subprocess.run(command, cwd=NODE, check=True, timeout=60, capture_output=True, text=True).stdout
    if form == "stream":
        found = [json.loads(line) for line in said.splitlines()]
        assert "".join(event.get("delta", "") for event in found) == FIVE == found[-1]["text"]
    elif "json" in form:
        assert json.loads(said)["text"] == FIVE
    else:
        assert said == expected(account, form) + "\n"
