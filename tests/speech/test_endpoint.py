"""Text to speech over HTTP: audio formats, charges and refused requests."""

from __future__ import annotations

import base64
import json
import wave
from io import BytesIO

import pytest
import requests

from minitoolai.core.clock import parse_generation_name
from tests.support.ask import check_refusal, get
from tests.support.gate import Gate
from tests.support.server import Account, ServerProcess, eventually
from tests.support.speech import CLIP, PRICE, RATE_HZ, decoded, decoded_by_sox, speak, start_speaking
from tests.support.upstream import Exchange, Upstream

CREDIT = 5_000_000_000
TYPES = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "opus": "audio/ogg; codecs=opus",
    "pcm": "audio/pcm",
}
#: 200 sentences of 20 ms each: 4 s to speak.
LONG = " ".join(f"Sentence number {n:03} of many." for n in range(200))


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/audio/speech/", "/api/texttospeech/", "/api/texttospeech"])
def test_every_path_returns_audio_and_mp3_is_the_default(account: Account, path: str) -> None:
    answer = speak(account, path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")
    assert decoded(answer.content, "mp3") > 5 * RATE_HZ
    assert answer.headers["x-voice"] == "heart"


@pytest.mark.parametrize("form", TYPES)
def test_every_format_can_be_decoded_by_other_programs_to_its_end(account: Account, form: str) -> None:
    samples = len(speak(account, response_format="pcm").content) // 2
    assert samples >= 5 * RATE_HZ
    answer = speak(account, response_format=form)
    assert answer.headers["content-type"] == TYPES[form]
    assert decoded(answer.content, form) == pytest.approx(samples, rel=0.02)
    if form in ("wav", "flac"):
        assert decoded_by_sox(answer.content, form) == samples


def test_a_streamed_wav_has_a_head_that_players_believe(account: Account) -> None:
    audio = speak(account, response_format="wav").content
    with wave.open(BytesIO(audio)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (RATE_HZ, 2, 1)
    assert audio[4:8] == audio[40:44] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize(("speed", "factor"), [(0.5, 2.0), (2, 0.5)])
def test_speed_stretches_and_squeezes(account: Account, speed: float, factor: float) -> None:
    plain = len(speak(account, response_format="pcm").content)
    assert len(speak(account, response_format="pcm", speed=speed).content) == pytest.approx(plain * factor, rel=0.15)


def test_the_price_is_the_characters_of_the_text(account: Account) -> None:
    answer = speak(account)
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["input_units"], row["cost"]) == ("succeeded", len(CLIP), len(CLIP) * PRICE)
    assert row["served_model"] == "hibari-0.2"
    assert account.settled() == CREDIT - len(CLIP) * PRICE


def test_the_end_leaves_only_when_the_charge_is_durable(account: Account) -> None:
    for _ in range(5):
        speak(account, model="tone", input="Hello there.")
        assert account.money().held == 0


def test_usage_and_generation_report_speech(account: Account) -> None:
    name = speak(account, model="tone", input="Hello there.").headers["x-generation-id"]
    told = get(account, f"/v1/generations/{name}").json()
    assert (told["kind"], told["input_units"], told["cost"]) == ("speech", 12, "0.000180000")
    rows = get(account, "/api/usage/", group_by="model").json()["data"]
    assert rows == [
        {"model": "tone", "kind": "speech", "requests": 1, "input_units": 12, "output_units": 0, "cost": "0.000180000"}
    ]


def test_events_carry_the_same_audio_and_end_with_the_usage(account: Account) -> None:
    answer = speak(account, model="tone", input="Hello. There.", response_format="pcm", stream_format="sse")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    audio = b"".join(base64.b64decode(e["audio"]) for e in events if e["type"] == "speech.audio.delta")
    assert audio == speak(account, model="tone", input="Hello. There.", response_format="pcm").content
    assert events[-1] == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 13, "output_tokens": 0, "total_tokens": 13},
    }


def test_the_voices_are_those_that_can_speak_now(account: Account) -> None:
    voices = get(account, "/v1/audio/voices").json()["data"]
    assert [(voice["id"], voice["language"], voice["engine"]) for voice in voices] == [
        ("heart", "en-US", "hibari"),
        ("tone", "en", "tone"),
        ("alloy", "*", "away"),
    ]
    assert requests.get(account.server.url + "/v1/audio/voices", timeout=10).status_code == 401


def test_models_list_speech_with_its_price(account: Account) -> None:
    told = get(account, "/v1/models/tts-1").json()
    assert (told["kind"], told["engine"], told["ready"]) == ("speech", "hibari", True)
    assert told["price"] == {"characters_per_million": "15.000000000", "currency": "USD"}
    assert "tts-1" in [model["id"] for model in get(account, "/v1/models").json()["data"]]
    silent = get(account, "/v1/models/silent").json()
    assert silent["ready"] is False
    assert "piper" in silent["why_not_ready"]


