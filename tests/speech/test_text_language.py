"""Unit tests of language and script detection in speech/text.py."""

from __future__ import annotations

import pytest

from minitoolai.speech.text import detect_language, foreign_script, unreadable_words

ENGLISH = [
    "The quick brown fox jumps over the lazy dog.",
    "Mr. and Mrs. De La Cruz from São Paulo, Brazil, love pão de queijo.",
    "Hello there.",
    "OK.",
    "Angela Merkel, Gerhard Schröder, Helmut Kohl, Willy Brandt",
    "Die Hard is a 1988 film. I saw it on TV in Den Haag.",
    "SELECT a FROM b WHERE c = 1",
    "In vino veritas, as they say; que será, será.",
    "Le Monde and El País are newspapers, and Die Zeit is one too.",
    "pi is 3.14159",
    "No man is an island, entire of itself.",
    "Call me on Monday at noon, or come to see us.",
]
FOREIGN = {
    "de": ["Guten Tag, wie geht es Ihnen?", "Das ist ein sehr schöner Tag und wir gehen in den Park."],
    "fr": ["Bonjour tout le monde, je suis très heureux.", "Il est dans la maison avec une amie."],
    "es": ["Hola, ¿cómo está usted? Muchas gracias por todo.", "El perro y el gato están en la casa."],
    "pt": ["Olá, como vai você? O dia está bonito.", "Eu não sei o que você quer para o almoço."],
    "it": ["Buongiorno, come stai? Questo è il mio amico.", "Non so che cosa fare con la mia macchina."],
    "tr": ["Merhaba, bugün hava çok güzel ve ben iyiyim."],
    "id": ["Selamat pagi, apa kabar? Saya akan pergi ke pasar dengan teman."],
    "nl": ["Goedemorgen, hoe gaat het met jullie vandaag? Het is een mooie dag."],
}


@pytest.mark.parametrize("text", ENGLISH)
def test_english_with_foreign_names_is_english_or_unclear(text: str) -> None:
    assert detect_language(text) in (None, "en")


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in FOREIGN.items() for text in texts])
def test_a_foreign_sentence_is_detected_by_its_stop_words(code: str, text: str) -> None:
    assert detect_language(text) == code


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Привет, мир!", "Russian"),
        ("你好世界", "Chinese"),
        ("こんにちは世界", "Japanese"),
        ("안녕하세요", "Korean"),
        ("مرحبا بالعالم", "Arabic"),
        ("שלום עולם", "Hebrew"),
        ("नमस्ते दुनिया", "Hindi"),
        ("Γειά σου Κόσμε", "Greek"),
        ("สวัสดีชาวโลก", "Thai"),
    ],
)
def test_a_script_that_the_voice_does_not_read_is_named(text: str, name: str) -> None:
    script = foreign_script(text, "en-US")
    assert script is not None
    assert script.startswith(name)


def test_a_few_foreign_words_do_not_make_a_foreign_text() -> None:
    assert foreign_script("The word 世界 means world in Chinese, мир in Russian.", "en") is None
    assert unreadable_words("en").findall("The word 世界 means world, мир too; naïve Zoë.") == ["世界", "мир"]


def test_a_voice_can_read_the_script_of_its_language() -> None:
    assert foreign_script("Привет, мир!", "ru-RU") is None
    assert unreadable_words("ru").findall("Привет, мир и 世界") == ["世界"]
