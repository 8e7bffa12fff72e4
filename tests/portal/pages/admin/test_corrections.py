"""Admin pages that stop and undo, without scripts; and what the user of a suspended account sees."""

from __future__ import annotations

import html
import re

import pytest
import requests

from minitoolai.billing import payments as billing
from minitoolai.core.clock import SystemClock, generation_name
from minitoolai.core.models import Outcome
from minitoolai.ledger.rules import decide
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts, ledger, payments, refunds, reports
from tests.portal.pages.admin.test_admin import account_of
from tests.support.books import hold, settle
from tests.support.browse import PASSWORD, Visitor, new_user
from tests.support.server import ServerProcess


@pytest.fixture
def boss(server: ServerProcess, email: str) -> Visitor:
    """An admin."""
    return new_user(server, f"boss-{email}", is_admin=True)


def credit(server: ServerProcess, number: int, amount: int) -> None:
    server.write(lambda c: billing.grant(c, SystemClock(), number, amount, reason="a test"))


def charge(server: ServerProcess, number: int, cost: int) -> int:
    """Charge an account for a generation and return its number."""
    clock = SystemClock()
    made = clock.new_id()

    def change(connection: Connection) -> None:
        placed = hold(made, number, cost, now_ms=clock.now_ms())
        ledger.apply(connection, [placed, settle(made, number, cost, Outcome("succeeded"))], decide)

    server.write(change)
    return made


