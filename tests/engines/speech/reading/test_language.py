"""Tests of the language check: sentences in six languages, and English ones with foreign names."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest

from minitoolai.engines.speech.reading.language import LanguageDetector
from tests.support.pace import TimeLimit

FOLDER = Path(__file__).parent
#: List → the share of foreign sentences that must be refused. All English ones must be spoken.
LISTS = {"development": 0.95, "validation": 0.95, "held_out": 0.95, "kinds": 0.95, "kinds_later": 0.9}


@pytest.fixture(scope="module")
def detector() -> LanguageDetector:
    return LanguageDetector()


@pytest.mark.parametrize("name", LISTS)
def test_foreign_sentences_are_refused_and_english_ones_spoken(detector: LanguageDetector, name: str) -> None:
    sentences = tomllib.loads((FOLDER / f"languages_{name}.toml").read_text(encoding="utf-8"))
    english = sentences.pop("en")
    assert len(english) >= 60
    assert [text for text in english if detector.foreign_language(text, "en") is not None] == []
    found = {text: (code, detector.foreign_language(text, "en")) for code, texts in sentences.items() for text in texts}
    refused = [text for text, (_, language) in found.items() if language is not None]
    named = [text for text, (code, language) in found.items() if language == code]
    print(f"{name}: {len(refused)} of {len(found)} refused, {len(named)} by name; {len(english)} English ones spoken")
    assert len(found) >= 72
    assert len(refused) >= LISTS[name] * len(found), found.keys() - set(refused)
    assert len(named) >= 0.93 * len(refused)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Museum of Modern Art, Rue de Rivoli", None),
        ("Le chat dort sur le canapé.", "fr"),
        ("Le Monde", None),
        ("He has a certain je ne sais quoi.", None),
        ("Fermez la porte.", "fr"),
        ("Casa de Campo", None),
        ("L'Oréal Paris", None),
        ("D'accord.", "fr"),
        ("Pedro Almodóvar directed Todo sobre mi madre.", None),
        ("Entschuldigung.", "de"),
        ("Yolanda", None),
    ],
)
def test_names_and_quotations_are_no_evidence_and_function_words_are(
    detector: LanguageDetector, text: str, language: str | None
) -> None:
    assert detector.foreign_language(text, "en") == language


def test_a_long_text_is_judged_within_milliseconds(detector: LanguageDetector) -> None:
    detector.probabilities("warm")
    limit, started_s = TimeLimit(100.0), time.process_time()
    detector.foreign_language("wir gehen " * 1000, "en")
    assert limit.permits((time.process_time() - started_s) * 1000), limit


@pytest.mark.parametrize(
    "text",
    ["", "12345", "😀", "https://www.example.de/über-uns", "x = foo(bar) # ein Kommentar_hier", "e4 e5 Nf3", "OK", "a"],
)
def test_text_without_words_is_accepted(detector: LanguageDetector, text: str) -> None:
    assert detector.foreign_language(text, "en") is None


def test_another_voice_accepts_its_language_and_english(detector: LanguageDetector) -> None:
    assert detector.foreign_language("Guten Morgen, wie geht es Ihnen?", "de") is None
    assert detector.foreign_language("Good morning, how are you?", "de") is None
    assert detector.foreign_language("Buenos días, ¿cómo está usted hoy?", "de") == "es"
    assert detector.foreign_language("Guten Morgen, wie geht es Ihnen?", "sw") is None


def test_without_a_dictionary_foreign_sentences_are_still_refused() -> None:
    bare = LanguageDetector(lambda _: False)
    assert bare.foreign_language("Wie geht es dir heute?", "en") == "de"
    assert bare.foreign_language("The museum opens early in winter.", "en") is None
