"""Customers see the codes that they can meet, each with words and a way out that exists."""

from __future__ import annotations

from minitoolai.http.errors import error_codes
from minitoolai.portal.error_words import OPERATOR_CODES, REMEDIES, WORDS, customer_codes
from minitoolai.portal.i18n import LANGUAGES, translations


def test_customers_see_every_code_but_those_of_the_command_line() -> None:
    shown = {code for _, code, _ in customer_codes()}
    assert shown == {one.code for one in error_codes()} - OPERATOR_CODES
    assert shown.isdisjoint(OPERATOR_CODES)


def test_each_code_has_a_sentence_in_every_language() -> None:
    for lang in LANGUAGES:
        translate = translations(lang).gettext
        for code, words in WORDS.items():
            assert translate(words)[-1] in ".。", (lang, code)
            assert (translate(words) == words) is (lang == "en"), (lang, code)


def test_a_remedy_is_for_a_code_that_has_words() -> None:
    assert set(REMEDIES) <= set(WORDS)
