"""Use the portal in a real browser. The content security policy blocks nothing, and no other host is contacted."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browse import PASSWORD, last_link
from tests.support.server import ServerProcess

pytestmark = pytest.mark.acceptance


def watched(page: Page, server: ServerProcess) -> list[str]:
    """What goes wrong from now on: words on the console, errors of scripts, requests to others."""
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith((server.url, "data:")) else wrong.append(sent.url))
    return wrong


@pytest.mark.parametrize("scripts", [True, False])
def test_from_signing_up_to_a_revoked_key(browser: Browser, server: ServerProcess, email: str, scripts: bool) -> None:
    context = browser.new_context(java_script_enabled=scripts, viewport={"width": 360, "height": 800})
    if scripts:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    wrong = watched(page, server)
    page.goto(server.url + "/en/signup")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.locator("main button").click()
    page.goto(server.url + last_link(server, email))
    page.locator("main button").click()
    page.get_by_text("Your account is ready").first.wait_for()
    page.get_by_label("Name of a new key").fill("laptop")
    page.get_by_role("button", name="Create a key").click()
    key = page.locator("#new-key").inner_text()
    assert re.fullmatch(r"sk-mt-\w{12}-\w{32}-\w{6}", key)
    if scripts:
        page.locator("[data-copy=new-key]").click()
        assert page.evaluate("navigator.clipboard.readText()") == key
    else:
        assert not page.locator("[data-copy=new-key]").is_visible()
    page.goto(server.url + "/en/topup")
    page.get_by_label("Code").fill(server.command("voucher", "create", "2.50").stdout.strip())
    page.get_by_role("button", name="Redeem").click()
    page.get_by_text("$2.50 added").first.wait_for()
    page.get_by_label(re.compile("theme")).first.click()
    page.locator("html[data-theme=dark], html[data-theme=light]").wait_for()
    page.goto(server.url + "/de/keys")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Widerrufen").click()
    page.get_by_text("Der Schlüssel ist widerrufen").first.wait_for()
    for path in ("/en/", "/en/keys", "/en/balance", "/en/topup", "/en/account", "/tr/keys", "/fr/account"):
        page.goto(server.url + path)
        if scripts:
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is wider than a phone"
    assert wrong == []
    context.close()