def test_the_command_line_says_which_voice_is_missing_and_why(server: ServerProcess) -> None:
    printed = server.command("models").stdout
    assert "tts-1            speech  $/1M characters:    15.000   ready    hibari" in printed
    assert "voice heart: ready    hibari, en-US" in printed
    assert "voice emma: MISSING  hibari: no file" in printed
    assert "MINITOOLAI_VOICES_DIR" in printed


# ── errors ─────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED = [
    ("empty", {"input": ""}, "invalid_request", "input"),
    ("blank", {"input": " \n\t"}, "invalid_request", "input"),
    ("absent", {"input": None}, "invalid_request", "input"),
    ("no string", {"input": ["Hello"]}, "invalid_request", "input"),
    ("emoji", {"input": "😀🎉👍🏽 ❤️"}, "nothing_to_speak", "input"),
    ("marks", {"input": "… — !?"}, "nothing_to_speak", "input"),
    ("a megabyte", {"input": "many words " * 95_000}, "string_above_max_length", "input"),
    ("ssml", {"input": "<speak>Hello <break time='1s'/> you</speak>"}, "markup_not_supported", "input"),
    ("ssml inside", {"input": 'Say <prosody rate="slow">this</prosody>.'}, "markup_not_supported", "input"),
    ("Chinese", {"input": "你好，世界。今天天气很好。"}, "language_not_supported", "input"),
    ("Russian", {"input": "Привет, мир! Как дела?"}, "language_not_supported", "input"),
    ("German", {"input": "Guten Tag, wie geht es Ihnen heute?"}, "language_not_supported", "input"),
    ("Portuguese", {"input": "Olá, como vai você? O dia está bonito."}, "language_not_supported", "input"),
    ("Turkish", {"input": "Merhaba, bugün hava çok güzel ve ben iyiyim."}, "language_not_supported", "input"),
    ("Indonesian", {"input": "Selamat pagi, apa kabar? Saya akan pergi."}, "language_not_supported", "input"),
    ("language", {"language": "de"}, "language_not_supported", "language"),
    ("voice", {"voice": "hearth"}, "voice_not_found", "voice"),
    ("unready voice", {"voice": "emma"}, "voice_not_found", "voice"),
    ("voice object", {"voice": {"id": "heart"}}, "invalid_request", "voice"),
    ("format", {"response_format": "aac"}, "invalid_request", "response_format"),
    ("slow", {"speed": 0.49}, "invalid_request", "speed"),
    ("fast", {"speed": 2.01}, "invalid_request", "speed"),
    ("speed as text", {"speed": "1"}, "invalid_request", "speed"),
    ("stream format", {"stream_format": "ws"}, "invalid_request", "stream_format"),
    ("instructions", {"instructions": "Whisper."}, "invalid_request", "instructions"),
    ("unknown field", {"emotion": "joy"}, "invalid_request", "emotion"),
    ("no model", {"model": None}, "invalid_request", "model"),
]


@pytest.mark.parametrize(("fields", "code", "param"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_text_that_cannot_be_spoken_is_refused_with_its_field_and_costs_nothing(
    account: Account, fields: dict[str, object], code: str, param: str
) -> None:
    check_refusal(speak(account, **fields), 400, code, param)
    assert account.money().posted == CREDIT
    holds = account.server.read(lambda c: c.execute("SELECT id FROM holds WHERE account_id = ?", (account.id,)))
    assert holds == []


def test_an_unknown_voice_and_an_unknown_model_list_the_nearest(account: Account) -> None:
    assert "the nearest is heart" in check_refusal(speak(account, voice="hearth"), 400, "voice_not_found", "voice")
    assert "the nearest is tts-1" in check_refusal(speak(account, model="tts1"), 404, "model_not_found", "model")


def test_a_model_without_a_ready_voice_says_why(account: Account) -> None:
    assert "nowhere.onnx" in check_refusal(speak(account, model="silent"), 503, "overloaded")


def test_the_language_can_be_said_where_our_guess_is_wrong(account: Account) -> None:
    names = "Der Das Und Ist, Wir Sie Ich"
    check_refusal(speak(account, input=names), 400, "language_not_supported", "input")
    assert speak(account, input=names, language="en").status_code == 200


def test_words_in_another_script_are_skipped_reported_and_not_charged(account: Account) -> None:
    text = "Hello world, привет мир, and 世界 too. Schön, naïve, ½ and 😀."
    answer = speak(account, input=text)
    assert (answer.status_code, answer.headers["x-unspoken-characters"]) == (200, "11")
    assert account.server.generation(answer.headers["x-generation-id"])["input_units"] == len(text) - 11


def test_a_text_that_the_balance_does_not_cover_is_refused_before_a_word(server: ServerProcess) -> None:
    poor = server.account("0.001")
    message = check_refusal(speak(poor, model="tone", input="a" * 67), 402, "insufficient_balance")
    assert "needs at least $0.001005, but only $0.001 is available" in message
    assert speak(poor, model="tone", input="a" * 66).status_code == 200
    assert poor.settled() == 10_000


# ── leaving and failing ───────────────────────────────────────────────────────────────────────────────────


def test_a_disconnect_charges_the_audio_so_far_and_frees_the_voice(account: Account) -> None:
    answer = start_speaking(account, model="tone", input=LONG)
    next(answer.iter_content(1000))
    answer.close()
    eventually(lambda: account.money().held == 0, within_s=2.0)
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["error_code"]) == ("cancelled", "client_left")
    assert 0 < row["input_units"] < len(LONG) / 2
    assert row["input_units"] % len("Sentence number 000 of many. ") == 0
    assert CREDIT - account.money().posted == row["cost"] == row["input_units"] * PRICE


def test_a_sentence_that_fails_ends_the_answer_without_its_end(account: Account) -> None:
    answer = start_speaking(account, model="tone", input="This is fine. This is unspeakable. This is not heard.")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        answer.content  # noqa: B018
    left = account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["state"], row["input_units"]) == ("failed", len("This is fine. "))
    assert left == CREDIT - row["input_units"] * PRICE


