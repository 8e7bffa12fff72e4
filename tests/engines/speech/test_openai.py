"""Tests of OpenAI-compatible speech servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import pytest
import requests

from minitoolai.core.errors import EngineError
from minitoolai.core.inference import SpeechSegment
from minitoolai.engines.speech.encoding import wav_header
from minitoolai.engines.speech.openai import _split_text
from tests.support import manners
from tests.support.ask import check_refusal
from tests.support.server import Account, eventually
from tests.support.speech import PRICE, RATE_HZ, decoded, speak, start_speaking
from tests.support.upstream import Exchange, Upstream

CREDIT = 5_000_000_000


def sending(audio: bytes, *, pause_s: float = 0.0) -> Callable[[Exchange], Awaitable[None]]:
    """Return the behaviour of an upstream that sends this audio, a kilobyte at a time."""

    async def behave(exchange: Exchange) -> None:
        exchange.begin("audio/mpeg")
        for start in range(0, len(audio), 1000):
            if exchange.gone.is_set():
                return
            exchange.write(audio[start : start + 1000])
            await asyncio.sleep(pause_s)
        exchange.end()

    return behave


# ── through the gateway ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_audio_of_a_short_text_is_forwarded_unchanged(account: Account, upstream: Upstream) -> None:
    upstream.behave = sending(b"any bytes at all " * 500)
    answer = speak(account, model="away", input="Hello. 世界!", voice="alloy", speed=1.5, instructions="Whisper.")
    assert answer.content == b"any bytes at all " * 500
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


def test_neither_another_spelling_of_the_text_nor_a_limit_is_forwarded(account: Account, upstream: Upstream) -> None:
    upstream.behave = sending(b"some audio")
    fields = {"Input": "A longer text.", "extra_body": {"input": "x"}}
    answer = speak(account, model="away", input="Hi.", voice="alloy", **fields)
    assert upstream.last.body["input"] == "Hi."
    assert set(upstream.last.body) == {"model", "input", "voice", "response_format", "speed"}
    assert answer.headers["x-dropped-fields"] == "Input, extra_body"
    assert account.server.generation(answer.headers["x-generation-id"])["cost"] == 3 * PRICE


@pytest.mark.parametrize("form", ["mp3", "wav", "flac", "opus", "pcm"])
def test_a_long_text_is_requested_in_parts_and_becomes_one_file(
    account: Account, upstream: Upstream, form: str
) -> None:
    upstream.behave = sending(bytes(RATE_HZ * 4) + b"\x01")
    text = "This is a sentence of forty characters. " * 5
    answer = speak(account, model="away", input=text, response_format=form)
    assert [len(exchange.body["input"]) for exchange in upstream.seen] == [79, 79, 39]
    assert {exchange.body["response_format"] for exchange in upstream.seen} == {"pcm"}
    assert decoded(answer.content, form) == pytest.approx(3 * 2 * RATE_HZ, rel=0.02)
    assert account.settled() == CREDIT - len(text) * PRICE


def test_a_disconnect_is_charged_for_the_audio_so_far(account: Account, upstream: Upstream) -> None:
    upstream.behave = sending(bytes(100_000), pause_s=0.01)
    text = "This is a sentence of forty characters. " * 5
    answer = start_speaking(account, model="away", input=text, response_format="pcm")
    next(answer.iter_content(100))
    answer.close()
    eventually(upstream.last.gone.is_set, within_s=2)
    characters = (CREDIT - account.settled()) / PRICE
    # A second of pcm has 48,000 bytes, in which about 15 characters are spoken.
    assert 1 <= characters <= 30
    assert len(upstream.seen) == 1


def cut(size: int, *, length: int | None = None, chunked: bool = False) -> Callable[[Exchange], Awaitable[None]]:
    """Return the behaviour of an upstream that closes its connection after so many bytes of audio."""

    async def behave(exchange: Exchange) -> None:
        if chunked:
            exchange.begin("audio/mpeg")
            exchange.write(bytes(size))
        else:
            head = f"content-length: {length}\r\n" if length else ""
            exchange.send(f"HTTP/1.1 200 OK\r\n{head}connection: close\r\n\r\n".encode() + bytes(size))
        await asyncio.sleep(0.1)
        exchange.close()

    return behave


@pytest.mark.parametrize(
    ("behave", "least", "most"),
    [
        (cut(1000, chunked=True), 1, 1),
        (cut(1000), 1, 1),
        (cut(1000, length=9500), 10, 10),
        (cut(9000, length=9500), 90, 90),
        (cut(20_000, chunked=True), 18, 20),
    ],
)
def test_an_upstream_that_breaks_off_is_charged_for_what_was_sent(
    account: Account, upstream: Upstream, behave: Callable[[Exchange], Awaitable[None]], least: int, most: int
) -> None:
    upstream.behave = behave
    answer = start_speaking(account, model="away", input="Nineteen letters in. "[:19] * 5)
    with contextlib.suppress(requests.exceptions.RequestException):
        answer.content  # noqa: B018
    left = account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["cost"]) == ("failed", CREDIT - left)
    assert least * PRICE <= row["cost"] <= most * PRICE
    assert row["delivered_bytes"] in (1000, 9000, 20_000)


def broken_wav(stated: int, sent: int) -> Callable[[Exchange], Awaitable[None]]:
    """Return the behaviour of an upstream whose WAV header states more audio than it sends, without a length."""

    async def behave(exchange: Exchange) -> None:
        header = wav_header(length=stated // 2)
        exchange.begin("audio/mpeg")
        exchange.write(header + bytes(sent - len(header)))
        await asyncio.sleep(0.1)
        exchange.close()

    return behave


@pytest.mark.parametrize(
    ("form", "behave", "characters"),
    [
        # 100 characters in 100,044 bytes of which 25,000 arrive.
        ("wav", broken_wav(100_000, 25_000), 24),
        # Audio enough for all at 15 characters a second, but the end is missing: nine tenths.
        ("mp3", cut(900_000, chunked=True), 90),
        # Two seconds of pcm.
        ("pcm", cut(96_000, chunked=True), 30),
        ("pcm", cut(96_000, length=192_000), 50),
    ],
)
def test_a_broken_response_is_charged_in_proportion_and_has_no_clean_end(
    account: Account, upstream: Upstream, form: str, behave: Callable[[Exchange], Awaitable[None]], characters: int
) -> None:
    upstream.behave = behave
    answer = start_speaking(account, model="away", input="0123456789" * 10, response_format=form)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        answer.content  # noqa: B018
    assert account.settled() == CREDIT - characters * PRICE
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["input_units"], row["cost"]) == ("failed", characters, characters * PRICE)


def test_parts_that_ended_are_charged_even_if_the_next_one_is_refused(account: Account, upstream: Upstream) -> None:
    good, bad = sending(bytes(RATE_HZ * 2)), manners.refuse(500)

    async def behave(exchange: Exchange) -> None:
        await (good if len(upstream.seen) == 1 else bad)(exchange)

    upstream.behave = behave
    answer = start_speaking(
        account, model="away", input="This is a sentence of forty characters. " * 5, response_format="pcm"
    )
    with contextlib.suppress(requests.exceptions.RequestException):
        answer.content  # noqa: B018
    assert account.settled() == CREDIT - 80 * PRICE


@pytest.mark.parametrize(("status", "expected"), [(400, 400), (401, 502), (429, 429), (500, 502)])
def test_a_refusal_of_the_upstream_is_an_error_response_and_free(
    account: Account, upstream: Upstream, status: int, expected: int
) -> None:
    upstream.behave = manners.refuse(status)
    assert speak(account, model="away").status_code == expected
    assert account.settled() == CREDIT


def test_an_upstream_without_audio_is_an_error_and_free(account: Account, upstream: Upstream) -> None:
    upstream.behave = sending(b"")
    check_refusal(speak(account, model="away"), 502, "upstream_error")
    assert account.settled() == CREDIT


ERROR = b'{"error": {"message": "The voice model is being loaded", "type": "server_error"}}'
LIMIT = b'[{"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}]'


def saying(body: bytes, content_type: str, *, piece: int = 1000) -> Callable[[Exchange], Awaitable[None]]:
    """Return the behaviour of an upstream that answers 200 with this body, so many bytes at a time."""

    async def behave(exchange: Exchange) -> None:
        exchange.begin(content_type)
        for start in range(0, len(body), piece):
            exchange.write(body[start : start + piece])
            await asyncio.sleep(0.001)
        exchange.end()

    return behave


@pytest.mark.parametrize("form", ["mp3", "pcm"])
@pytest.mark.parametrize(
    ("behave", "status"),
    [
        (saying(ERROR, "application/json; charset=utf-8"), 502),
        (saying(ERROR, "audio/mpeg"), 502),
        (saying(b"\xef\xbb\xbf\n " + ERROR, "application/octet-stream", piece=1), 502),
        (saying(LIMIT, "audio/mpeg"), 429),
        (saying(LIMIT, "application/problem+json"), 429),
        (saying(b"<!DOCTYPE html><html><body>Bad gateway</body></html>", "audio/mpeg"), 502),
        (saying(b"<html>", "text/html"), 502),
        (saying(b"upstream connect error", "text/plain"), 502),
        (saying(b"{}", "audio/mpeg"), 502),
        (saying('{"detail": "Überlastet, später wieder"}'.encode(), "audio/pcm"), 502),
        (saying(b"", "audio/mpeg"), 502),
    ],
)
def test_text_in_place_of_audio_is_an_error_and_free(
    account: Account, upstream: Upstream, behave: Callable[[Exchange], Awaitable[None]], status: int, form: str
) -> None:
    upstream.behave = behave
    answer = speak(account, model="away", response_format=form)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert account.settled() == CREDIT
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["cost"]) == ("failed", 0)


def test_text_in_place_of_a_later_part_is_not_charged(account: Account, upstream: Upstream) -> None:
    good, bad = sending(bytes(RATE_HZ * 2)), saying(ERROR, "audio/pcm")

    async def behave(exchange: Exchange) -> None:
        await (good if len(upstream.seen) == 1 else bad)(exchange)

    upstream.behave = behave
    answer = start_speaking(
        account, model="away", input="This is a sentence of forty characters. " * 5, response_format="pcm"
    )
    with contextlib.suppress(requests.exceptions.RequestException):
        assert b"error" not in answer.content
    assert account.settled() == CREDIT - 80 * PRICE


@pytest.mark.parametrize("begin", [b"{", b"[\x00\x01", b"<\xff\xfe\x10", b"{\x80\x7f\x00" * 40])
def test_samples_that_begin_like_text_are_audio(account: Account, upstream: Upstream, begin: bytes) -> None:
    upstream.behave = saying(begin + bytes(2000), "audio/pcm", piece=1)
    answer = speak(account, model="away", input="Hi.", response_format="pcm")
    # Those bytes, with the mark of generated speech.
    assert (answer.status_code, len(answer.content)) == (200, len(begin) + 2000)


# ── splitting a text ──────────────────────────────────────────────────────────────────────────────────────────


def pieces(*texts: str) -> Iterator[SpeechSegment]:
    characters = 0
    for text in texts:
        characters += len(text)
        yield SpeechSegment(text, characters)


def test_a_text_that_fits_is_one_part_and_needs_no_sentences() -> None:
    assert list(_split_text("Hello there.", iter(()), 12)) == [SpeechSegment("Hello there.", 12)]


def test_sentences_are_grouped_up_to_the_limit_with_the_characters_so_far() -> None:
    parts = list(_split_text("x" * 40, pieces("aaaa.", "bbbb.", "cccc.", "d."), 11))
    assert [(part.text, part.characters) for part in parts] == [("aaaa. bbbb.", 10), ("cccc. d.", 17)]


def test_a_sentence_beyond_the_limit_is_an_error() -> None:
    with pytest.raises(EngineError, match="longer than 5 characters"):
        list(_split_text("x" * 40, pieces("aaaa.", "bbbbbb."), 5))
