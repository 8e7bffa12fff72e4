"""An OpenAI-compatible server as the engine: what it receives, what is made of its answer, and what is charged."""

from __future__ import annotations

import socket
from email import message_from_bytes
from typing import Any

import pytest

from tests.support.ask import check_refusal
from tests.support.recordings import PRICE, converted, events, send, tone
from tests.support.server import Account, eventually
from tests.support.upstream import Behaviour, Exchange, Upstream

CREDIT = 5_000_000_000
FIVE_SECONDS = tone(5)
SEGMENTS = [
    {"id": 0, "seek": 0, "start": 0.0, "end": 2.5, "text": " Hello there.", "tokens": [1, 2], "temperature": 0.0,
     "avg_logprob": -0.2, "compression_ratio": 1.1, "no_speech_prob": 0.01},
    {"id": 1, "seek": 0, "start": 2.5, "end": 5.0, "text": " Good night.", "tokens": [3], "temperature": 0.0,
     "avg_logprob": -0.3, "compression_ratio": 1.2, "no_speech_prob": 0.02},
]  # fmt: skip
WORDS = [
    {"word": word, "start": float(n), "end": n + 0.9} for n, word in enumerate(("Hello", "there", "Good", "night"))
]
VERBOSE = {
    "task": "transcribe",
    "language": "english",
    "duration": 5.0,
    "text": "Hello there. Good night.",
    "segments": SEGMENTS,
    "words": WORDS,
}


def answers(body: dict[str, Any] | bytes, status: int = 200) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        exchange.answer(status, body)

    return behave


def streams(*found: dict[str, Any]) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        exchange.begin()
        for event in found:
            exchange.event(event)
        exchange.end()

    return behave


def form_of(exchange: Exchange) -> list[tuple[str, bytes]]:
    """Return the fields of the form that the upstream received."""
    head = f"Content-Type: {exchange.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + exchange.raw)
    parts = message.get_payload()
    assert isinstance(parts, list)
    return [
        (str(part.get_param("name", header="content-disposition")), part.get_payload(decode=True)) for part in parts
    ]


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("text", "Hello there. Good night.\n"),
        ("srt", "1\n00:00:00,000 --> 00:00:02,500\nHello there.\n\n2\n00:00:02,500 --> 00:00:05,000\nGood night.\n\n"),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHello there.\n\n00:00:02.500 --> 00:00:05.000\nGood night.\n\n",
        ),
    ],
)
def test_every_format_is_made_from_one_answer(account: Account, upstream: Upstream, form: str, body: str) -> None:
    upstream.behave = answers(VERBOSE)
    assert send(account, FIVE_SECONDS, model="far-whisper", response_format=form).text == body
    assert ("response_format", b"verbose_json") in form_of(upstream.last)
    assert account.settled() == CREDIT - 5 * PRICE


def test_verbose_json_is_passed_on(account: Account, upstream: Upstream) -> None:
    upstream.behave = answers(VERBOSE)
    told = send(
        account,
        FIVE_SECONDS,
        model="far-whisper",
        response_format="verbose_json",
        **{"timestamp_granularities[]": ["word", "segment"]},
    ).json()
    assert told == VERBOSE | {"usage": {"type": "duration", "seconds": 5}}


def test_the_upstream_receives_the_file_and_the_fields(account: Account, upstream: Upstream) -> None:
    upstream.behave = answers(VERBOSE)
    mp3 = converted(tone(60), "mp3", "-b:a", "256k")
    send(
        account, mp3, model="far-whisper", language="en", prompt="Names: Zoë", temperature="0.2", chunking="x",
        name="secret name.mp3",
    )  # fmt: skip
    assert upstream.last.path == "/v1/audio/transcriptions"
    assert dict(form_of(upstream.last)) == {
        "model": b"whisper-large",
        "response_format": b"verbose_json",
        "timestamp_granularities[]": b"segment",
        "language": b"en",
        "prompt": "Names: Zoë".encode(),
        "temperature": b"0.2",
        "file": mp3,
    }
    assert b"secret" not in upstream.last.raw
    send(account, FIVE_SECONDS, "/v1/audio/translations", model="far-whisper")
    assert upstream.last.path == "/v1/audio/translations"