def test_a_first_sentence_that_fails_is_an_error_and_free(account: Account) -> None:
    check_refusal(speak(account, model="tone", input="This is unspeakable."), 502, "upstream_error")
    assert account.settled() == CREDIT


def test_in_events_a_failure_is_an_event_and_not_the_end(account: Account) -> None:
    answer = speak(account, model="tone", input="This is fine. This is unspeakable.", stream_format="sse")
    last = json.loads(answer.text.rstrip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "upstream_error"
    assert "speech.audio.done" not in answer.text


def test_a_crashed_voice_process_is_restarted_and_only_audio_is_charged(account: Account) -> None:
    check_refusal(speak(account, model="tone", input="This is deadly."), 502, "upstream_error")
    assert account.settled() == CREDIT
    eventually(lambda: speak(account, model="tone", input="Hello.").status_code == 200, within_s=10, every_s=0.2)


def test_concurrent_requests_each_get_their_own_audio(account: Account) -> None:
    answers = [start_speaking(account, model="tone", input="word. " * n, response_format="pcm") for n in range(5, 15)]
    lengths = [len(answer.content) // 2 for answer in answers]
    assert lengths == [n * 4 * RATE_HZ // 20 for n in range(5, 15)]


# ── holds that were settled under it ──────────────────────────────────────────────────────────────────────


def recovered(account: Account, name: str) -> int:
    """Check that the database has the charge written by the recovery."""
    left = account.settled()
    row = account.server.generation(name)
    assert (row["state"], row["error_code"]) == ("failed", "interrupted")
    assert CREDIT - left == row["cost"] == sum(account.server.transfers_of(name))
    return int(row["cost"])


def test_speech_stops_with_an_error_event_if_its_hold_was_settled(account: Account) -> None:
    answer = start_speaking(account, model="tone", input=LONG * 2, stream_format="sse")
    name = answer.headers["x-generation-id"]
    account.server.recover(name)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["error"]["code"] == "interrupted"
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert recovered(account, name) < len(LONG) * PRICE


def test_plain_audio_is_cut_off_if_its_hold_was_settled(account: Account) -> None:
    answer = start_speaking(account, model="tone", input=LONG * 2, response_format="pcm")
    name = answer.headers["x-generation-id"]
    account.server.recover(name)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        answer.content  # noqa: B018
    assert recovered(account, name) < len(LONG) * PRICE


def test_speech_is_cut_off_if_its_hold_was_recovered_at_the_full_price(account: Account, upstream: Upstream) -> None:
    # There is audio enough for the whole text, so the last checkpoint has the full price.
    gate, text = Gate(), "This is all of it."
    upstream.behave = gate.between(lambda exchange: (exchange.begin(), exchange.write(bytes(40_000))), Exchange.end)
    answer = start_speaking(account, model="away", input=text, stream_format="sse")
    name = answer.headers["x-generation-id"]
    number = parse_generation_name(name)
    eventually(
        lambda: (
            account.server.read(lambda c: c.execute("SELECT progress FROM holds WHERE id = ?", (number,)))
            == [(len(text) * PRICE,)]
        )
    )
    account.server.recover(name)
    gate.open()
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["error"]["code"] == "interrupted"
    assert recovered(account, name) == len(text) * PRICE
