"""Stop and undo in a real browser, with and without scripts: suspend during a stream, reverse, refund, cancel."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from minitoolai.storage.tables import refunds
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import catalogs
from tests.support.ask import post, start
from tests.support.browse import new_user
from tests.support.house import enter
from tests.support.pace import TimeLimit
from tests.support.server import Account, ServerProcess

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    catalog = catalogs.FAKE + '\n[shop]\nname = "Acme AI"\nsupport = "help@acme.example"\n'
    with ServerProcess(tmp_path_factory.mktemp("shop"), catalog=catalog) as server:
        yield server


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def boss(shop: ServerProcess, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The browser of an admin. Nothing may fail on the way."""
    member = new_user(shop, f"boss{request.param}{time.monotonic_ns()}@example.com", is_admin=True)
    context = browser.new_context(java_script_enabled=request.param, viewport={"width": 400, "height": 900})
    enter(context, member)
    page, wrong = context.new_page(), list[str]()
    page.on(
        "console",
        lambda said: wrong.append(said.text) if said.type == "error" and "status of 4" not in said.text else None,
    )
    yield page
    assert wrong == []
    context.close()
    assert shop.read(broken_invariants) == {}


def correct(shop: ServerProcess, page: Page, account: Account, link: str, **fields: str) -> None:
    """Go from the page of the account through both steps of a correction."""
    page.goto(f"{shop.url}/en/admin/accounts/{account.id}")
    page.get_by_role("link", name=link).click()
    for label, value in fields.items():
        page.get_by_label({"amount": "Amount", "note": "Reason", "generation": "ID of the request"}[label]).fill(value)
    page.get_by_role("button", name="Continue").click()
    page.locator("main form.card button.danger").click()


def test_suspend_during_a_stream(shop: ServerProcess, boss: Page) -> None:
    account = shop.account()
    with start(account, model="endless") as stream:
        received = stream.iter_lines()
        for _ in range(10):
            next(received)
        correct(shop, boss, account, "Suspend account", note="unpaid invoice 17")
        boss.get_by_text("The account is suspended.").wait_for()
        limit, began_s = TimeLimit(1.5, "s"), time.monotonic()
        rest = b"\n".join(received).decode()
        assert limit.permits(time.monotonic() - began_s), limit
        assert "account_suspended" in rest
    left = account.settled()
    assert 0 < left < 5_000_000_000
    assert account.money().held == 0
    refused = post(account, model="quick")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "account_suspended")
    correct(shop, boss, account, "End suspension")
    boss.get_by_text("The account is active again.").wait_for()
    assert post(account, model="quick").status_code == 200


def test_the_customer_reads_why_and_whom_to_write_to(shop: ServerProcess, browser: Browser) -> None:
    email = f"cut{time.monotonic_ns()}@example.com"
    member = new_user(shop, email)
    assert "is suspended" in shop.command("account", "suspend", email, "--reason", "unpaid invoice 17").stdout
    context = browser.new_context()
    enter(context, member)
    page = context.new_page()
    for lang, title in (("en", "This account is suspended"), ("de", "Dieses Konto ist gesperrt")):
        page.goto(f"{shop.url}/{lang}/keys")
        page.get_by_role("heading", name=title).wait_for()
        page.get_by_text("unpaid invoice 17").wait_for()
        assert page.locator("main a[href='mailto:help@acme.example']").count() == 1
    page.goto(f"{shop.url}/en/keys")
    page.locator("main").get_by_role("link", name="Balance").click()
    page.get_by_role("heading", name="Statement").wait_for()
    context.close()


def test_reverse_a_credit(shop: ServerProcess, boss: Page) -> None:
    account = shop.account()
    correct(shop, boss, account, "Take credit back", amount="1.50", note="granted twice")
    boss.get_by_text("$1.50 were taken back.").wait_for()
    assert account.money().posted == 3_500_000_000


def test_refund_a_generation(shop: ServerProcess, boss: Page) -> None:
    account = shop.account()
    name = post(account, model="quick").headers["x-generation-id"]
    cost = 5_000_000_000 - account.settled()
    correct(shop, boss, account, "Refund a charge", generation=name, note="wrong answer")
    boss.get_by_text("were given back.").wait_for()
    assert account.money().posted == 5_000_000_000
    cells = shop.read(lambda c: refunds.refund_cells(c, account.id, 0, 2**62))
    assert [cell.refunded for cell in cells] == [cost]
    boss.goto(f"{shop.url}/en/admin/accounts/{account.id}")
    boss.get_by_role("link", name="Refund a charge").click()
    boss.get_by_label("ID of the request").fill(name)
    boss.get_by_label("Reason").fill("again")
    boss.get_by_role("button", name="Continue").click()
    boss.get_by_text("Nothing of this charge is left to give back.").wait_for()


def test_cancel_a_voucher_and_a_batch(shop: ServerProcess, boss: Page) -> None:
    batch = f"batch-{time.monotonic_ns()}"
    codes = shop.command("voucher", "create", "2.00", "--count", "3", "--batch", batch).stdout.split()
    boss.goto(f"{shop.url}/en/admin/vouchers?batch={batch}")
    boss.get_by_role("link", name=re.compile(f"Cancel …-{codes[0][-4:]}")).first.click()
    boss.get_by_label("Reason").fill("lost")
    boss.get_by_role("button", name="Cancel vouchers").click()
    boss.get_by_text("1 voucher was cancelled.").wait_for()
    boss.goto(f"{shop.url}/en/admin/vouchers?batch={batch}")
    boss.get_by_role("link", name="Cancel this batch").click()
    boss.get_by_label("Reason").fill("stolen")
    boss.get_by_role("button", name="Cancel vouchers").click()
    boss.get_by_text("2 vouchers were cancelled.").wait_for()
    listed = shop.command("voucher", "list", "--batch", batch).stdout
    assert listed.count("cancelled") == 3


def test_an_account_page_leads_to_all_of_it(shop: ServerProcess, boss: Page) -> None:
    account = shop.account()
    boss.goto(f"{shop.url}/en/admin/accounts/{account.id}")
    for name in ("Suspend account", "Take credit back", "Refund a charge"):
        assert boss.get_by_role("link", name=name).count() == 1
