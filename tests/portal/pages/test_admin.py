"""The admin pages: what they show and change, the log of actions, and that they do not exist for other users."""

from __future__ import annotations

import re

import pytest
import requests

from minitoolai.storage import accounts, reports, users
from tests.portal.test_security import MARK, post
from tests.support.browse import Visitor, new_user
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

PAGES = ("/admin", "/admin/jobs", "/admin/accounts", "/admin/actions")


def account_of(server: ServerProcess, email: str) -> int:
    return int(server.read(lambda c: users.find_user(c, email))[0].account_id)


@pytest.fixture
def boss(server: ServerProcess, email: str) -> Visitor:
    """An admin."""
    return new_user(server, f"boss-{email}", is_admin=True)


def test_admin_pages_do_not_exist_for_other_users(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    member.open("/no-such-page")
    nothing = re.search("<main.*</main>", member.page.text, re.DOTALL)[0]
    for path in (*PAGES, f"/admin/accounts/{number}"):
        assert boss.open(path).status_code == 200
        assert member.open(path).status_code == 404
        assert re.search("<main.*</main>", member.page.text, re.DOTALL)[0] == nothing
        assert "/signin" in Visitor(server).open(path).url
    assert "/admin" not in member.open("/keys").text
    csrf = member.fields("/keys")["csrf"]
    fields = {"csrf": csrf, "amount": "5", "note": "mine", "once": "x"}
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert post(member, f"/admin/accounts/{number}/grant", fields, **own) == 404
    assert post(member, f"/admin/accounts/{number}/revoke", fields, **own) == 404
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 0
    assert server.read(lambda c: reports.admin_actions(c, 10, number)) == []


def test_credit_is_given_once_and_logged(boss: Visitor, member: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts?q={email}")
    assert f"/admin/accounts/{number}" in boss.page.text
    boss.open(f"/admin/accounts/{number}")
    sent = boss.fields("/grant") | {"amount": "2.50", "note": MARK}
    boss.submit("/grant", amount="2.50", note=MARK)
    assert "$2.50 were given" in boss.page.text
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert post(boss, f"/admin/accounts/{number}/grant", sent, **own) == 404
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 2_500_000_000
    done = server.read(lambda c: reports.admin_actions(c, 10, number))
    assert [(a.action, a.amount, a.note, a.admin) for a in done] == [("grant", 2_500_000_000, MARK, f"boss-{email}")]
    for visitor, path in ((boss, "/admin/actions"), (boss, f"/admin/accounts/{number}"), (member, "/balance")):
        page = visitor.open(path).text
        assert MARK not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("amount", "note"), [("", "why"), ("-1", "why"), ("1e3", "why"), ("5.00", ""), ("5.00", "x" * 201)]
)
def test_an_incomplete_form_changes_nothing(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess, amount: str, note: str
) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts/{number}")
    assert boss.submit("/grant", amount=amount, note=note).status_code == 422
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 0
    assert server.read(lambda c: reports.admin_actions(c, 10, number)) == []


def test_a_forged_admin_form_changes_nothing(boss: Visitor, member: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts/{number}")
    good = boss.fields("/grant") | {"amount": "5", "note": "forged"}
    for path in ("grant", "revoke"):
        there = f"/admin/accounts/{number}/{path}"
        assert post(boss, there, good | {"csrf": "x"}) == 403
        assert post(boss, there, good, origin="https://evil.example") == 403
        assert boss.open(there).url == boss.url(f"/admin/accounts/{number}")
        assert member.open(there).status_code == 404
    assert server.read(lambda c: reports.admin_actions(c, 10, number)) == []


def test_keys_revoked_by_an_admin_stop_working(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
    key = server.command("key", "create", email, "--name", "k").stdout.strip()

    def status() -> int:
        return requests.get(
            server.url + "/api/balance", headers={"authorization": f"Bearer {key}"}, timeout=20
        ).status_code

    assert status() == 200
    boss.open(f"/admin/accounts/{account_of(server, email)}")
    boss.submit("/revoke", note="abuse")
    eventually(lambda: status() == 401, within_s=5)
    assert "all keys revoked" in boss.open("/admin/actions").text


def test_an_unknown_account_is_a_404(boss: Visitor) -> None:
    for number in ("1", "2", "999999", "99999999999999999999999"):
        assert boss.open(f"/admin/accounts/{number}").status_code in (400, 404)
    boss.open("/admin/accounts?q=%25%00%5C_'")
    assert "Nobody was found" in boss.page.text


def test_the_overview_shows_the_audit_and_the_engines(boss: Visitor) -> None:
    eventually(lambda: "The books add up" in boss.open("/admin").text, within_s=20)
    assert "fake-chat" in boss.page.text
