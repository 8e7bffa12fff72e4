"""Transcription over HTTP: formats, charges, refused requests, and clients that leave."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
import requests

from minitoolai.core.clock import parse_generation_name
from tests.support.ask import check_refusal, get
from tests.support.recordings import FIVE, PRICE, converted, events, film, send, tone, wav, without
from tests.support.server import Account, ServerProcess, eventually
from tests.transcription.conftest import uploads_of

CREDIT = 5_000_000_000
TRANSLATIONS = "/v1/audio/translations"
FIVE_SECONDS = tone(5)


# ── formats ───────────────────────────────────────────────────────────────────────────────────────────────

SRT = """1
00:00:00,000 --> 00:00:01,000
one

2
00:00:01,000 --> 00:00:02,000
two

"""
VTT = """WEBVTT

00:00:00.000 --> 00:00:01.000
one

00:00:01.000 --> 00:00:02.000
two

"""


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/transcriptions/", TRANSLATIONS])
def test_json_has_the_text_and_the_seconds(account: Account, path: str) -> None:
    answer = send(account, FIVE_SECONDS, path)
    assert answer.json() == {"text": FIVE, "usage": {"type": "duration", "seconds": 5}}
    assert answer.headers["content-type"] == "application/json"
    assert account.settled() == CREDIT - 5 * PRICE


@pytest.mark.parametrize(
    ("form", "body", "content_type"),
    [
        ("text", "one two\n", "text/plain; charset=utf-8"),
        ("srt", SRT, "text/plain; charset=utf-8"),
        ("vtt", VTT, "text/vtt; charset=utf-8"),
    ],
)
def test_subtitles_and_text(account: Account, form: str, body: str, content_type: str) -> None:
    answer = send(account, tone(2), response_format=form)
    assert (answer.text, answer.headers["content-type"]) == (body, content_type)


def test_verbose_json_has_segments_or_words_or_both(account: Account) -> None:
    def ask(*granularities: str) -> dict[str, Any]:
        answer = send(
            account,
            tone(2.5),
            response_format="verbose_json",
            **{"timestamp_granularities[]": list(granularities)},
        )
        told: dict[str, Any] = answer.json()
        return told

    whole = ask("segment", "word")
    assert (whole["task"], whole["language"], whole["duration"]) == ("transcribe", "english", 2.5)
    assert whole["text"] == "one two three"
    assert whole["usage"] == {"type": "duration", "seconds": 3}
    assert [(one["id"], one["start"], one["text"]) for one in whole["segments"]] == [
        (0, 0.0, " one"),
        (1, 1.0, " two"),
        (2, 2.0, " three"),
    ]
    assert whole["words"][1] == {"word": "two", "start": 1.0, "end": 2.0}
    assert ask() == ask("segment") == {key: value for key, value in whole.items() if key != "words"}
    assert ask("word") == {key: value for key, value in whole.items() if key != "segments"}


def test_events_have_the_text_as_it_is_heard_and_end_once_it_is_charged(account: Account) -> None:
    answer = send(account, FIVE_SECONDS, streamed="true")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = events(answer.text)
    assert [event["delta"] for event in found[:-1]] == ["one two", " three four", " five"]
    assert {event["type"] for event in found[:-1]} == {"transcript.text.delta"}
    assert found[-1] == {
        "type": "transcript.text.done",
        "text": FIVE,
        "usage": {"type": "duration", "seconds": 5},
    }
    assert account.money().posted == CREDIT - 5 * PRICE


@pytest.mark.parametrize(
    ("container", "options"),
    [
        ("mp3", ["-b:a", "32k"]),
        ("flac", []),
        ("ogg", ["-c:a", "libopus"]),
        ("ogg", ["-c:a", "libvorbis"]),
        ("webm", ["-c:a", "libopus"]),
        ("ipod", ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"]),
        ("adts", ["-c:a", "aac"]),
    ],
)
def test_every_container_is_measured(account: Account, container: str, options: list[str]) -> None:
    """The length is that of the sound: within a tenth of a second, which encoders add."""
    answer = send(account, converted(FIVE_SECONDS, container, *options), name="what.ever")
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["seconds"] in (5, 6)


def test_the_sound_of_a_video_is_heard(account: Account) -> None:
    video = converted(
        FIVE_SECONDS, "matroska", "-f", "lavfi", "-i", "color=size=64x64:rate=5:duration=5", "-c:a", "libopus"
    )
    assert send(account, video, name="film.mkv").json()["text"].startswith(FIVE)


# ── the books ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_generation_tells_seconds_and_price(account: Account) -> None:
    answer = send(account, tone(2.1))
    name = answer.headers["x-generation-id"]
    row = account.server.generation(name)
    assert (row["state"], row["input_units"], row["cost"], row["hold_amount"]) == ("succeeded", 3, 3 * PRICE, 3 * PRICE)
    assert (row["served_model"], row["estimated"], row["delivered_bytes"]) == ("fake-1", 0, len("one two three"))
    told = get(account, f"/v1/generations/{name}").json()
    assert (told["kind"], told["input_units"], told["cost"]) == ("transcription", 3, "0.000300000")
    assert told["price_input_per_unit"] == "0.000100000"
    usage = get(account, "/api/usage", group_by="model").json()["data"]
    assert [(line["model"], line["kind"], line["input_units"]) for line in usage] == [("heard", "transcription", 3)]


def test_the_balance_must_pay_for_the_whole_recording(server: ServerProcess) -> None:
    poor = server.account("0.0003")
    message = check_refusal(send(poor, tone(3.2)), 402, "insufficient_balance")
    assert "needs at least $0.0004" in message
    assert "shorter recording" in message
    assert send(poor, tone(3)).status_code == 200
    assert poor.settled() == 0


def test_models_list_transcription_with_its_price(account: Account) -> None:
    told = get(account, "/v1/models/heard").json()
    assert (told["kind"], told["ready"]) == ("transcription", True)
    assert told["price"] == {"minute": "0.006000000", "currency": "USD"}
    assert told["translates"] is True
    assert get(account, "/v1/models/absent").json()["ready"] is False


def test_the_command_line_lists_the_models(server: ServerProcess) -> None:
    printed = server.command("models").stdout
    assert "heard            transcription  $/minute: 0.006   ready    fake" in printed
    assert "MISSING  closed: no key" in printed
    assert "far charges" in printed


# ── refused requests ──────────────────────────────────────────────────────────────────────────────────────

SAME_NAME = "timestamp_granularities[]"
REFUSED: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    ("no model", {"model": None}, 400, "invalid_request", "model"),
    ("unknown model", {"model": "herd"}, 404, "model_not_found", "model"),
    ("two models", {"model": ["heard", "slow"]}, 400, "invalid_request", "model"),
    ("format", {"response_format": "mp3"}, 400, "invalid_request", "response_format"),
    ("format of the model", {"model": "far-text", "response_format": "srt"}, 400, "invalid_request", "response_format"),
    ("streamed subtitles", {"response_format": "srt", "streamed": "true"}, 400, "invalid_request", "response_format"),
    ("stream", {"streamed": "yes"}, 400, "invalid_request", "stream"),
    ("language", {"language": "German"}, 400, "invalid_request", "language"),
    ("unknown language", {"language": "xx"}, 400, "invalid_request", "language"),
    ("temperature", {"temperature": "1.5"}, 400, "invalid_request", "temperature"),
    ("no number", {"temperature": "warm"}, 400, "invalid_request", "temperature"),
    ("not a number", {"temperature": "nan"}, 400, "invalid_request", "temperature"),
    ("prompt", {"prompt": "names " * 400}, 400, "invalid_request", "prompt"),
    ("words in json", {SAME_NAME: "word"}, 400, "invalid_request", SAME_NAME),
    ("granularity", {SAME_NAME: "letter", "response_format": "verbose_json"}, 400, "invalid_request", SAME_NAME),
    ("no translator", {"path": TRANSLATIONS, "model": "slow"}, 400, "invalid_request", "model"),
    ("no engine", {"model": "absent"}, 503, "overloaded", None),
    ("long fields", {"note": "x" * 70_000}, 413, "body_too_large", "note"),
]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_a_wrong_request_is_refused_with_its_field_and_costs_nothing(
    account: Account, fields: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    check_refusal(send(account, FIVE_SECONDS, **fields), status, code, param)
    assert account.settled() == CREDIT


FLAC = converted(FIVE_SECONDS, "flac")
FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "invalid_file"),
    ("text", b"This is not a recording. " * 100, "invalid_file"),
    ("picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 1000, "invalid_file"),
    ("playlist", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "invalid_file"),
    ("concat", b"ffconcat version 1.0\nfile /etc/passwd\n", "invalid_file"),
    ("header only", FIVE_SECONDS[:44], "invalid_file"),
    ("garbage after a magic number", b"OggS" + bytes(range(256)) * 40, "invalid_file"),
    ("garbage of mp4", b"\0\0\0\x18ftypM4A " + bytes(range(256)) * 40, "invalid_file"),
    ("a video without sound", film(), "invalid_file"),
    ("too short", tone(0.05), "audio_too_short"),
    ("too long", wav([0] * 1000 * 3601, 1000), "audio_too_long"),
]  # fmt: skip


@pytest.mark.parametrize(("audio", "code"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_file_that_is_no_recording_is_refused_and_costs_nothing(account: Account, audio: bytes, code: str) -> None:
    message = check_refusal(send(account, audio), 400, code, "file")
    assert "/" not in message.replace("file://", "")
    assert account.settled() == CREDIT


def test_a_file_that_was_cut_off_is_heard_as_far_as_it_goes(account: Account) -> None:
    for container in ("wav", "mp3", "ogg"):
        pages = ["-c:a", "libopus", "-page_duration", "200000"] if container == "ogg" else []
        whole = converted(FIVE_SECONDS, container, *pages)
        assert send(account, without(whole, 0.5)).json()["usage"]["seconds"] in (2, 3), container


def test_a_long_length_that_the_bytes_cannot_hold_is_not_held(account: Account) -> None:
    """The head of the wav declares ten hours; four seconds follow."""
    audio = bytearray(tone(4))
    audio[40:44] = (36_000 * 32_000).to_bytes(4, "little")
    answer = send(account, bytes(audio))
    assert answer.json()["usage"]["seconds"] == 4
    assert account.server.generation(answer.headers["x-generation-id"])["hold_amount"] == 4 * PRICE


def test_more_sound_than_declared_ends_with_the_declared_length(account: Account) -> None:
    answer = send(account, FIVE_SECONDS, prompt="endless")
    assert "contains more" in check_refusal(answer, 400, "invalid_file", "file")
    assert account.settled() == CREDIT - 5 * PRICE
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["cost"], row["hold_amount"]) == ("failed", 5 * PRICE, 5 * PRICE)


# ── forms ─────────────────────────────────────────────────────────────────────────────────────────────────


def post_form(
    account: Account, body: bytes, content_type: str = "multipart/form-data; boundary=b"
) -> requests.Response:
    return requests.post(
        account.server.url + "/v1/audio/transcriptions",
        data=body,
        headers=account.headers | {"content-type": content_type},
        timeout=20,
    )


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    more = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


FILE, MODEL, END = part("file", FIVE_SECONDS, "a.wav"), part("model", b"heard"), b"--b--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        FILE + MODEL + END,
        MODEL + FILE + END,
        b"preamble\r\n" + MODEL + FILE + END + b"epilogue",
        MODEL + FILE + b"--b--",
    ],
)
def test_the_order_of_the_parts_makes_no_difference(account: Account, body: bytes) -> None:
    assert post_form(account, body).json()["text"] == FIVE


FORMS: list[tuple[str, bytes, int, str, str | None]] = [
    ("no file", MODEL + END, 400, "invalid_request", "file"),
    ("two files", MODEL + FILE + FILE + END, 400, "invalid_request", "file"),
    ("file as text", MODEL + part("file", b"hello") + END, 400, "invalid_request", "file"),
    ("another file", MODEL + part("audio", b"hello", "a.wav") + END, 400, "invalid_request", "audio"),
    ("no end", MODEL + FILE, 400, "invalid_form", None),
    ("no boundary in it", b"hello" * 10_000, 400, "invalid_form", None),
    ("empty", b"", 400, "invalid_form", None),
    ("no name", b"--b\r\nContent-Type: text/plain\r\n\r\nheard\r\n" + END, 400, "invalid_form", None),
    ("endless headers", b"--b\r\n" + b"X: y\r\n" * 3000, 400, "invalid_form", None),
    ("no UTF-8", part("model", b"\xff\xfe") + FILE + END, 400, "invalid_request", "model"),
    ("many fields", b"".join(part(f"f{n}", b"x") for n in range(70)) + END, 400, "invalid_form", None),
]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"), [case[1:] for case in FORMS], ids=[case[0] for case in FORMS]
)
def test_a_malformed_form_is_refused(account: Account, body: bytes, status: int, code: str, param: str | None) -> None:
    check_refusal(post_form(account, body), status, code, param)
    assert account.settled() == CREDIT


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "multipart/form-data; boundary=", "a/b"])
def test_another_content_type_is_refused(account: Account, kind: str) -> None:
    check_refusal(post_form(account, FILE + MODEL + END, kind), 415, "unsupported_media_type")


def test_a_file_over_the_limit_is_refused_announced_or_not(account: Account) -> None:
    big = b"RIFF" + b"\0" * (26 * 1024 * 1024)
    assert "25 MB" in check_refusal(send(account, big), 413, "file_too_large", "file")

    def blocks() -> Any:
        yield MODEL + part("file", b"", "a.wav")[:-2]
        for _ in range(26):
            yield b"\0" * 1024 * 1024

    try:
        answer = requests.post(
            account.server.url + "/v1/audio/transcriptions",
            data=blocks(),
            headers=account.headers | {"content-type": "multipart/form-data; boundary=b"},
            timeout=20,
        )
    except requests.ConnectionError:
        # The server may close before the client has sent all of it.
        return
    check_refusal(answer, 413, "file_too_large", "file")


def test_unknown_fields_are_dropped_and_named(account: Account) -> None:
    answer = send(account, FIVE_SECONDS, chunking_strategy="auto", user="me")
    assert answer.headers["x-dropped-fields"] == "chunking_strategy, user"


def test_an_upload_needs_a_key(account: Account) -> None:
    answer = requests.post(
        account.server.url + "/v1/audio/transcriptions", files={"file": ("a.wav", FIVE_SECONDS)}, timeout=20
    )
    check_refusal(answer, 401, "invalid_api_key", "Authorization")


# ── idempotency ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_repeated_upload_is_served_and_charged_once(account: Account) -> None:
    """Each request draws its own boundary."""
    key = {"idempotency-key": "once"}
    first = send(account, FIVE_SECONDS, headers=key)
    again = send(account, FIVE_SECONDS, headers=key)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert account.settled() == CREDIT - 5 * PRICE
    check_refusal(send(account, tone(4), headers=key), 422, "idempotency_mismatch", "Idempotency-Key")
    check_refusal(
        send(account, FIVE_SECONDS, headers=key, language="en"), 422, "idempotency_mismatch", "Idempotency-Key"
    )


# ── leaving and failing ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("streamed", ["true", "false"])
def test_a_client_that_leaves_pays_for_what_was_processed(account: Account, streamed: str) -> None:
    """The recording takes 12 s, two seconds of it 0.4 s."""
    body = MODEL.replace(b"heard", b"slow") + part("stream", streamed.encode()) + part("file", tone(60), "a.wav") + END
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {account.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", account.server.port)) as client:
        client.sendall(head.encode() + body)
        eventually(lambda: progress_of(account) >= 2 * PRICE, within_s=30)
    eventually(lambda: account.money().held == 0, within_s=5)
    rows = account.server.read(
        lambda c: c.execute(
            "SELECT state, error_code, input_units, cost FROM generations WHERE account_id = ?", (account.id,)
        )
    )
    ((state, code, seconds, cost),) = rows
    assert (state, code) == ("cancelled", "client_left")
    assert 2 <= seconds <= 30
    assert cost == seconds * PRICE == CREDIT - account.money().posted


def progress_of(account: Account) -> int:
    """Return the cost so far of the pending work of an account, as a crash would charge it."""
    rows = account.server.read(
        lambda c: c.execute("SELECT sum(progress) FROM holds WHERE account_id = ? AND state = 'pending'", (account.id,))
    )
    return rows[0][0] or 0


def test_an_upload_that_breaks_off_leaves_nothing(account: Account) -> None:
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {account.key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", account.server.port)) as client:
        client.sendall(head.encode() + MODEL + part("file", b"\0" * 2_000_000, "a.wav"))
        eventually(lambda: uploads_of(account.server) != [])
    eventually(lambda: uploads_of(account.server) == [])
    assert account.settled() == CREDIT


def test_a_part_that_fails_is_an_error_and_what_was_processed_is_charged(account: Account) -> None:
    answer = send(account, FIVE_SECONDS, prompt="unhearable")
    assert "is charged" in check_refusal(answer, 502, "upstream_error")
    assert account.settled() == CREDIT - 2 * PRICE
    streamed = events(send(account, FIVE_SECONDS, prompt="unhearable", streamed="true").text)
    assert streamed[0]["delta"] == "one two"
    assert streamed[-1]["error"]["code"] == "upstream_error"


def test_a_crashed_process_is_restarted(account: Account) -> None:
    check_refusal(send(account, FIVE_SECONDS, prompt="deadly"), 502, "upstream_error")
    assert account.settled() == CREDIT - 2 * PRICE
    eventually(lambda: send(account, FIVE_SECONDS).status_code == 200, within_s=15, every_s=0.3)


def test_recordings_take_turns(account: Account) -> None:
    """A short recording does not wait for the end of a long one."""
    long = threading.Thread(target=lambda: send(account, tone(40), model="slow"))
    long.start()
    eventually(lambda: account.money().held > 0)
    assert send(account, tone(2), model="slow").json()["text"] == "one two"
    assert account.money().held > 0
    long.join()


def test_a_lost_hold_charges_what_the_recovery_found(account: Account) -> None:
    answer = send(account, tone(60), model="slow", streamed="true", stream=True)
    lines = answer.iter_lines()
    assert b"one two" in next(lines)
    name = answer.headers["x-generation-id"]
    account.server.recover(name)
    rest = b"\n".join(lines)
    assert b"interrupted" in rest
    assert b"transcript.text.done" not in rest
    row = account.server.generation(name)
    assert account.server.transfers_of(name) in ([], [row["cost"]])
    assert parse_generation_name(name) is not None
