"""The guide in a real browser: tabs by keyboard, with and without JavaScript, on a small screen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from minitoolai.portal.rendering.highlight import AGENT_TABS
from tests.support.chromium import chromium as open_chromium
from tests.support.server import ServerProcess

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = open_chromium(playwright)
        yield browser
        browser.close()


def seen(page: Page) -> set[str]:
    """The programs on the page that can be seen."""
    names = [f"{topic}-{tab}" for topic in ("chat", "image", "speech") for tab in ("python", "php", "curl")]
    return {name for name in names if page.locator(f"#{name}").is_visible()}


def test_a_tab_chosen_by_keyboard_applies_to_every_sample_and_is_remembered(
    chromium: Browser, server: ServerProcess
) -> None:
    page = chromium.new_page()
    page.goto(server.url + "/en/docs")
    assert seen(page) == {"chat-python", "image-python", "speech-python"}
    page.locator("#chat-t-python").focus()
    page.keyboard.press("ArrowRight")
    assert seen(page) == {"chat-php", "image-php", "speech-php"}
    page.goto(server.url + "/fr/docs")
    assert seen(page) == {"chat-php", "image-php", "speech-php"}
    page.close()


def test_each_agent_has_a_tab_and_leaves_the_choice_of_a_language_alone(
    chromium: Browser, server: ServerProcess
) -> None:
    page = chromium.new_page(viewport={"width": 360, "height": 740})
    page.goto(server.url + "/de/docs")
    page.locator("label[for=chat-t-php]").click()
    for tab in AGENT_TABS:
        page.locator(f"label[for=agents-t-{tab}]").click()
        assert [other for other in AGENT_TABS if page.locator(f"#agents-{other}").is_visible()] == [tab]
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.goto(server.url + "/en/docs")
    assert page.locator(f"#agents-{tab}").is_visible()
    assert seen(page) == {"chat-php", "image-php", "speech-php"}
    page.close()


def test_without_javascript_each_sample_has_tabs_and_no_dead_buttons(chromium: Browser, server: ServerProcess) -> None:
    page = chromium.new_page(java_script_enabled=False)
    page.goto(server.url + "/en/docs")
    page.locator("label[for=image-t-curl]").click()
    assert seen(page) == {"chat-python", "image-curl", "speech-python"}
    assert page.locator("[data-copy]:visible").count() == 0
    page.close()


def test_the_copy_button_copies_the_sample_unchanged(chromium: Browser, server: ServerProcess) -> None:
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(server.url + "/en/docs")
    page.locator("[data-copy=chat-python]").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#chat-python").text_content()
    assert f'"{server.url}/v1/chat/completions"' in copied
    context.close()


@pytest.mark.parametrize("lang", ["de", "tr"])
@pytest.mark.parametrize("path", ["docs", "prices", ""])
def test_a_page_fits_a_small_phone_and_loads_nothing_from_other_hosts(
    chromium: Browser, server: ServerProcess, lang: str, path: str
) -> None:
    page = chromium.new_page(viewport={"width": 360, "height": 740})
    asked: set[str] = set()
    faults: list[str] = []
    page.on("request", lambda request: asked.add(request.url.split("/")[2]))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(f"{server.url}/{lang}/{path}")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert asked == {server.url.partition("://")[2]}
    assert faults == []
    page.close()


@pytest.mark.parametrize("path", ["/en/", "/en/docs"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_samples_have_colours(chromium: Browser, server: ServerProcess, path: str, scheme: str) -> None:
    page = chromium.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(server.url + path)
    colours = page.evaluate(
        "['code', 'b', 'i'].map(tag => getComputedStyle(document.querySelector("
        "`.listing ${tag === 'code' ? tag : 'code ' + tag}`)).color)"
    )
    assert len(set(colours)) == 3
    page.close()
