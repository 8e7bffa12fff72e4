"""Pay in a real browser: by card, by signed redirect, automatically up to the daily cap, for plans, and in vain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect

from minitoolai.storage.selling import purses
from minitoolai.storage.tables import users
from tests.portal.conftest import SELLING
from tests.support import epay as epay_support
from tests.support.browse import PASSWORD, new_user
from tests.support.cli import CATALOG
from tests.support.epay import Epay
from tests.support.server import ServerProcess
from tests.support.shop import account_number, money
from tests.support.storm import environment, tell
from tests.support.stripe import Stripe
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance
DOLLAR = 10**9
DEAR = """
[chat.dear]
input = "1.00"
output = "10000.00"
context = 4096
max_output = 1024
engines = ["fake"]
"""


@pytest.fixture(scope="module")
def server(stripe: Stripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with Epay() as epay:
        env = environment(stripe) | epay_support.environment(epay)
        with ServerProcess(tmp_path_factory.mktemp("money"), catalog=CATALOG + SELLING + DEAR, env=env) as server:
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
    assert money(server, email) == 25 * DOLLAR
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
        eventually(lambda: money(server, email) >= 10 * DOLLAR, within_s=20)
        server.command("credit", "reverse", email, "9.00", "--reason", "spent")
    before = len([call for call in stripe.calls if call[:2] == ("POST", "/v1/payment_intents")])
    page.wait_for_timeout(7000)
    assert money(server, email) == 2 * DOLLAR
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
    assert money(server, email) == 0
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
    assert money(server, email) == 0


# ── plans ─────────────────────────────────────────────────────────────────────────────────────────────────


def ask(server: ServerProcess, email: str) -> requests.Response:
    """Ask for at most 16 tokens of a model that costs a cent for each."""
    key = server.command("key", "create", email).stdout.strip()
    return requests.post(
        f"{server.url}/v1/chat/completions",
        json={"model": "dear", "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    )


def open_purse(server: ServerProcess, email: str) -> purses.Purse:
    number = account_number(server, email)
    found: list[purses.Purse] = server.read(lambda c: purses.open_purses(c, number))
    return found[0]


def test_a_plan_is_bought_its_window_used_up_and_then_the_balance_pays(
    page: Page, server: ServerProcess, email: str
) -> None:
    server.command("credit", "grant", email, "4.00", "--reason", "a start")
    page.goto(server.url + "/en/plans")
    plan = page.locator("form.card", has_text="Pro plan")
    expect(plan.get_by_text("at most $1.00 in five hours")).to_be_visible()
    plan.get_by_role("button", name="Buy from the balance").click()
    expect(page.get_by_text("The plan has begun.")).to_be_visible()
    expect(page.get_by_text("$3.00 / $3.00")).to_be_visible()
    expect(page.get_by_text("$1.00 left until")).to_be_visible()
    paid_by_plan = 0
    while (left := money(server, email)) == 2 * DOLLAR:
        answer = ask(server, email)
        assert answer.status_code == 200, answer.text
        paid_by_plan += 1
        assert paid_by_plan < 20
    assert left < 2 * DOLLAR
    assert paid_by_plan > 1
    purse = open_purse(server, email)
    used = 3 * DOLLAR - purse.available
    assert 0 < used <= DOLLAR
    page.reload()
    expect(page.locator("dd", has_text="left until")).to_have_text(re.compile(r"^\$0\.\d+ left until"))
    # Renewed from the balance, cancelled, and resumed.
    expect(page.locator("dd", has_text="from the balance")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel plan").click()
    expect(page.get_by_text("The plan will not be renewed.")).to_be_visible()
    expect(page.locator("dd", has_text="not renewed")).to_be_visible()
    page.get_by_role("button", name="Renew again").click()
    expect(page.get_by_text("The plan will be renewed.")).to_be_visible()


def test_a_plan_by_card_is_renewed_by_the_provider_and_cancelled_there(
    page: Page, server: ServerProcess, email: str, stripe: Stripe
) -> None:
    page.goto(server.url + "/en/plans")
    page.locator("form.card", has_text="Pro plan").get_by_role("button", name="Subscribe by card").click()
    expect(page.get_by_text("The plan has begun.")).to_be_visible()
    expect(page.locator("dd", has_text="by payment")).to_be_visible()
    name = next(reversed(stripe.subscriptions))
    assert tell(server, stripe.event("invoice.paid", stripe.renew(name))) == 200
    page.reload()
    expect(page.locator(".tag", has_text="next period")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel plan").click()
    expect(page.get_by_text("The plan will not be renewed.")).to_be_visible()
    assert stripe.subscriptions[name]["cancel_at_period_end"]
    assert tell(server, stripe.event("invoice.payment_failed", stripe.renew(name, succeeds=False))) == 200
    page.reload()
    expect(page.locator("dd", has_text="by payment")).to_have_count(0)
    assert money(server, email) == 0


def test_a_coupon_is_redeemed_once(page: Page, server: ServerProcess, email: str) -> None:
    code = f"GIFT{account_number(server, email)}"
    server.command("coupon", "create", code, "--amount", "5.00", "--uses", "9")
    for words in ("$5.00 added to your balance.", "You have used this coupon before."):
        page.goto(server.url + "/en/plans")
        page.get_by_label("Code").fill(code.lower())
        page.get_by_role("button", name="Redeem").click()
        expect(page.get_by_text(words)).to_be_visible()
    assert money(server, email) == 5 * DOLLAR


def test_a_debit_that_fails_days_later_is_shown_as_failed(
    page: Page, server: ServerProcess, email: str, stripe: Stripe
) -> None:
    stripe.is_slow = True
    try:
        page.goto(server.url + "/en/topup")
        page.get_by_label("Pay by card").check()
        page.get_by_label("Other amount in dollars").fill("20")
        page.get_by_role("button", name="Continue to payment").click()
        expect(page.get_by_text("Payment pending")).to_be_visible()
    finally:
        stripe.is_slow = False
    session = next(reversed(stripe.sessions))
    assert tell(server, stripe.event("checkout.session.completed", stripe.sessions[session])) == 200
    page.goto(server.url + "/en/topup")
    expect(page.get_by_text("not paid yet")).to_be_visible()
    stripe.fail(session)
    assert tell(server, stripe.event("checkout.session.async_payment_failed", stripe.sessions[session])) == 200
    page.reload()
    expect(page.locator(".tag.bad", has_text="failed")).to_be_visible()
    assert money(server, email) == 0
