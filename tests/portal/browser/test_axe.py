"""Check every page with axe-core, light and dark, wide and narrow. No page loads anything from other hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request

from minitoolai.portal.i18n import LANGUAGES
from tests.support.all_kinds import CATALOG
from tests.support.browse import Visitor
from tests.support.house import CLOSED, OPEN, enter, furnish
from tests.support.programs import NODE, install_node
from tests.support.server import ServerProcess
from tests.support.states import AWAY, CLOSED_STATES, EMPTY_STATES, OPEN_STATES, newcomer, plain

pytestmark = pytest.mark.acceptance
LOOKS = [(1200, "light", "en"), (360, "dark", "de")]
RUN = (
    "axe.run(document, {resultTypes: ['violations'],"
    " runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
)
#: Of the models in this catalog.
MODEL_PAGES = ("/models/quick", "/models/painter", "/models/teller", "/models/hearer")
#: Pages with many words, which are longer or shorter in each language.
EVERY_LANGUAGE = ("/limits", "/changelog", "/studio", "/studio/image", "/studio/images", "/studio/prompts")
#: Who looks, and where to.
VISITS = [
    *(("visitor", path, plain(path)) for path in OPEN),
    *(("visitor", path, plain(path)) for path in MODEL_PAGES),
    *(("visitor", name, go) for name, go in OPEN_STATES.items()),
    *(("newcomer", name, go) for name, go in EMPTY_STATES.items()),
    *(("member", path, plain(path)) for path in CLOSED),
    *(("member", name, go) for name, go in CLOSED_STATES.items()),
]


@pytest.fixture(scope="module")
def axe() -> str:
    """The program's text."""
    install_node()
    return (NODE / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Visitor]]:
    with ServerProcess(tmp_path_factory.mktemp("axe"), catalog=CATALOG, env=AWAY) as server:
        yield {"visitor": Visitor(server), "member": furnish(server), "newcomer": newcomer(server)}


def new_page(browser: Browser, visitor: Visitor, *, is_signed_in: bool, width: int, theme: Any) -> Page:
    """Return a page of a browser without history, signed in or not."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
    if is_signed_in:
        enter(context, visitor)
    return context.new_page()


@pytest.fixture(scope="module")
def kept(browser: Browser, people: dict[str, Visitor]) -> Callable[[str, int, str], Page]:
    """Return the page in which this person opens one address after the other, because a new one takes long."""

    @cache
    def page(who: str, width: int, theme: str) -> Page:
        return new_page(browser, people[who], is_signed_in=who != "visitor", width=width, theme=theme)

    return page


@pytest.mark.parametrize(("width", "theme", "lang"), LOOKS)
@pytest.mark.parametrize(("who", "name", "go"), VISITS, ids=[name for _, name, _ in VISITS])
def test_axe_finds_no_violation(
    browser: Browser,
    people: dict[str, Visitor],
    kept: Callable[[str, int, str], Page],
    axe: str,
    who: str,
    name: str,
    go: Any,
    width: int,
    theme: Any,
    lang: str,
) -> None:
    server, is_plain = people[who].server, name.startswith("/")
    # What is done to reach a state leaves nothing behind in the browser for the next test.
    page = (
        kept(who, width, theme)
        if is_plain
        else new_page(browser, people[who], is_signed_in=who != "visitor", width=width, theme=theme)
    )
    elsewhere: list[str] = []

    def note(sent: Request) -> None:
        if not sent.url.startswith(server.url):
            elsewhere.append(sent.url)

    page.on("request", note)
    go(page, f"{server.url}/{lang}", server)
    assert violations(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").count() == 1
    assert elsewhere == []
    page.remove_listener("request", note)
    if not is_plain:
        page.context.close()


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("path", EVERY_LANGUAGE)
def test_axe_finds_no_violation_in_any_language(
    people: dict[str, Visitor], kept: Callable[[str, int, str], Page], axe: str, path: str, lang: str
) -> None:
    page = kept("member", 375, "light")
    reply = page.goto(f"{people['member'].server.url}/{lang}{path}")
    assert reply is not None
    assert len(reply.body()) <= 60_000
    assert violations(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def violations(page: Page, axe: str) -> list[tuple[str, list[str]]]:
    """What axe says against the page with all of it unfolded."""
    for part in page.locator("details:not(.menu)").all():
        part.evaluate("part => { part.open = true; }")
    page.evaluate(axe)
    found = page.evaluate(RUN)["violations"]
    return [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found]
