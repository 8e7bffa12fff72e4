"""The changelog: all of CHANGELOG.md in small pages, as Markdown too, and a shop's own file in its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests
from msgspec import structs

from minitoolai import __version__
from minitoolai.core.catalog.shop import UNNAMED
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.pages.public.changelog import PAGE_SIZE, released_text, sections_of, text_of
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess

SOURCE = Path(__file__).parents[4] / "CHANGELOG.md"


def test_every_subject_of_the_file_is_on_one_page(visitor: Visitor) -> None:
    text = SOURCE.read_text("utf-8")
    subjects = re.findall("^### (.*)$", text, re.MULTILINE)
    sections = sections_of(text_of(UNNAMED, "en"))
    assert [section.title for section in sections if section.title] == subjects
    assert sections[0].version == __version__
    seen = []
    for number in range(1, sections[-1].page + 1):
        page = visitor.open(f"/changelog?page={number}")
        assert len(page.content) <= 60_000
        seen += re.findall(r'<h3 lang="en" id="change-\d+">(.*?)</h3>', page.text)
    assert seen == subjects
    assert visitor.open(f"/changelog?page={number + 1}").status_code == 404


def test_a_page_ends_after_the_section_that_fills_it() -> None:
    text = "About\n## 2\n### A\n" + "x" * (PAGE_SIZE + 1) + "\n### B\n- b\n## 1\nFirst.\n"
    found = [(one.page, one.version, one.title) for one in sections_of(text)]
    assert found == [(1, "2", "A"), (2, "", "B"), (2, "1", "")]


def test_changes_are_those_of_the_version_that_runs_until_it_has_a_section_of_its_own() -> None:
    text = "About\n## Unreleased\n### A\n- a\n"
    assert released_text(text, "1.2.0") == "About\n## 1.2.0\n### A\n- a\n"
    for heading in ("## 1.2.0", "## [1.2.0] – 2026-12-01"):
        older = heading + "\n### B\n- b\n## 1.1.0\n### C\n"
        assert released_text(text + older, "1.2.0") == "About\n" + older
        assert released_text(text + older, "1.3.0") == text.replace("Unreleased", "1.3.0") + older
    assert released_text("About\n## 1.2.0\n- b\n", "1.2.0") == "About\n## 1.2.0\n- b\n"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_readers_of_other_languages_are_told_that_it_is_in_english(visitor: Visitor, lang: str) -> None:
    page = visitor.open(f"/{lang}/changelog").text
    assert bool(re.search(r'<p class="faint">[^<]*English', page)) is (lang != "en")


def test_html_in_the_file_is_shown_as_text() -> None:
    section = sections_of("## 1\n### A\n- <script>alert(1)</script> ![](https://x.example/a.png) [b](javascript:x)\n")[
        0
    ]
    assert "<script" not in section.html
    assert "<img" not in section.html
    assert 'javascript:x"' not in section.html


def test_a_shop_with_a_name_of_its_own_shows_its_own_changelog_or_none(tmp_path: Path) -> None:
    assert text_of(UNNAMED, "de") == released_text(SOURCE.read_text("utf-8"), __version__)
    own = structs.replace(UNNAMED, name="Acme")
    assert text_of(own, "en") == ""
    folder = tmp_path / "catalog"
    folder.mkdir()
    (folder / "news.md").write_text("# News\n## October\n### Cheaper images\nHalf the price.\n")
    shop = '[shop]\nname = "Acme"\n'
    for catalog, status in ((CATALOG + shop, 404), (CATALOG + shop + f'changelog = "{folder}/news.md"\n', 200)):
        (tmp_path / str(status)).mkdir()
        with ServerProcess(tmp_path / str(status), catalog=catalog) as server:
            page = requests.get(server.url + "/en/changelog", timeout=20)
            assert page.status_code == status
            assert ("Cheaper images" in page.text) is (status == 200)
            for place in ("/en/", "/llms.txt", "/sitemap.xml"):
                assert ("changelog" in requests.get(server.url + place, timeout=20).text) is (status == 200), place
