"""An operator at work in a real browser: catalog, search, view as a customer, and the log that refreshes itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from minitoolai.storage.tables import reports
from tests.portal.browser.test_browser import watched
from tests.portal.pages.admin.test_admin import CATALOG, price_of
from tests.support.ask import post
from tests.support.browse import new_user
from tests.support.house import enter
from tests.support.server import ServerProcess

pytestmark = pytest.mark.acceptance


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, catalog=CATALOG) as server:
        yield server


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def operator(browser: Browser, shop: ServerProcess, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """The browser of a signed-in admin on a phone."""
    context = browser.new_context(java_script_enabled=request.param, viewport={"width": 375, "height": 800})
    enter(context, new_user(shop, "boss@example.com", is_admin=True))
    yield context
    context.close()


def test_the_catalog_is_reloaded_with_a_typo_and_with_a_new_price(
    operator: BrowserContext, shop: ServerProcess
) -> None:
    account, page, file = shop.account(), operator.new_page(), shop.folder / "catalog.toml"
    wrong = watched(page, shop)
    page.goto(f"{shop.url}/en/admin")
    page.get_by_role("link", name="Catalog").click()
    expect(page.get_by_text("The file matches the catalog in use.")).to_be_visible()
    # A typo: the line, what to write instead, and no reload.
    file.write_text(CATALOG.replace("max_output", "max_outptu"))
    page.reload()
    mistake = page.get_by_role("alert")
    expect(mistake).to_contain_text("The file cannot be loaded. The current catalog stays in use.")
    expect(mistake).to_contain_text("catalog.toml, line")
    expect(mistake).to_contain_text("max_outptu")
    expect(page.get_by_role("button", name="Reload the catalog")).to_be_disabled()
    assert price_of(account, "slow") == "2.000000000"
    # A new price: shown first, then in force.
    file.write_text(CATALOG.replace('output = "2"', 'output = "2.5"'))
    page.reload()
    row = page.get_by_role("row").filter(has_text="slow: output")
    expect(row).to_contain_text("2.00")
    expect(row).to_contain_text("2.50")
    page.get_by_role("button", name="Reload the catalog").click()
    expect(page.get_by_text("The catalog is reloaded.")).to_be_visible()
    assert price_of(account, "slow") == "2.500000000"
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_text("Catalog reloaded")).to_be_visible()
    page.goto(f"{shop.url}/en/prices")
    expect(page.get_by_text("2.50").first).to_be_visible()
    assert wrong == []


def test_a_customer_is_found_and_the_account_is_viewed_as_the_customer_sees_it(
    operator: BrowserContext, shop: ServerProcess
) -> None:
    customer = new_user(shop, "ada.lovelace@example.com")
    new_user(shop, "charles@example.com")
    customer.open("/keys")
    customer.submit("/keys", name="analytical engine")
    page = operator.new_page()
    wrong = watched(page, shop)
    page.goto(f"{shop.url}/en/admin")
    page.get_by_role("searchbox").fill("lovelace")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", name="ada.lovelace@example.com")).to_be_visible()
    account = page.url
    page.get_by_label("New note").fill("Prefers letters.")
    page.get_by_role("button", name="Add note").click()
    expect(page.get_by_text("Prefers letters.").first).to_be_visible()
    page.get_by_role("button", name="View as customer").click()
    banner = page.get_by_role("complementary", name="View as customer")
    expect(banner).to_contain_text("ada.lovelace@example.com")
    page.goto(f"{shop.url}/en/keys")
    expect(banner).to_be_visible()
    expect(page.get_by_text("analytical engine").first).to_be_visible()
    # Forms are there to see, but out of reach of mouse and keyboard.
    before = page.url
    page.locator("main form button").first.click(force=True, timeout=2_000)
    page.keyboard.press("Tab")
    assert page.locator("form :focus").count() == 0
    assert page.url == before
    for path in ("/usage", "/balance", "/topup", "/account", "/studio"):
        page.goto(f"{shop.url}/en{path}")
        expect(banner).to_be_visible()
    page.get_by_role("link", name="Exit customer view").click()
    assert page.url == account
    expect(banner).to_have_count(0)
    number = int(account.rpartition("/")[2])
    done = shop.read(lambda c: reports.admin_actions(c, 9, number))
    assert [one.action for one in done] == ["view", "note"]
    # The studio asks for a key of its own, which the view refuses.
    assert [text for text in wrong if "403" not in text] == []


def test_the_log_of_requests_refreshes_itself(browser: Browser, shop: ServerProcess) -> None:
    context = browser.new_context()
    enter(context, new_user(shop, "boss@example.com", is_admin=True))
    page = context.new_page()
    wrong = watched(page, shop)
    page.goto(f"{shop.url}/en/admin/requests")
    expect(page.get_by_text("No requests")).to_be_visible()
    page.get_by_label("Auto-refresh").check()
    answer = post(shop.account(), model="slow")
    expect(page.locator(f'a[href$="{answer.headers["x-generation-id"]}"]')).to_be_visible(timeout=15_000)
    assert wrong == []
    context.close()
