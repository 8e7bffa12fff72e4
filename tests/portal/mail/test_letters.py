"""E-mails lead to pages that exist, name the right address, and bear the shop's name."""

from __future__ import annotations

import re

import pytest

from minitoolai.core.catalog.shop import Shop
from minitoolai.portal.i18n import DEFAULT, LANGUAGES, translations
from minitoolai.portal.mail.letters import (
    ALARM_PATH,
    ALARM_WITHOUT_PASSWORDS,
    TEXTS,
    letter_composer,
    sender_of,
)

SITE = "https://ai.example.com"


def links(text: str) -> list[str]:
    return re.findall(r"https://\S+", text)


@pytest.mark.parametrize("purpose", TEXTS)
def test_an_e_mail_has_at_most_one_link_which_is_on_this_site_in_its_language(purpose: str) -> None:
    letter = letter_composer(Shop(), SITE, "de", "ann@example.com", "bob@example.com")(purpose, "s3cret")  # type: ignore[arg-type]
    path = ALARM_PATH if TEXTS[purpose].alarm else TEXTS[purpose].path  # type: ignore[index]
    assert links(letter.text) == ([f"{SITE}/de{path.format(secret='s3cret')}"] if path else [])
    assert letter.to == "ann@example.com"
    assert "%(" not in letter.text + letter.subject


def test_only_where_passwords_sign_in_an_alarm_leads_to_their_reset() -> None:
    alarms = [purpose for purpose, text in TEXTS.items() if text.alarm]
    assert len(alarms) >= 5
    for purpose in TEXTS:
        compose = letter_composer(Shop(), SITE, "en", "ann@example.com", "bob@example.com", is_password_open=False)
        text = compose(purpose, "s").text
        if purpose in alarms:
            assert links(text) == [f"{SITE}/en/account"], purpose
            assert ALARM_WITHOUT_PASSWORDS in text
            assert "reset your password" not in text.replace("\n", " ")
        else:
            assert links(text) == links(
                letter_composer(Shop(), SITE, "en", "a@b.example", "bob@example.com")(purpose, "s").text
            )


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_text_is_translated(lang: str) -> None:
    translate = translations(lang).gettext
    for text in TEXTS.values():
        for words in filter(None, (text.subject, text.words, text.end, text.alarm, ALARM_WITHOUT_PASSWORDS)):
            assert (translate(words) != words) is (lang != DEFAULT), words


def test_the_address_that_it_is_about_is_in_the_text() -> None:
    compose = letter_composer(Shop(), SITE, "en", "ann@example.com", "bob@example.com")
    assert "bob@example.com" in compose("email_changed", "").text
    assert "bob@example.com" not in compose("reset", "s").text


def test_a_shop_with_a_name_signs_and_sends_under_its_own() -> None:
    shop = Shop(name="Acme", mail_from="hello@acme.example", support="help@acme.example")
    letter = letter_composer(shop, SITE, "en", "ann@example.com")("changed", "")
    assert letter.subject == "Acme: Your password was changed"
    assert letter.text.endswith("-- \nAcme\nhelp@acme.example\n")
    assert letter.sender == "Acme <hello@acme.example>"
    assert sender_of(Shop()) == ""
    assert sender_of(Shop(name="Acme", mail_from="The shop <x@acme.example>")) == "The shop <x@acme.example>"
