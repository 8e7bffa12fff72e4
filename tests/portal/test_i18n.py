"""Translations are complete, keep their placeholders, and have the plural forms of their language."""

from __future__ import annotations

import re
from functools import cache

import pytest
from tools import messages

from minitoolai.portal.i18n import LANGUAGES, formatter, preferred_language, translations

TRANSLATED = messages.TRANSLATED
TEXTS = [text for part in messages.texts().values() for text in part]


def test_texts_are_found_in_code_and_templates() -> None:
    found = {text[0] for text in TEXTS}
    assert {"Sign in", "Keys", "Page not found", "The address <strong>%(email)s</strong> is confirmed."} <= found


def test_the_catalogs_are_up_to_date() -> None:
    for path, text in messages.catalogs().items():
        assert path.read_text("utf-8") == text, f"{path}: run python -m tools.messages"
    assert set(messages.FOLDER.rglob("*.po")) == set(messages.catalogs())


@pytest.mark.parametrize("lang", TRANSLATED)
def test_nothing_is_untranslated(lang: str) -> None:
    assert [text for other, text in missing() if other == lang] == []


@cache
def missing() -> list[tuple[str, str]]:
    """Looked for once for all languages."""
    return messages.missing()


@pytest.mark.parametrize("lang", TRANSLATED)
def test_a_translation_keeps_placeholders_and_markup(lang: str) -> None:
    known = messages.catalog(lang)
    parts = re.compile(r"%\(\w+\)[ds]|%%|</?[a-z]+[^>]*>")
    for text in TEXTS:
        for string in known[text[0]]:
            assert sorted(parts.findall(string)) == sorted(parts.findall(text[0])), (lang, string)


@pytest.mark.parametrize("lang", TRANSLATED)
def test_every_text_with_a_count_has_all_plural_forms(lang: str) -> None:
    forms = 2 if "nplurals=2" in messages.PLURALS[lang] else 1
    known = messages.catalog(lang)
    assert all(len(known[text[0]]) == forms for text in TEXTS if len(text) == 2)


@pytest.mark.parametrize(
    ("lang", "one", "many"), [("en", 1, 2), ("de", 1, 0), ("pt", 0, 2), ("fr", 1, 2), ("es", 1, 0)]
)
def test_plural_forms_follow_the_language(lang: str, one: int, many: int) -> None:
    say = translations(lang).ngettext
    single, plural = "It needs at least %(num)d character.", "It needs at least %(num)d characters."
    assert say(single, plural, one) == say(single, plural, 1)
    assert say(single, plural, many) == say(single, plural, 5)


@pytest.mark.parametrize(
    ("lang", "number", "money"),
    [
        ("en", "1,234,567.5", "$1,234.000000015"),
        ("de", "1.234.567,5", "1.234,000000015\xa0$"),
        ("pt", "1.234.567,5", "US$\xa01.234,000000015"),
        ("fr", "1\u202f234\u202f567,5", "1\u202f234,000000015\xa0$US"),
        ("tr", "1.234.567,5", "$1.234,000000015"),
        ("id", "1.234.567,5", "US$1.234,000000015"),
        ("es", "1.234.567,5", "1.234,000000015\xa0US$"),
    ],
)
def test_numbers_and_money_follow_the_language(lang: str, number: str, money: str) -> None:
    assert formatter(lang).number(1234567.5) == number
    assert formatter(lang).money(1_234_000_000_015) == money


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_round_amount_has_two_decimals(lang: str) -> None:
    assert re.search(r"5[.,]00(\D|$)", formatter(lang).money(5_000_000_000))


@pytest.mark.parametrize(
    ("header", "cookie", "lang"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "", "de"),
        ("de-AT,de;q=0.9", "tr", "tr"),
        ("nl,fr;q=0.3,es;q=0.5", "", "es"),
        ("in-ID", "", "id"),
        ("nl", "xx", "en"),
        ("", "", "en"),
        ("*;q=x,,;;;q=", "", "en"),
        ("pt-BR;q=0,de;q=0.1", "", "de"),
        ("de; q=0.9", "", "de"),
        ("en ; q = 0.3 , fr; Q=0.9", "", "fr"),
        ("es;level=1;q=0.2, tr;level=2; q=0.7", "", "tr"),
    ],
)
def test_the_language_follows_the_cookie_and_accept_language(header: str, cookie: str, lang: str) -> None:
    assert preferred_language(header, cookie) == lang
