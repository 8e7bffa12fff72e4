"""Every page through axe-core, light and dark, wide and narrow: no violation, and nothing asked of other hosts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.all_kinds import CATALOG
from tests.support.browse import Visitor
from tests.support.chromium import chromium as open_chromium
from tests.support.house import CLOSED, OPEN, enter, furnish, number_of
from tests.support.programs import NODE, install_node
from tests.support.server import ServerProcess

pytestmark = pytest.mark.acceptance
LOOKS = [(1200, "light", "en"), (360, "dark", "de")]
RUN = "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"


@pytest.fixture(scope="module")
def axe() -> str:
    """The program's text."""
    install_node()
    return (NODE / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    with ServerProcess(tmp_path_factory.mktemp("axe"), catalog=CATALOG) as server:
        yield furnish(server)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = open_chromium(playwright)
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "theme", "lang"), LOOKS)
@pytest.mark.parametrize("path", [*OPEN, *CLOSED])
def test_axe_finds_nothing(
    browser: Browser, member: Visitor, axe: str, path: str, width: int, theme: Any, lang: str
) -> None:
    server = member.server
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
    if path not in OPEN:
        enter(context, member)
    page = context.new_page()
    elsewhere: list[str] = []
    page.on("request", lambda sent: None if sent.url.startswith(server.url) else elsewhere.append(sent.url))
    page.goto(f"{server.url}/{lang}{path.replace('#', str(number_of(server)))}")
    for part in page.locator("details:not(.menu)").all():
        part.evaluate("part => { part.open = true; }")
    page.evaluate(axe)
    found = page.evaluate(RUN)["violations"]
    told = [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found]
    assert told == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert elsewhere == []
    context.close()
