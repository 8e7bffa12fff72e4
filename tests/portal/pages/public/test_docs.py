"""The guide and the prices, for visitors and users, without JavaScript."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
import requests

import minitoolai
from minitoolai.http.errors import error_codes
from minitoolai.portal.error_words import OPERATOR_CODES, REMEDIES, WORDS, customer_codes
from minitoolai.portal.i18n import LANGUAGES, translations
from minitoolai.portal.pages.public.docs import ERRORS
from tests.support.browse import Visitor
from tests.support.server import ServerProcess


def test_a_visitor_sees_a_placeholder_key_and_how_to_get_one(visitor: Visitor) -> None:
    page = visitor.open("/docs").text
    assert '<code class="masked">sk-…</code>' in page
    assert 'href="/en/signin?next=/en/keys"' in page
    assert page.count("Bearer sk-…") >= 12
    assert "sk-mt-" not in page


def test_a_user_sees_the_own_keys_masked(member: Visitor) -> None:
    assert "You have no keys yet" in member.open("/docs").text
    member.open("/keys")
    member.submit("/keys", name="<b>laptop</b>")
    made = re.search(r'id="new-key">(sk-mt-(\w+)-\S+)</code>', member.page.text)
    assert made
    page = member.open("/docs").text
    assert f"<code>sk-mt-{made[2]}-…</code> <bdi>&lt;b&gt;laptop&lt;/b&gt;</bdi>" in page
    assert made[1] not in page
    member.open("/keys")
    member.submit("/keys/revoke", key=made[2])
    assert made[2] not in member.open("/docs").text


def test_a_user_sees_the_usage_of_the_last_requests(member: Visitor, server: ServerProcess, email: str) -> None:
    page = member.open("/docs").text
    assert page.count("Nothing yet.") == 4
    server.command("credit", "grant", email, "1.00")
    member.open("/keys")
    member.submit("/keys", name="laptop")
    made = re.search(r'id="new-key">(\S+)</code>', member.page.text)
    assert made
    for _ in range(2):
        answer = requests.post(
            server.url + "/api/chat-completions/",
            json={"model": "fake-chat", "messages": [{"role": "user", "content": "Hello"}], "stream": False},
            headers={"authorization": f"Bearer {made[1]}"},
            timeout=20,
        )
        assert answer.status_code == 200
    page = member.open("/docs").text
    assert page.count("Nothing yet.") == 3
    row = page[page.index('id="usage-chat"') : page.index('id="usage-image"')]
    assert re.search(r'fake-chat</th><td class="num" data-label="Requests">2</td>', row)


def test_the_errors_of_the_guide_are_those_of_the_api() -> None:
    answered = {(error.status, error.code) for error in error_codes()}
    assert {(status, code) for status, code, _ in ERRORS} <= answered


def test_every_code_that_a_customer_can_meet_has_words() -> None:
    assert {error.code for error in error_codes()} == WORDS.keys() | OPERATOR_CODES
    assert WORDS.keys().isdisjoint(OPERATOR_CODES)
    assert REMEDIES.keys() <= WORDS.keys()


def test_every_code_in_the_source_is_listed() -> None:
    """A code that is sent is written somewhere: as an argument, or as the default of a class."""
    source = "\n".join(path.read_text("utf-8") for path in Path(minitoolai.__file__).parent.rglob("*.py"))
    sent = set(re.findall(r'\bcode="([a-z_0-9]+)"', source)) | set(
        re.findall(r'^    code = "([a-z_]+)"', source, re.MULTILINE)
    )
    assert sent - {error.code for error in error_codes()} == set()


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_page_lists_every_code_in_the_language_of_the_reader(visitor: Visitor, lang: str) -> None:
    text = visitor.open(f"/{lang}/docs/errors").text
    shown = re.findall(r'<th scope="row">(\d+|–)</th>.*?<code>(\w+)</code></td><td>(.*?)</td>', text)
    expected = [
        (str(status or "–"), code, translations(lang).gettext(words)) for status, code, words in customer_codes()
    ]
    assert [(status, code, html.unescape(words)) for status, code, words in shown] == expected
    assert f'href="/{lang}/docs/errors"' in visitor.open(f"/{lang}/docs").text


def test_the_guide_says_if_no_model_accepts_images(visitor: Visitor) -> None:
    page = visitor.open("/docs").text
    assert "No model accepts images at the moment" in page
    assert "Models that accept images" not in page


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_link_and_label_within_the_page_has_a_target(visitor: Visitor, lang: str) -> None:
    page = visitor.open(f"/{lang}/docs").text
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:href="#|data-copy="|<label for="|aria-labelledby=")([^"]+)"', page)
    assert len(wanted) > 40
    assert set(wanted) <= set(ids)


def test_the_first_tab_is_open_without_javascript(visitor: Visitor) -> None:
    page = visitor.open("/docs").text
    for topic in ("chat", "image", "speech"):
        radios = re.findall(rf'<input [^>]*name="{topic}"[^>]*>', page)
        assert [" checked" in radio for radio in radios] == [True, False, False, False, False]


@pytest.mark.parametrize("path", ["/api-documentation", "/api-documentation/"])
def test_the_path_of_the_original_service_shows_the_guide_in_the_visitors_language(
    server: ServerProcess, path: str
) -> None:
    german = requests.get(server.url + path, headers={"accept-language": "de-AT"}, allow_redirects=False, timeout=20)
    assert german.status_code == 200
    assert '<html lang="de"' in german.text
    assert "accept-language" in german.headers["vary"]
    assert f'rel="canonical" href="{server.url}/de/docs"' in german.text
    turkish = requests.get(
        f"{server.url}/tr{path}", headers={"accept-language": "de"}, allow_redirects=False, timeout=20
    )
    assert '<html lang="tr"' in turkish.text
    assert f'hreflang="fr" href="{server.url}/fr/docs"' in turkish.text


@pytest.mark.parametrize(
    ("lang", "price", "count"),
    [
        ("en", ">$2.50<", "1,000 short"),
        ("de", ">2,50\xa0$<", "1.000 kurze"),
        ("fr", ">2,50\xa0$US<", "1\u202f000 chats"),
        ("pt", ">US$\xa02,50<", "1.000 chats"),
    ],
)
def test_prices_are_formatted_in_the_language(visitor: Visitor, lang: str, price: str, count: str) -> None:
    page = visitor.open(f"/{lang}/prices").text
    assert price in page
    assert count in page
