"""Unit tests of leaving out markup, and of naming scripts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.core.catalog.catalog import VoiceEntry
from minitoolai.speech.markup import FILL, blank_markup
from minitoolai.speech.text import SpeechText, foreign_script, unreadable_words

VOICE = VoiceEntry(id="heart", engine="hibari", language="en-US", licence="x")


def pieces(text: str) -> list[str]:
    return [piece.text for piece in SpeechText(text, VOICE).pieces()]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("**Hello.** World, *nice* day", ["Hello.", "World, nice day"]),
        ("# Title\n- one\n- [x] two\n1. three", ["Title", "one", "two", "1. three"]),
        ('See [the docs](https://x.y/z_(a) "t") and ![a cat](a.png).', ["See the docs and a cat."]),
        ("[![badge](b.svg)](https://x.y)", ["badge"]),
        ("<speak>Hello <break time='1s'/> world</speak>", ["Hello", "world"]),
        ('<prosody rate="slow">Slow</prosody> talk', ["Slow talk"]),
        ("a <b and c> d", ["a <b and c> d"]),
        ("<p>One</p><p>Two &amp; three</p>", ["One", "Two & three"]),
        ("Before\n```py\nx = 1\n```\nAfter", ["Before", "After"]),
        ("Open\n```\nx = 1", ["Open"]),
        ("| a | b |\n|---|:-:|\n| 1 | 2 |", ["a , b", "1 , 2"]),
        ("2 * 3 = 6 and 2*3", ["2 * 3 = 6 and 2*3"]),
        ("snake_case _em_ __b__ `code` ~~gone~~", ["snake_case em b code gone"]),
        ("x < y and y > z", ["x < y and y > z"]),
        ("<script>alert(1)</SCRIPT >Hi<style>p{}</style>", ["Hi"]),
        ("A<!-- no -->B İ<!-- no -->C", ["AB İC"]),
        ("text[^1]\n\n[^1]: the note\n[ref]: https://x.y", ["text", "the note"]),
        ("> quote\n\n---\nend", ["quote", "end"]),
        ("5 - 3\n-5 degrees", ["5 - 3", "-5 degrees"]),
        ("Mail <me@example.com> or <https://x.y>.", ["Mail me@example.com or https://x.y."]),
    ],
)
def test_markup_is_left_out(text: str, spoken: list[str]) -> None:
    assert pieces(text) == spoken


@given(st.text(alphabet="ab .\n<>/&;*_`~#|[]()!-:'\"=^\\İ", max_size=200))
def test_the_length_and_every_other_character_stay(text: str) -> None:
    blanked = blank_markup(text)
    assert len(blanked) == len(text)
    assert SpeechText(text, VOICE).characters == len(text)


@pytest.mark.parametrize(
    "unit", "<|[a](|*|_a|<b |```\n|||&a|[[|- |<!--|\n|> |~|<script>|\\|`a|-- |](|</|![".split("|") + ["|", "|-"]
)
def test_any_text_takes_linear_time(unit: str) -> None:
    text = (unit * 100_000)[:100_000] if unit else ""
    started_s = time.process_time()
    blank_markup(text)
    assert time.process_time() - started_s < 1


def test_another_language_gets_its_text_unchanged() -> None:
    voice = VoiceEntry(id="alloy", engine="openai", language="*", licence="x")
    assert SpeechText("**a**", voice).text == "**a**"
    assert FILL not in SpeechText("plain text", VOICE).text


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
