"""The redirect from the root, the theme, static files and the files at fixed paths."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
import requests

from minitoolai.portal.i18n import LANGUAGES, translations
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess


def test_the_root_redirects_to_the_visitors_language_and_remembers_it(visitor: Visitor) -> None:
    assert visitor.open("/", headers={"accept-language": "tr,en;q=0.5"}).url.endswith("/tr/")
    visitor.open("/de/")
    assert visitor.open("/", headers={"accept-language": "tr"}).url.endswith("/de/")


def test_static_files_have_a_url_with_their_hash_and_are_cached_for_a_year(visitor: Visitor) -> None:
    address = re.search(r'href="(/static/[0-9a-f]{12}/portal\.css)"', visitor.open("/").text)
    assert address
    file = visitor.open(address[1])
    assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert file.headers["content-type"] == "text/css; charset=utf-8"
    assert file.headers["content-encoding"] == "gzip"
    assert visitor.open("/static/000000000000/portal.css").status_code == 404
    assert visitor.open("/static/../site.py").status_code == 404


def test_a_theme_is_chosen_and_remembered_without_javascript(visitor: Visitor) -> None:
    visitor.open("/signin")
    visitor.submit("/theme", theme="dark")
    assert visitor.page.url.endswith("/en/signin")
    assert 'data-theme="dark"' in visitor.page.text
    visitor.submit("/theme", theme="light")
    assert 'data-theme="light"' in visitor.open("/").text
    visitor.submit("/theme", theme='"><script>')
    assert "data-theme" not in visitor.page.text


def test_changing_language_or_theme_keeps_the_page_and_its_query(member: Visitor) -> None:
    page = member.open("/usage?days=7").text
    assert 'href="/de/usage?days=7"' in page
    member.submit("/theme", theme="dark")
    assert member.page.url.endswith("/en/usage?days=7")
    assert 'href="/de/&#34;' not in member.open('/usage?x="><script>').text


@pytest.mark.parametrize("path", ["/favicon.ico", "/robots.txt", "/api-documentation", "/en/"])
def test_head_has_the_status_and_headers_of_get(server: ServerProcess, path: str) -> None:
    head, get = (
        requests.request(method, server.url + path, allow_redirects=False, timeout=20) for method in ("HEAD", "GET")
    )
    assert (head.status_code, head.content) == (get.status_code, b"")
    for name in ("location", "content-type", "cache-control", "vary"):
        assert head.headers.get(name) == get.headers.get(name), name


def test_head_of_the_root_says_that_the_server_is_there(server: ServerProcess) -> None:
    # Claude Code sends it first, and does not follow redirects.
    head = requests.head(server.url + "/", timeout=20)
    assert (head.status_code, head.content, head.headers.get("location")) == (200, b"", None)


def test_search_engines_may_not_read_the_sign_in(server: ServerProcess) -> None:
    robots = requests.get(server.url + "/robots.txt", timeout=20)
    assert robots.headers["content-type"] == "text/plain; charset=utf-8"
    assert "Disallow: /*/signin" in robots.text


def test_a_wrong_method_at_a_fixed_path_is_refused_with_the_right_ones(server: ServerProcess) -> None:
    refused = requests.post(server.url + "/robots.txt", timeout=20)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert refused.text == "405 POST /robots.txt: Method Not Allowed\n"


def test_a_path_outside_the_languages_is_a_404_in_one_line(server: ServerProcess) -> None:
    refused = requests.get(server.url + "/webhooks/nothing", timeout=20)
    assert (refused.status_code, refused.text) == (404, "404 GET /webhooks/nothing: Not Found\n")


# ── search engines and links in chats ─────────────────────────────────────────────────────────────────────


def test_the_sitemap_lists_the_public_pages_in_every_language(server: ServerProcess) -> None:
    robots = requests.get(server.url + "/robots.txt", timeout=20).text
    assert f"Sitemap: {server.url}/sitemap.xml" in robots
    answer = requests.get(server.url + "/sitemap.xml", timeout=20)
    assert answer.headers["content-type"] == "application/xml"
    names = {"s": "http://www.sitemaps.org/schemas/sitemap/0.9", "x": "http://www.w3.org/1999/xhtml"}
    urls = ElementTree.fromstring(answer.content).findall("s:url", names)
    found = {url.findtext("s:loc", "", names) for url in urls}
    paths = (
        "/",
        "/docs",
        "/docs/errors",
        "/limits",
        "/models",
        "/prices",
        "/status",
        "/check",
        "/changelog",
        "/signup",
    )
    assert found == {f"{server.url}/{lang}{path}" for lang in LANGUAGES for path in paths}
    for url in urls:
        assert {link.get("hreflang") for link in url.findall("x:link", names)} == set(LANGUAGES)
    for address in found:
        assert requests.get(address, timeout=20).status_code == 200, address


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/docs/errors", "/limits", "/prices", "/check", "/changelog", "/signup"]
)
def test_a_public_page_describes_itself_in_its_language(visitor: Visitor, path: str) -> None:
    seen = set()
    for lang in LANGUAGES:
        page = visitor.open(f"/{lang}{path}").text
        description = re.search(r'<meta name="description" content="([^"]+)">', page)
        title = re.search(r'<meta property="og:title" content="([^"]+)">', page)
        assert description
        assert title
        assert f"<title>{title[1]}</title>" in page
        assert f'<meta property="og:description" content="{description[1]}">' in page
        assert f'href="{visitor.server.url}/{lang}{path}"' in page
        seen.add(description[1])
    assert len(seen) == len(LANGUAGES)


# ── addresses without a language ──────────────────────────────────────────────────────────────────────────

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8", "accept-language": "de; q=0.9"}


@pytest.mark.parametrize(
    "path", ["/keys", "/docs", "/docs/errors/", "/topup", "/admin/accounts", "/signin?next=/de/keys"]
)
def test_a_browser_at_a_page_without_a_language_gets_to_the_page(server: ServerProcess, path: str) -> None:
    answer = requests.get(server.url + path, headers=BROWSER, allow_redirects=False, timeout=20)
    assert (answer.status_code, answer.headers["location"]) == (302, f"/de{path.replace('errors/', 'errors')}")
    assert "accept-language" in answer.headers["vary"]


@pytest.mark.parametrize("path", ["/nothing", "/v2/nothing", "/webhooks/nothing", "/keyz/%3Cscript%3E"])
def test_a_browser_at_an_unknown_address_gets_a_page_in_its_language(server: ServerProcess, path: str) -> None:
    answer = requests.get(server.url + path, headers=BROWSER, timeout=20)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "Seite nicht gefunden" in answer.text
    assert "<script>" not in answer.text.replace("<script type", "")
    assert "content-security-policy" in answer.headers


def test_a_program_at_an_unknown_address_still_gets_json(server: ServerProcess) -> None:
    for headers in ({}, {"accept": "application/json"}, {"accept": "*/*"}):
        answer = requests.get(server.url + "/keys", headers=headers, timeout=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = requests.post(server.url + "/nothing", headers=BROWSER, timeout=20)
    assert answer.json()["error"]["code"] == "not_found"
    forged = requests.get(server.url + "/nothing", headers=BROWSER | {"host": "a b"}, timeout=20)
    assert forged.headers["content-type"] != "text/html; charset=utf-8"


# ── closed sign-up ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_closed_sign_up_is_offered_nowhere(closed: ServerProcess, lang: str) -> None:
    visitor = Visitor(closed, lang)
    words = translations(lang).gettext
    for path in ("/", "/docs", "/docs/errors", "/prices", "/check", "/signin", "/reset", "/confirm?link=x"):
        page = visitor.open(path).text
        assert "/signup" not in page, path
        assert words("Create an account") not in page, path
    assert words("Sign-up is closed. The operator of this site creates accounts.") in html.unescape(
        visitor.open("/").text
    )
    assert visitor.open("/signup").status_code == 404
    assert "/signup" not in requests.get(closed.url + "/sitemap.xml", timeout=20).text
    for path in ("/llms.txt", "/SKILL.md", "/llms-full.txt"):
        assert "/signup" not in requests.get(closed.url + path, timeout=20).text


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("closed")
    with ServerProcess(folder, catalog=CATALOG, env={"MINITOOLAI_SIGNUP": "0"}) as server:
        yield server
