"""One mailbox has one spelling, invisible characters are refused, and passwords are hashed in one form."""

from __future__ import annotations

import unicodedata

import pytest

from minitoolai.accounts.addresses import ascii_email, check_email, email_forms, normalize_password, password_forms
from minitoolai.core.errors import InvalidRequest

SAME = {
    "ann@example.com": [
        "Ann@Example.COM",
        " ann@example.com\n",
        "ann@EXAMPLE.com.",
        "ann@example。com",
        "ann@ｅxample.com",
    ],
    "a@b": [" a@b "],
    "ä@ö.de": ["Ä@Ö.de", "a\u0308@o\u0308.de", "ä@xn--nda.de", "ä@XN--NDA.DE"],
    "josé@example.com": ["jose\u0301@example.com", "JOSE\u0301@example.com"],
    "k@example.com": ["\u212a@example.com"],
    "o'brien+ai@example.com": ["O'Brien+AI@example.com"],
    "ann@faß.example": ["ann@FAß.example", "ann@xn--fa-hia.example"],
}
REFUSED = [
    "",
    "ann",
    "@b",
    "a@",
    "a b@c",
    "a@b@c",
    "a@" + "b" * 300,
    "a@b\nc",
    "a" * 250 + "@b.de",
    "an\u200bn@example.com",
    "ann\ufeff@example.com",
    "ann@exam\u00adple.com",
    "ann@example\u2060.com",
    "\u202eann@example.com",
    "ann\u034f@example.com",
    "ann\u3164@example.com",
    "ann\ufe0f@example.com",
    "ann\U000e0041@example.com",
    "an\x00n@example.com",
    "ann\u00a0b@example.com",
    "ann@-a.com",
    "ann@a-.com",
    "ann@a..com",
    "ann@foo_bar.com",
    "ann@xn--a.com",
    "ann@☃\ufe0f.net",
    "ann＠example.com",
    "ann@\u0301a.com",
    "ann@" + "ü" * 64 + ".de",
    "ann@[127.0.0.1]",
    "ann@a/b",
    "ann\ud800@example.com",
]


@pytest.mark.parametrize(("kept", "text"), [(kept, text) for kept, texts in SAME.items() for text in [kept, *texts]])
def test_every_spelling_of_a_mailbox_is_kept_as_one(kept: str, text: str) -> None:
    assert check_email(text) == kept
    assert email_forms(text)[0] == kept


@pytest.mark.parametrize("text", REFUSED)
def test_a_malformed_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Use the form ann@example\.com") as refusal:
        check_email(text)
    assert refusal.value.param == "email"
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(("one", "other"), [("straße@example.com", "strasse@example.com"), ("a.b@c.de", "ab@c.de")])
def test_different_mailboxes_stay_different(one: str, other: str) -> None:
    assert not set(email_forms(one)) & set(email_forms(other))


def test_older_spellings_are_found_too() -> None:
    forms = email_forms("Ann@Bücher.example")
    assert forms[0] == "ann@bücher.example"
    assert {"ann@xn--bcher-kva.example", unicodedata.normalize("NFD", "ann@bücher.example")} <= set(forms)
    assert email_forms(" A\u200bnn@foo_bar ") == ["a\u200bnn@foo_bar"]


def test_a_mail_server_gets_the_ascii_form_of_the_domain() -> None:
    assert ascii_email("ann@bücher.example") == "ann@xn--bcher-kva.example"
    assert ascii_email("ann@example.com") == "ann@example.com"


@pytest.mark.parametrize(
    ("typed", "kept"),
    [("correct horse", "correct horse"), ("cafe\u0301 noir", "café noir"), ("a\u3000b\u00a0c\u2003d", "a b c d"),
     ("ﬁsh and ẞ", "ﬁsh and ẞ"), ("Ｐassword", "Ｐassword"), (" edges ", " edges ")],
)  # fmt: skip
def test_a_password_is_normalized_as_rfc_8265_says(typed: str, kept: str) -> None:
    assert normalize_password(typed) == kept
    assert password_forms(typed)[0] == kept


def test_a_plain_password_has_one_form_only() -> None:
    assert password_forms("correct horse") == ["correct horse"]
