"""Tests of the voice pool: queueing, failures, memory, and speed."""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.support.ask import check_refusal
from tests.support.length import IS_LONG, length
from tests.support.pace import TimeLimit
from tests.support.server import Account, ServerProcess, children_of, eventually
from tests.support.speech import PRICE, RATE_HZ, catalog, speak, start_speaking

CREDIT = 5_000_000_000
NOWHERE = "http://127.0.0.1:9/v1"
SENTENCE = "Sentence number 0000 of many. "
LETTERS = 24
#: 304 characters in three sentences.
PARAGRAPH = (
    "The committee met on the third of March to review the results of the long investigation. Every member had read "
    "the report beforehand, and most of them agreed with its findings, though not with all of its words. In the end "
    "they voted twelve to three in favour of the new plan, and went home for the night."
)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that the test may kill, with one concurrent and one queued text."""
    env = {"MINITOOLAI_SPEECH_VOICES": "1", "MINITOOLAI_SPEECH_QUEUE": "1"}
    with ServerProcess(tmp_path, catalog=catalog(NOWHERE), env=env).start() as server:
        yield server


def progress(account: Account) -> int:
    """Return the characters of the last checkpoint."""
    rows = account.server.read(
        lambda c: c.execute("SELECT coalesce(sum(progress), 0) FROM holds WHERE account_id = ?", (account.id,))
    )
    return int(rows[0][0]) // PRICE


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


# ── queueing and failures ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.acceptance
@pytest.mark.timing
def test_a_busy_pool_queues_then_refuses_and_a_disconnect_frees_a_slot(own_server: ServerProcess) -> None:
    account = own_server.account()
    first = start_speaking(account, model="tone", input=SENTENCE * 500)
    chunks = first.iter_content(100)
    next(chunks)
    heard: list[requests.Response] = []
    second = threading.Thread(target=lambda: heard.append(speak(account, model="tone", input="Hello.")))
    second.start()
    time.sleep(0.3)
    third = speak(account, model="tone", input="Hello.")
    check_refusal(third, 503, "overloaded")
    assert int(third.headers["retry-after"]) >= 1
    assert heard == []
    limit, left_s = TimeLimit(1.0, "s"), time.monotonic()
    first.close()
    second.join(5)
    assert limit.permits(time.monotonic() - left_s), limit
    assert heard[0].status_code == 200
    account.settled()


@pytest.mark.acceptance
def test_after_a_kill_the_last_checkpoint_is_charged(own_server: ServerProcess) -> None:
    account = own_server.account()
    answer = start_speaking(account, model="tone", input=SENTENCE * 500)
    stop = threading.Thread(target=lambda: _read_on(answer))
    stop.start()
    eventually(lambda: progress(account) > 0, within_s=5)
    own_server.kill()
    stop.join(5)
    own_server.start()
    left = account.settled()
    row = own_server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["error_code"]) == ("failed", "interrupted")
    assert CREDIT - left == row["cost"] > 0
    # One checkpoint per second, at most 50 sentences per second: no more than was synthesized.
    assert row["cost"] < row["hold_amount"] / 2


def _read_on(answer: requests.Response) -> None:
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        answer.content  # noqa: B018


@pytest.mark.acceptance
def test_a_stopping_server_finishes_a_text(own_server: ServerProcess) -> None:
    account = own_server.account()
    answer = start_speaking(account, model="tone", input=SENTENCE * 40, response_format="pcm")
    own_server.terminate()
    assert len(answer.content) == 40 * LETTERS * RATE_HZ // 20 * 2
    assert own_server.wait() == 0


# ── long texts and slow readers ───────────────────────────────────────────────────────────────────────────


@pytest.mark.acceptance
@pytest.mark.timing
def test_nothing_is_synthesized_ahead_of_a_caller_that_does_not_read(account: Account) -> None:
    body = json.dumps({"model": "tone", "input": SENTENCE * 6000, "response_format": "pcm"}).encode()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {account.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        caller.connect(("127.0.0.1", account.server.port))
        caller.sendall(head.encode() + body)
        seen: list[int] = []
        # The socket buffers take some audio; then progress stops, and the lease is still renewed.
        eventually(lambda: _stands_still(seen, progress(account)), within_s=25, every_s=1.5)
        time.sleep(10)
        spoken = progress(account)
        assert spoken - seen[-1] <= 2 * len(SENTENCE)
        assert 0 < spoken < 1000 * len(SENTENCE)
        assert account.money().held > 0
    assert account.settled() <= CREDIT - spoken * PRICE


def _stands_still(seen: list[int], now: int) -> bool:
    seen.append(now)
    return now > 0 and len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]


@pytest.mark.acceptance
@pytest.mark.timing
def test_a_long_text_takes_constant_memory(account: Account) -> None:
    """The short form is not compressed, so that as much audio passes through as with a text that is longer."""
    text = (PARAGRAPH + " ") * (length(25_000, 100_000) // (len(PARAGRAPH) + 1))
    answer = start_speaking(account, input=text, speed=2, response_format="flac" if IS_LONG else "wav")
    pids = [account.server.pid, *children_of(account.server.pid)]
    sizes: dict[int, list[float]] = {pid: [] for pid in pids}
    received = 0
    for chunk in answer.iter_content(200_000):
        received += len(chunk)
        for pid in pids:
            sizes[pid].append(resident_mb(pid))
    assert received > 30_000_000, received
    for pid, measured in sizes.items():
        early = max(measured[: len(measured) // 5])
        print(f"process {pid}: {early:.0f} MB after a fifth, {max(measured):.0f} MB at most")
        assert max(measured) < early + 20
    assert account.settled() == CREDIT - len(text) * PRICE


# ── speed ───────────────────────────────────────────────────────────


def in_three_attempts(measure: Callable[[], float], is_good: Callable[[float], bool], limit: object) -> None:
    """Measure up to three times, because other programs on the machine may disturb a measurement."""
    seen: list[float] = []
    for _ in range(3):
        seen.append(measure())
        if is_good(seen[-1]):
            break
    said = f"measured {', '.join(f'{value:.3g}' for value in seen)}; {limit}"
    print(said)
    assert any(map(is_good, seen)), said


def first_byte_ms(account: Account) -> float:
    """Return the median time to first byte over one connection."""
    taken: list[float] = []
    with requests.Session() as session:
        for _ in range(12):
            started_s = time.perf_counter()
            body = {"model": "tts-1", "input": PARAGRAPH}
            url = account.server.url + "/v1/audio/speech"
            chunks = session.post(url, json=body, headers=account.headers, stream=True).iter_content(1000)
            next(chunks)
            taken.append(time.perf_counter() - started_s)
            assert sum(map(len, chunks)) > 10_000
    return statistics.median(taken[2:]) * 1000


@pytest.mark.acceptance
@pytest.mark.timing
def test_the_first_audio_of_300_characters_arrives_within_120_ms(account: Account) -> None:
    limit = TimeLimit(120.0)
    in_three_attempts(lambda: first_byte_ms(account), limit.permits, limit)


@pytest.mark.acceptance
@pytest.mark.timing
def test_synthesis_is_more_than_ten_times_faster_than_real_time(account: Account) -> None:
    def ms_for_a_second() -> float:
        started_s = time.perf_counter()
        audio = speak(account, input=(PARAGRAPH + " ") * 5).content
        return (time.perf_counter() - started_s) * 1000 / (len(audio) / 8000)

    limit = TimeLimit(100.0)
    in_three_attempts(ms_for_a_second, limit.permits, limit)


@pytest.mark.acceptance
@pytest.mark.timing
def test_speech_hardly_delays_a_chat(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        account = server.account("50.00")
        first_token_s(account)

        def ratio() -> float:
            # Alternate, so that the load of the machine affects both alike.
            alone, beside = [], []
            for _ in range(11):
                alone.append(first_token_s(account))
                beside.append(first_token_beside_speech_s(account))
            return statistics.median(beside) / statistics.median(alone)

        in_three_attempts(ratio, lambda found: found <= 1.3, "at most 1.3")


def first_token_s(account: Account) -> float:
    """Return the seconds from the request to the first word of the embedded model."""
    body = {
        "model": "gpt-4o-mini",
        "max_completion_tokens": 2,
        "messages": [{"role": "user", "content": "Which planet has the most moons?"}],
    }
    started_s = time.perf_counter()
    url = account.server.url + "/api/chat-completions/"
    with requests.post(url, json=body, headers=account.headers, stream=True, timeout=60) as answer:
        for line in answer.iter_lines():
            if b'"content":"' in line and b'"content":""' not in line:
                took_s = time.perf_counter() - started_s
                for _ in answer.iter_lines():
                    pass
                return took_s
    raise AssertionError("no token came")


def first_token_beside_speech_s(account: Account) -> float:
    """Return the same while a text is being synthesized."""
    chunks = start_speaking(account, input=(PARAGRAPH + " ") * 60).iter_content(65_536)
    next(chunks)
    stop = threading.Event()
    listener = threading.Thread(target=_listen, args=(chunks, stop))
    listener.start()
    try:
        return first_token_s(account)
    finally:
        stop.set()
        listener.join()


def _listen(chunks: Iterator[bytes], stop: threading.Event) -> None:
    for _ in chunks:
        if stop.is_set():
            return


# ── idempotency ───────────────────────────────────────────────────────────────────────────────────────────────


def test_speech_with_one_idempotency_key_is_synthesized_and_charged_once(account: Account) -> None:
    headers = {**account.headers, "idempotency-key": "say-it-once"}
    body = {"model": "tone", "input": "Hello there.", "response_format": "mp3"}
    url = account.server.url + "/v1/audio/speech"
    responses = [requests.post(url, json=body, headers=headers, timeout=60) for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 200]
    assert responses[1].content == responses[0].content
    types = [response.headers["content-type"] for response in responses]
    assert types == ["audio/mpeg", "audio/mpeg"]
    assert responses[1].headers["idempotent-replayed"] == "true"
    charges = account.server.read(
        lambda c: c.execute("SELECT amount FROM transfers WHERE debit = ? AND kind = 'usage'", (account.id,))
    )
    assert len(charges) == 1
    body["input"] = "Goodbye."
    assert requests.post(url, json=body, headers=headers, timeout=60).status_code == 422
