"""Admins: what they see and do, that all of it is in the trail, and that nobody else knows the pages are there."""

from __future__ import annotations

import re

import pytest
import requests

from minitoolai.storage import accounts, reports, users
from tests.portal.test_security import MARK, post
from tests.support.browse import Visitor
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

PAGES = ("/admin", "/admin/jobs", "/admin/accounts", "/admin/actions")


def account_of(server: ServerProcess, email: str) -> int:
    return int(server.read(lambda c: users.find_user(c, email))[0].account_id)


@pytest.fixture
def boss(server: ServerProcess, email: str) -> Visitor:
    """An admin."""
    visitor = Visitor(server).sign_up(f"boss-{email}")
    assert server.command("account", "admin", f"boss-{email}").returncode == 0
    return visitor


def test_for_everybody_else_there_is_nothing(boss: Visitor, member: Visitor, email: str, server: ServerProcess) -> None:
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


def test_credit_is_given_once_and_is_in_the_trail(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
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
def test_a_form_that_is_not_whole_changes_nothing(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess, amount: str, note: str
) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts/{number}")
    assert boss.submit("/grant", amount=amount, note=note).status_code == 422
    assert server.read(lambda c: accounts.balance_of(c, number)).posted == 0
    assert server.read(lambda c: reports.admin_actions(c, 10, number)) == []


def test_a_forged_form_of_an_admin_does_nothing(
    boss: Visitor, member: Visitor, email: str, server: ServerProcess
) -> None:
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


def test_revoked_by_an_admin_keys_stop_working(
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


def test_an_account_that_is_not_there_is_not_there(boss: Visitor) -> None:
    for number in ("1", "2", "999999", "99999999999999999999999"):
        assert boss.open(f"/admin/accounts/{number}").status_code in (400, 404)
    boss.open("/admin/accounts?q=%25%00%5C_'")
    assert "Nobody was found" in boss.page.text


def test_the_overview_says_how_books_and_engines_are(boss: Visitor) -> None:
    eventually(lambda: "The books add up" in boss.open("/admin").text, within_s=20)
    assert "fake-chat" in boss.page.text
