"""The pages of the API reference and of the search."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import requests

from minitoolai.api.openapi import describe
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.reference import MODEL, Reference
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

REFERENCE = Reference(describe())


@pytest.mark.parametrize("slug", REFERENCE.operations)
def test_every_operation_has_a_small_page(visitor: Visitor, slug: str) -> None:
    page = visitor.open(f"/reference/{slug}").text
    assert f"<code>{REFERENCE.operations[slug].path}</code>" in page
    assert len(page.encode()) < 60_000
    if "/chat" in slug:
        # The catalog has models for chats, and the example names one.
        assert MODEL not in re.sub(r"<[^>]*>", "", page)


def test_the_list_leads_to_every_page(visitor: Visitor) -> None:
    page = visitor.open("/reference").text
    for slug in REFERENCE.operations:
        assert f'href="/en/reference/{slug}"' in page


def test_an_unknown_operation_is_not_found(visitor: Visitor) -> None:
    assert visitor.open("/reference/post-nothing").status_code == 404


def test_the_example_of_a_chat_runs(visitor: Visitor, account: Account) -> None:
    page = visitor.open("/reference/post-v1-chat-completions").text
    found = re.search(r'<code id="example-code">(.*?)</code>', page, re.DOTALL)
    assert found
    text = re.sub(r"<[^>]*>", "", found[1])
    body = text[text.index("-d '") + 4 : text.rindex("'")]
    url = re.search(r"https?://\S+", text)
    assert url
    headers = account.headers | {"content-type": "application/json"}
    answer = requests.post(url[0], data=body.encode(), headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text


# ── search ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lang", "text", "address"),
    [
        ("en", "streaming", "/en/docs#stream"),
        ("en", "invalid_api_key", "/en/docs/errors"),
        ("en", "max_completion_tokens", "/en/reference/post-v1-chat-completions"),
        ("en", "/v1/embeddings", "/en/reference/post-v1-embeddings"),
        ("en", "fake-chat", "/en/models/fake-chat"),
        ("de", "guthaben aufladen", "/de/docs#top-up"),
        ("tr", "akış", "/tr/docs#stream"),
        ("fr", "cle d'api", "/fr/docs#key"),
    ],
)
def test_a_search_leads_to_the_place_in_the_language_of_the_page(
    visitor: Visitor, lang: str, text: str, address: str
) -> None:
    page = visitor.get(visitor.url(f"/{lang}/search"), params={"q": text}).text
    assert f'href="{address}"' in page.partition('<ol class="results">')[2].partition("</ol>")[0]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_without_a_text_there_is_a_form_and_with_an_unknown_one_a_hint(visitor: Visitor, lang: str) -> None:
    assert 'role="search"' in visitor.get(visitor.url(f"/{lang}/search")).text
    page = visitor.get(visitor.url(f"/{lang}/search"), params={"q": "qqqzzzxxx"}).text
    assert "qqqzzzxxx" in page
    assert '<ol class="results">' not in page


@pytest.mark.parametrize("text", ['"><script>alert(1)</script>', "\x02<b>\x03", '" OR *', "x" * 9000, "  "])
def test_what_was_searched_for_is_only_text(visitor: Visitor, text: str) -> None:
    answer = visitor.get(visitor.url("/en/search"), params={"q": text})
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "<b>" not in answer.text.partition("<main")[2].partition("</main>")[0]


def test_no_visitor_sees_the_host_of_another(visitor: Visitor) -> None:
    forged = visitor.get(visitor.url("/en/search"), headers={"host": "evil.example"}, params={"q": "base URL"})
    assert forged.status_code == 200
    for text in ("evil", "base URL", "endpoints"):
        assert (
            "evil.example" not in visitor.get(visitor.url("/en/search"), params={"q": text}).text.partition("<main")[2]
        )


def test_a_model_that_a_reload_brings_is_found(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=CATALOG) as server:
        visitor = Visitor(server)

        def is_found(name: str) -> bool:
            return f">{name}</a>" in visitor.get(visitor.url("/en/search"), params={"q": name}).text

        assert is_found("fake-chat")
        assert not is_found("newcomer")
        added = '\n[chat.newcomer]\ninput = "1"\noutput = "1"\ncontext = 100\nmax_output = 50\nengines = ["fake"]\n'
        Path(server.env["MINITOOLAI_CATALOG"]).write_text(CATALOG + added)
        os.kill(server.pid, signal.SIGHUP)
        eventually(lambda: is_found("newcomer"))
