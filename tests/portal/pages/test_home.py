"""The redirect from the root, the theme, static files and the files at fixed paths."""

from __future__ import annotations

import re

import pytest
import requests

from tests.support.browse import Visitor
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