def test_events_of_the_upstream_are_passed_on(account: Account, upstream: Upstream) -> None:
    upstream.behave = streams(
        {"type": "transcript.text.delta", "delta": "Hello"},
        {"type": "something.else"},
        {"type": "transcript.text.delta", "delta": " there."},
        {"type": "transcript.text.done", "text": "Hello there.", "usage": {"type": "tokens", "total_tokens": 9}},
    )
    found = events(send(account, FIVE_SECONDS, model="far-text", streamed="true").text)
    assert [event.get("delta") for event in found] == ["Hello", " there.", None]
    assert found[-1]["text"] == "Hello there."
    assert ("stream", b"true") in form_of(upstream.last)
    assert account.settled() == CREDIT - 5 * PRICE // 2


@pytest.mark.parametrize(
    ("reported", "seconds", "estimated"),
    [
        ({"duration": 5.0}, 5, 0),
        ({"duration": 4.2}, 5, 0),
        ({"duration": 3.9}, 4, 0),
        ({"usage": {"type": "duration", "seconds": 5}}, 5, 0),
        ({"duration": 0}, 5, 1),
        ({"duration": 3600.0}, 5, 1),
        ({"duration": "5"}, 5, 1),
        ({"duration": -1}, 5, 1),
        ({}, 5, 1),
    ],
)
def test_a_reported_duration_is_checked_against_ours(
    account: Account, upstream: Upstream, reported: dict[str, Any], seconds: int, estimated: int
) -> None:
    upstream.behave = answers({"text": "Hello.", **reported})
    answer = send(account, FIVE_SECONDS, model="far-whisper")
    assert answer.json() == {"text": "Hello.", "usage": {"type": "duration", "seconds": seconds}}
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["input_units"], row["estimated"], row["cost"]) == (seconds, estimated, seconds * PRICE)


def test_the_purchase_is_booked(account: Account, upstream: Upstream) -> None:
    upstream.behave = answers(VERBOSE)
    name = send(account, FIVE_SECONDS, model="far-whisper").headers["x-generation-id"]
    number = account.server.generation(name)
    assert number["served_model"] == "whisper-large"
    printed = account.server.command("margin").stdout
    assert next(line for line in printed.splitlines() if line.startswith("far-whisper"))


@pytest.mark.parametrize(
    ("behave", "status", "code"),
    [
        (answers({"error": {"message": "bad key", "code": "invalid_api_key"}}, 401), 502, "upstream_error"),
        (answers({"error": {"message": "no"}}, 500), 502, "upstream_error"),
        (answers({"error": {"message": "slow down"}}, 429), 503, None),
        (answers(b"<html>not found</html>"), 502, "upstream_error"),
        (answers(b""), 502, "upstream_error"),
        (answers(b"plain text"), 502, "upstream_error"),
        (answers(b'"just a string"'), 502, "upstream_error"),
        (answers({"segments": []}), 502, "upstream_error"),
        (answers({"error": {"message": "in the answer"}}), 502, "upstream_error"),
        (streams({"type": "transcript.text.other"}), 502, "upstream_error"),
    ],
)
def test_a_failure_of_the_upstream_costs_nothing(
    account: Account, upstream: Upstream, behave: Behaviour, status: int, code: str | None
) -> None:
    upstream.behave = behave
    answer = send(account, FIVE_SECONDS, model="far-whisper")
    assert answer.status_code in (status, 429), answer.text
    if code is not None:
        assert answer.json()["error"]["code"] == code
    assert account.settled() == CREDIT


def test_a_refusal_of_the_upstream_is_the_callers(account: Account, upstream: Upstream) -> None:
    upstream.behave = answers(
        {"error": {"message": "Invalid language 'qq'.", "param": "language", "code": "invalid_language"}}, 400
    )
    check_refusal(send(account, FIVE_SECONDS, model="far-whisper", language="qq"), 400, "invalid_request", "language")
    assert account.settled() == CREDIT


def test_a_client_that_leaves_before_the_answer_pays_nothing(account: Account, upstream: Upstream) -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.hang()

    upstream.behave = hang
    body = (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nfar-whisper\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + FIVE_SECONDS
        + b"\r\n--b--\r\n"
    )
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {account.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", account.server.port)) as client:
        client.sendall(head.encode() + body)
        eventually(lambda: bool(upstream.seen))
    eventually(lambda: account.money().held == 0, within_s=3)
    assert account.money().posted == CREDIT
    eventually(upstream.last.gone.is_set)
