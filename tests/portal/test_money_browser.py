"""Pay in a real browser: by card, by signed redirect, automatically up to the daily cap, and with a card that fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from minitoolai.storage.tables import accounts, users
from tests.support import epay as epay_support
from tests.support.browse import PASSWORD, new_user
from tests.support.chromium import chromium
from tests.support.cli import CATALOG
from tests.support.epay import Epay
from tests.support.server import ServerProcess
from tests.support.storm import environment
from tests.support.stripe import Stripe
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
DOLLAR = 10**9


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stripe() -> Iterator[Stripe]:
    with Stripe() as stripe:
        yield stripe


@pytest.fixture(scope="module")
def server(stripe: Stripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with Epay() as epay:
        env = environment(stripe) | epay_support.environment(epay)
        with ServerProcess(tmp_path_factory.mktemp("money"), catalog=CATALOG, env=env) as server:
            yield server


@pytest.fixture
def page(browser: Browser, server: ServerProcess, email: str) -> Iterator[Page]:
    """A page of a new customer who has signed in."""
    new_user(server, email)
    context: BrowserContext = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.goto(server.url + "/en/signin")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.locator("main button").first.click()
    page.wait_for_url(re.compile(r"/en/(?!signin)"))
    yield page
    context.close()


def balance(server: ServerProcess, email: str) -> int:
    return server.read(lambda c: accounts.balance_of(c, users.find_user(c, email)[0].account_id)).posted


def turn_on(page: Page, server: ServerProcess) -> None:
    page.goto(server.url + "/en/topup/auto")
    page.get_by_label("When the balance falls below").fill("5")
    page.get_by_label("charge this amount").fill("10")
    page.get_by_label("and at most this much a day").fill("20")
    page.get_by_label("Charge my saved payment method").check()
    page.get_by_role("button", name="Turn on").click()


def test_pay_through_both_providers_and_read_the_invoice(
    page: Page, server: ServerProcess, email: str, tmp_path: Path
) -> None:
    for button in ("Pay by card", "Alipay"):
        page.goto(server.url + "/en/topup")
        page.get_by_label(button).check()
        page.get_by_label("Other amount in dollars").fill("12.50")
        page.get_by_role("button", name="Continue to payment").click()
        expect(page.get_by_text("Thank you! $12.50 was added to your balance.")).to_be_visible()
    assert balance(server, email) == 25 * DOLLAR
    page.goto(server.url + "/en/invoices")
    page.get_by_label("Name or company").fill("Ada Ltd")
    page.get_by_label("Address", exact=True).fill("1 Main St\nIzmir")
    page.get_by_label("Country").select_option("DE")
    page.get_by_label("Tax number").fill("DE136695977")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The check digit of this tax number is wrong")).to_be_visible()
    page.get_by_label("Tax number").fill("DE136695976")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Future invoices show this address")).to_be_visible()
    page.get_by_role("link", name=re.compile("^INV-")).first.click()
    expect(page.get_by_text("Paid as 88.75 CNY.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as PDF").click()
    download.value.save_as(tmp_path / "invoice.pdf")
    assert (tmp_path / "invoice.pdf").read_bytes().startswith(b"%PDF")


def test_automatic_top_ups_end_at_the_daily_cap(page: Page, server: ServerProcess, email: str, stripe: Stripe) -> None:
    stripe.charges_are = "succeeded"
    turn_on(page, server)
    expect(page.get_by_text("Automatic top-up is on.")).to_be_visible()
    expect(page.get_by_text("at most $20.00 a day")).to_be_visible()
    for _ in range(2):
        eventually(lambda: balance(server, email) >= 10 * DOLLAR, within_s=20)
        server.command("credit", "reverse", email, "9.00", "--reason", "spent")
    before = len([call for call in stripe.calls if call[:2] == ("POST", "/v1/payment_intents")])
    page.wait_for_timeout(7000)
    assert balance(server, email) == 2 * DOLLAR
    assert len([call for call in stripe.calls if call[:2] == ("POST", "/v1/payment_intents")]) == before
    page.goto(server.url + "/en/topup")
    assert page.locator("td", has_text="automatic").count() == 2
    page.goto(server.url + "/en/topup/auto")
    page.get_by_role("button", name="Turn off").click()
    expect(page.get_by_text("Automatic top-up is off.")).to_be_visible()


def test_a_card_that_fails_turns_automatic_top_ups_off(
    page: Page, server: ServerProcess, email: str, stripe: Stripe
) -> None:
    stripe.charges_are = "declined"
    turn_on(page, server)
    expect(page.get_by_text("Automatic top-up is on.")).to_be_visible()
    account = server.read(lambda c: users.find_user(c, email)[0].account_id)
    stopped = "SELECT stopped FROM auto_topups WHERE account_id = ?"
    eventually(lambda: server.read(lambda c: c.execute(stopped, (account,))) == [("failed",)], within_s=20)
    page.reload()
    expect(page.get_by_text("Your payment method was declined, so automatic top-up is off.")).to_be_visible()
    assert balance(server, email) == 0
    page.goto(server.url + "/en/topup")
    expect(page.locator(".tag.bad", has_text="failed")).to_be_visible()
    stripe.charges_are = "succeeded"


def test_a_voucher_is_refused_to_the_second_customer(page: Page, server: ServerProcess, email: str) -> None:
    code = server.command("voucher", "create", "3.00").stdout.strip()
    other = new_user(server, f"first-{email}")
    other.open("/topup")
    other.submit("/topup/voucher", code=code)
    page.goto(server.url + "/en/topup")
    page.get_by_label("Code").fill(code)
    page.get_by_role("button", name="Redeem").click()
    expect(page.get_by_text("This voucher has already been redeemed.")).to_be_visible()
    assert balance(server, email) == 0