def words(page: requests.Response) -> str:
    """The text of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.text)).split())


def test_an_account_is_suspended_in_two_steps_and_its_user_may_only_read(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts/{number}")
    path = f"/admin/accounts/{number}/correct/suspend"
    assert path in boss.page.text
    boss.open(path)
    assert boss.submit("/correct/suspend", note="").status_code == 422
    boss.submit("/correct/suspend", note="unpaid invoice 17")
    assert "Jobs that will end" in words(boss.page)
    assert reports_user(server, number).suspended_ms is None
    boss.submit("/correct/suspend")
    assert "The account is suspended." in words(boss.page)
    assert "unpaid invoice 17" in words(boss.page)
    assert reports_user(server, number).suspended_ms is not None
    for closed in ("/keys", "/studio", "/topup", "/account"):
        page = member.open(closed)
        assert page.status_code == 403
        assert "This account is suspended unpaid invoice 17" in words(page)
    for readable in ("/balance", "/usage", "/usage/requests", "/balance/statement.csv", "/usage/usage.csv"):
        assert member.open(readable).status_code == 200
    # A form that was opened before does nothing.
    count = len(server.read(lambda c: accounts.keys_of(c, number)))
    member.open("/balance")
    csrf = member.fields("/signout")["csrf"]
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert (
        member.post(member.url("/keys"), data={"csrf": csrf, "name": "x"}, headers=own, timeout=20).status_code == 403
    )
    assert len(server.read(lambda c: accounts.keys_of(c, number))) == count
    fresh = Visitor(server).sign_in(email, PASSWORD)
    assert fresh.page.status_code == 403
    assert "unpaid invoice 17" in words(fresh.page)
    boss.open(f"/admin/accounts/{number}/correct/unsuspend")
    boss.submit("/correct/unsuspend")
    boss.submit("/correct/unsuspend")
    assert "The account is active again." in words(boss.page)
    assert member.open("/keys").status_code == 200
    said = server.read(lambda c: reports.admin_actions(c, 10, number))
    assert [(row.action, row.source) for row in said] == [("unsuspend", "127.0.0.1"), ("suspend", "127.0.0.1")]
    log = words(boss.open("/admin/actions"))
    assert f"boss-{email} from 127.0.0.1 Account suspended {email} – unpaid invoice 17" in " ".join(log.split())


def reports_user(server: ServerProcess, number: int):  # type: ignore[no-untyped-def]
    return server.read(lambda c: reports.find_customer(c, number))


def test_admins_cannot_suspend_themselves(boss: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, f"boss-{email}")
    boss.open(f"/admin/accounts/{number}/correct/suspend")
    assert boss.submit("/correct/suspend", note="me").status_code == 422
    assert "cannot suspend your own account" in words(boss.page)
    assert reports_user(server, number).suspended_ms is None


def test_credit_is_taken_back_once_however_often_the_form_is_sent(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    credit(server, number, 5 * 10**9)
    boss.open(f"/admin/accounts/{number}/correct/reverse")
    assert boss.submit("/correct/reverse", amount="10,000", note="x").status_code == 422
    boss.submit("/correct/reverse", amount="3,50", note="granted twice")
    assert "Will be taken back $3.50" in words(boss.page)
    fields = boss.fields("/correct/reverse")
    boss.submit("/correct/reverse")
    assert "$3.50 were taken back." in words(boss.page)
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    again = boss.post(boss.url(f"/admin/accounts/{number}/correct/reverse"), data=fields, headers=own, timeout=20)
    assert "nothing changed" in words(again)
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 15 * 10**8
    assert "Credit taken back" in words(member.open("/balance"))
    boss.open(f"/admin/accounts/{number}/correct/reverse")
    boss.submit("/correct/reverse", amount="9", note="all")
    boss.submit("/correct/reverse")
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 0
    boss.open(f"/admin/accounts/{number}/correct/reverse")
    assert boss.submit("/correct/reverse", amount="9", note="all").status_code == 422


def test_a_charge_is_refunded_and_shown_to_the_customer(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number, other = account_of(server, email), account_of(server, f"boss-{email}")
    credit(server, number, 10**9)
    made = charge(server, number, 4 * 10**8)
    name = generation_name(made)
    boss.open(f"/admin/accounts/{number}/correct/refund?generation={name}")
    assert boss.fields("/correct/refund")["generation"] == name
    assert boss.submit("/correct/refund", amount="0.5", note="wrong").status_code == 422
    assert "At most $0.40 can still be given back." in words(boss.page)
    boss.submit("/correct/refund", amount="0.10", note="wrong answer")
    boss.submit("/correct/refund")
    assert "$0.10 were given back." in words(boss.page)
    boss.open(f"/admin/accounts/{number}/correct/refund")
    boss.submit("/correct/refund", generation=name, amount="", note="all of it")
    assert "Given back before $0.10" in words(boss.page)
    boss.submit("/correct/refund")
    assert server.read(lambda c: refunds.refunded(c, made)) == 4 * 10**8
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 10**9
    statement = words(member.open("/balance"))
    assert statement.count("Refund of usage") == 2
    assert name in statement
    request = words(boss.open(f"/admin/requests/{name}"))
    assert "Refunded $0.40" in request
    assert "Refund a charge" not in request
    listed = words(boss.open(f"/admin/accounts/{number}/statement"))
    assert listed.count("Refund of usage") == 2
    assert "wrong answer" in listed
    assert "$0.40 refunded" in words(member.open("/usage/requests"))
    assert "$0.40 refunded" in words(member.open("/usage"))
    assert ",0.400000000\n" in member.open("/usage/usage.csv").text.replace("\r", "")
    # Nobody else's account has this request.
    boss.open(f"/admin/accounts/{other}/correct/refund")
    assert boss.submit("/correct/refund", generation=name, note="x").status_code == 422
    assert boss.submit("/correct/refund", generation="nonsense", note="x").status_code == 422
    log = server.read(lambda c: reports.admin_actions(c, 10, number))
    assert [(row.action, row.amount, row.subject) for row in log] == [
        ("refund", 3 * 10**8, name), ("refund", 10**8, name)
    ]  # fmt: skip


def test_a_voucher_and_a_batch_are_cancelled(boss: Visitor, member: Visitor, server: ServerProcess) -> None:
    codes = server.command("voucher", "create", "2.00", "--count", "3", "--batch", "spring").stdout.split()
    member.open("/topup")
    member.submit("/topup/voucher", code=codes[0])
    listed = words(boss.open("/admin/vouchers?batch=spring"))
    assert listed.count("spring") >= 3
    assert "redeemed" in listed
    link = html.unescape(re.search(r'href="/en(/admin/vouchers/cancel\?voucher=[^"]+)"', boss.page.text)[1])
    boss.open(link)
    assert boss.submit("/admin/vouchers/cancel", note="").status_code == 422
    boss.submit("/admin/vouchers/cancel", note="lost")
    assert "1 voucher was cancelled." in words(boss.page)
    boss.open("/admin/vouchers/cancel?batch=spring")
    assert "Will be cancelled 1 ($2.00)" in words(boss.page)
    boss.submit("/admin/vouchers/cancel", note="stolen")
    assert "1 voucher was cancelled. 1 was redeemed before." in words(boss.page)
    for code in codes[1:]:
        member.open("/topup")
        assert member.submit("/topup/voucher", code=code).status_code == 422
        assert "cancelled by the operator" in words(member.page)
    assert boss.open("/admin/vouchers/cancel?batch=none").status_code == 404
    assert boss.open("/admin/vouchers/cancel?voucher=zz").status_code == 404
    found = server.read(lambda c: payments.vouchers_of_batch(c, "spring"))
    assert sorted(voucher.cancelled_ms is not None for _, voucher in found) == [False, True, True]
    assert "Vouchers cancelled" in words(boss.open("/admin/actions"))


def test_correction_pages_do_not_exist_for_others(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    for path in (f"/admin/accounts/{number}/correct/suspend", "/admin/vouchers", "/admin/vouchers/cancel?batch=x"):
        assert member.open(path).status_code == 404
    assert boss.open(f"/admin/accounts/{number}/correct/nonsense").status_code == 404
    assert boss.open("/admin/accounts/999999/correct/suspend").status_code == 404
