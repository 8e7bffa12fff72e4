"""A shop with its own name: pages, colours, logo and reload."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.rendering.prose import render
from tests.support.browse import new_user
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

SHOP = """
[shop]
name = "Acme & Söhne AI"
logo = "logo.svg"
accent = "#0b6e4f"
accent_dark = "#5fd4a8"
support = "help@acme.example"
terms = { en = "terms.md", de = "agb.md" }
imprint = "imprint.md"
footer = "Acme <Ltd>"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    (folder / "terms.md").write_text("# Our *terms*\n\n<script>alert(1)</script> [x](javascript:alert(1))\n")
    (folder / "agb.md").write_text("# Unsere AGB\n")
    (folder / "imprint.md").write_text("Acme, 1 High Street\n")
    return folder


@pytest.fixture(scope="module")
def shop(folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess(folder, catalog=CATALOG + SHOP) as server:
        yield server


def get(server: ServerProcess, path: str) -> str:
    answer = requests.get(server.url + path, timeout=20)
    assert answer.status_code == 200, path
    return answer.text


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_page_has_the_name_the_links_and_the_footer(shop: ServerProcess, lang: str) -> None:
    text = get(shop, f"/{lang}/prices")
    assert "· Acme &amp; Söhne AI</title>" in text
    assert '<meta property="og:site_name" content="Acme &amp; Söhne AI">' in text
    assert "Acme &lt;Ltd&gt;" in text
    assert 'href="mailto:help@acme.example"' in text
    assert f'href="/{lang}/terms"' in text
    assert f'href="/{lang}/privacy"' not in text
    # Of all pages, the program is named at the foot only.
    assert text.count("MiniToolAI") == 1


@pytest.mark.parametrize("lang", LANGUAGES)
def test_who_signs_up_is_told_of_the_terms(shop: ServerProcess, lang: str) -> None:
    form = get(shop, f"/{lang}/signup").split(f'action="/{lang}/signup"')[1].split("</form>")[0]
    assert f'<a href="/{lang}/terms">' in form


def test_a_text_is_shown_in_the_readers_language_or_the_shops_and_is_harmless(shop: ServerProcess) -> None:
    german, french = get(shop, "/de/terms"), get(shop, "/fr/terms")
    assert '<article class="prose" lang="de">\n<h1>Unsere AGB</h1>' in german
    assert "<title>Unsere AGB · " in german
    assert '<article class="prose" lang="en">\n<h1>Our <em>terms</em></h1>' in french
    assert "<title>Our terms · " in french
    assert "&lt;script&gt;" in french
    assert 'href="javascript:' not in french
    # Without a heading, the page has its usual title.
    assert "<title>Impressum · " in get(shop, "/de/imprint")
    assert requests.get(f"{shop.url}/en/privacy", timeout=20).status_code == 404


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "JaVaScRiPt:x", "data:text/html,x", "vbscript:x", "//evil.example"]
)
def test_a_link_leads_to_the_web_mail_or_this_site_only(link: str) -> None:
    assert "<a " not in render(f"[x]({link})").html
    for fine in ("https://a.example", "mailto:a@example.com", "/en/prices", "#top", "other"):
        assert f'<a href="{fine}">' in render(f"[x]({fine})").html
    assert "<img" not in render("![x](https://a.example/x.png)").html


def test_colours_and_logo_are_files_that_run_nothing(shop: ServerProcess) -> None:
    page = get(shop, "/en/")
    colours = re.search(r'href="(/static/shop-\w+/colours\.css)"', page)
    logo = re.search(r'<img src="(/static/shop-\w+/logo)"', page)
    assert colours
    assert logo
    assert "--accent:light-dark(#0b6e4f,#5fd4a8)" in get(shop, colours[1])
    answer = requests.get(shop.url + logo[1], timeout=20)
    assert answer.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert requests.get(f"{shop.url}/static/shop-000000000000/logo", timeout=20).status_code == 404


def test_examples_and_descriptions_have_the_name(shop: ServerProcess) -> None:
    document = requests.get(f"{shop.url}/openapi.json", timeout=20).json()
    assert document["info"]["title"] == "Acme & Söhne AI"
    assert document["info"]["contact"]["email"] == "help@acme.example"
    assert get(shop, "/llms.txt").startswith("# Acme & Söhne AI\n")
    skill = get(shop, "/SKILL.md")
    assert skill.startswith("---\nname: acme-s-hne-ai\n")
    assert "`ACME_S_HNE_AI_API_KEY`" in skill
    assert 'model_provider</b> = <i>"acme-s-hne-ai"' in get(shop, "/en/docs")


def test_a_shop_is_read_again_without_a_restart_and_a_mistake_leaves_it(folder: Path, shop: ServerProcess) -> None:
    path = folder / "catalog.toml"
    before = path.read_text()
    path.write_text(before.replace("Acme & Söhne AI", "Bolt AI"))
    os.kill(shop.pid, signal.SIGHUP)
    eventually(lambda: "· Bolt AI</title>" in get(shop, "/en/"))
    path.write_text(before.replace("#0b6e4f", "#ffd400"))
    os.kill(shop.pid, signal.SIGHUP)
    eventually(lambda: "needs 4.5:1; choose a darker colour" in shop.log.read_text())
    assert "· Bolt AI</title>" in get(shop, "/en/")
    path.write_text(before)
    admin = new_user(shop, "boss@example.com", is_admin=True)
    admin.open("/admin/catalog")
    assert "[shop]: name" in admin.page.text
    admin.submit("/admin/catalog/reload")
    assert "· Acme &amp; Söhne AI</title>" in get(shop, "/en/")
