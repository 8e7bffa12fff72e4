"""What holds for every page: languages, themes, headers, files, sizes, and what is not there."""

from __future__ import annotations

import gzip
import re

import pytest
import requests

from minitoolai.portal.borders import is_local
from minitoolai.portal.i18n import LANGUAGES
from tests.support.browse import Visitor
from tests.support.server import ServerProcess

OPEN = ("/", "/docs", "/prices", "/signup", "/signin", "/reset")


def test_the_root_leads_to_the_visitors_language_and_the_choice_is_remembered(visitor: Visitor) -> None:
    assert visitor.open("/", headers={"accept-language": "tr,en;q=0.5"}).url.endswith("/tr/")
    visitor.open("/de/")
    assert visitor.open("/", headers={"accept-language": "tr"}).url.endswith("/de/")


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("path", OPEN)
def test_a_page_names_its_language_and_its_siblings(server: ServerProcess, lang: str, path: str) -> None:
    answer = requests.get(f"{server.url}/{lang}{path}", timeout=20)
    assert answer.status_code == 200
    assert f'<html lang="{lang}"' in answer.text
    assert answer.headers["content-language"] == lang
    for other in LANGUAGES:
        assert f'hreflang="{other}" href="{server.url}/{other}{path}"' in answer.text
    assert len(answer.text.encode()) <= 60_000
    assert "<script>" not in answer.text
    assert not re.search(r"\sstyle=|\son\w+=", answer.text)


@pytest.mark.parametrize("path", [*OPEN, "/nothing", "/keys"])
def test_every_page_forbids_what_browsers_should_not_do(server: ServerProcess, path: str) -> None:
    answer = requests.get(f"{server.url}/en{path}", timeout=20, allow_redirects=False)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "no-" in answer.headers["cache-control"]


def test_nothing_is_asked_of_other_hosts(server: ServerProcess, visitor: Visitor) -> None:
    for path in OPEN:
        for address in re.findall(r'(?:src|href|action)="([^"]*)"', visitor.open(path).text):
            assert address.startswith(("/", "#", server.url)), address


def test_files_have_names_that_change_with_them_and_are_kept_for_a_year(visitor: Visitor) -> None:
    address = re.search(r'href="(/static/[0-9a-f]{12}/portal\.css)"', visitor.open("/").text)
    assert address
    file = visitor.open(address[1])
    assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert file.headers["content-type"] == "text/css; charset=utf-8"
    assert file.headers["content-encoding"] == "gzip"
    assert visitor.open("/static/000000000000/portal.css").status_code == 404
    assert visitor.open("/static/../site.py").status_code == 404


def test_a_page_may_be_packed(server: ServerProcess) -> None:
    answer = requests.get(server.url + "/en/", headers={"accept-encoding": "gzip"}, stream=True, timeout=20)
    assert answer.headers["content-encoding"] == "gzip"
    assert b"</html>" in gzip.decompress(answer.raw.read(decode_content=False))


def test_a_theme_is_chosen_and_remembered_without_a_script(visitor: Visitor) -> None:
    visitor.open("/signin")
    visitor.submit("/theme", theme="dark")
    assert visitor.page.url.endswith("/en/signin")
    assert 'data-theme="dark"' in visitor.page.text
    visitor.submit("/theme", theme="light")
    assert 'data-theme="light"' in visitor.open("/").text
    visitor.submit("/theme", theme='"><script>')
    assert "data-theme" not in visitor.page.text


@pytest.mark.parametrize("path", ["/en/nothing", "/de/keys/1/2/3", "/en/%00", "/en/%f0%28", "/en/..%2f..%2fetc/passwd"])
def test_what_is_not_there_is_said_in_a_page(server: ServerProcess, path: str) -> None:
    answer = requests.get(server.url + path, timeout=20)
    assert answer.status_code == 404
    assert "</html>" in answer.text


def test_the_api_keeps_its_own_words(server: ServerProcess) -> None:
    assert requests.get(server.url + "/xx/keys", timeout=20).json()["error"]["code"] == "not_found"
    assert requests.get(server.url + "/v1/models", timeout=20).json()["error"]["code"] == "invalid_api_key"


def test_head_is_answered_like_get(server: ServerProcess) -> None:
    answer = requests.head(server.url + "/en/", timeout=20)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "address",
    ["//evil.example", "https://evil.example", "/\\evil.example", "/en\n/x", "", "javascript:alert(1)", "/v1/models",
     "/enx", "///en/", "/%2fevil", "en/keys", "/\tevil", "/en/\x7f"],
)  # fmt: skip
def test_an_address_that_leads_elsewhere_is_not_local(address: str) -> None:
    assert not is_local(address)


@pytest.mark.parametrize("address", ["/en", "/de/keys", "/fr/usage?by=day", "/tr/"])
def test_an_address_of_a_page_is_local(address: str) -> None:
    assert is_local(address)
