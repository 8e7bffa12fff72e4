"""Tests of the speech child's command loop, without the process."""

from __future__ import annotations

import pytest

from minitoolai.engines.speech.child import FIRST_SLICE, SLICE, VoiceLoop
from minitoolai.engines.speech.encoding import RATE_HZ
from minitoolai.engines.speech.messages import Begin, Discard, LoadVoices, NextSlice, Reply, Speak
from minitoolai.engines.speech.voices import FAILS, SECONDS_PER_LETTER


@pytest.fixture
def loop() -> VoiceLoop:
    loop = VoiceLoop()
    assert loop.handle(LoadVoices("fake", [], 0)) == Reply()
    return loop


def replied(loop: VoiceLoop, command: Speak | NextSlice) -> Reply:
    reply = loop.handle(command)
    assert reply is not None
    return reply


def test_a_sentence_comes_in_slices_a_short_one_first(loop: VoiceLoop) -> None:
    assert loop.handle(Begin(1, "any", "pcm", 1.0)) is None
    letters = 200
    replies = [replied(loop, Speak(1, "x" * letters))]
    while replies[-1].has_more:
        replies.append(replied(loop, NextSlice(1)))
    total = round(letters * SECONDS_PER_LETTER * RATE_HZ)
    assert [reply.samples for reply in replies] == [FIRST_SLICE, SLICE, total - FIRST_SLICE - SLICE]
    assert all(len(reply.audio) == 2 * reply.samples for reply in replies)


def test_several_texts_are_in_progress_concurrently(loop: VoiceLoop) -> None:
    loop.handle(Begin(1, "any", "wav", 1.0))
    loop.handle(Begin(2, "any", "pcm", 2.0))
    first, second = replied(loop, Speak(1, "abcd")), replied(loop, Speak(2, "abcd"))
    assert first.audio.startswith(b"RIFF")
    assert second.samples == first.samples / 2


def test_the_end_of_a_text_returns_the_remaining_bytes_and_forgets_it(loop: VoiceLoop) -> None:
    loop.handle(Begin(1, "any", "mp3", 1.0))
    replied(loop, Speak(1, "abcd"))
    assert replied(loop, Speak(1, None)).audio
    assert replied(loop, Speak(1, "more")).error == "there is no such text"


def test_a_discarded_text_is_forgotten(loop: VoiceLoop) -> None:
    loop.handle(Begin(1, "any", "pcm", 1.0))
    assert loop.handle(Discard(1)) is None
    assert loop.handle(Discard(1)) is None
    assert replied(loop, Speak(1, "x")).error == "there is no such text"


def test_a_sentence_that_fails_gets_an_error_and_the_text_continues(loop: VoiceLoop) -> None:
    loop.handle(Begin(1, "any", "pcm", 1.0))
    assert replied(loop, Speak(1, FAILS)).error == f"ValueError: {FAILS}"
    assert replied(loop, Speak(1, "fine")).error is None


def test_voices_that_cannot_be_loaded_are_reported() -> None:
    reply = VoiceLoop().handle(LoadVoices("theremin", [], 0))
    assert reply is not None
    assert reply.error == "KeyError: 'theremin'"
