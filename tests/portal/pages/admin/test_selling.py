"""Admins put accounts into groups, start and cancel plans, and make coupons; all of it is in the audit log."""

from __future__ import annotations

import pytest

from minitoolai.storage.selling import coupons, purses
from minitoolai.storage.tables import accounts
from tests.portal.pages.admin.test_admin import account_of
from tests.portal.pages.admin.test_corrections import words
from tests.portal.pages.money.test_plans import NANO, credit
from tests.support.browse import Visitor, new_user
from tests.support.server import ServerProcess


@pytest.fixture
def boss(server: ServerProcess, email: str) -> Visitor:
    """An admin."""
    return new_user(server, f"boss-{email}", is_admin=True)


@pytest.mark.usefixtures("member")
def test_an_account_enters_a_group_and_a_group_that_is_gone_is_shown(
    boss: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts/{number}")
    boss.submit("/group", group="partner")
    assert "The price group is set." in words(boss.page)
    assert server.read(lambda c: accounts.price_group_of(c, number)) == "partner"
    assert boss.submit("/group", group="friends").status_code == 422
    server.write(lambda c: accounts.set_price_group(c, number, "gone"))
    assert "The group gone has left the catalog." in words(boss.open(f"/admin/accounts/{number}"))
    boss.submit("/group", group="")
    assert server.read(lambda c: accounts.price_group_of(c, number)) is None
    assert "Price group set" in words(boss.open(f"/admin/accounts/{number}"))


@pytest.mark.usefixtures("member")
def test_a_plan_is_started_from_the_balance_and_cancelled(boss: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, email)
    boss.open(f"/admin/accounts/{number}")
    assert boss.submit(f"{number}/plan", plan="pro").status_code == 422
    assert "The balance of the account does not cover the plan." in words(boss.page)
    credit(server, number, 5)
    assert boss.submit(f"{number}/plan", plan="old").status_code == 422
    boss.submit(f"{number}/plan", plan="pro")
    assert "The plan has begun." in words(boss.page)
    assert server.read(lambda c: purses.open_purses(c, number))[0].posted == 3 * NANO
    boss.submit("/end-plan")
    assert "The plan will not be renewed." in words(boss.page)
    assert server.read(lambda c: purses.open_purses(c, number))[0].renewal == "none"


def test_coupons_are_made_listed_and_cancelled(boss: Visitor, email: str, server: ServerProcess) -> None:
    code = f"C{account_of(server, f'boss-{email}')}"
    boss.open("/admin/coupons")
    for wrong in (
        {"code": "x", "percent": "5", "uses": "1"},
        {"code": code, "percent": "101", "uses": "1"},
        {"code": code, "percent": "5", "amount": "5", "uses": "1"},
        {"code": code, "amount": "5", "uses": "0"},
        {"code": code, "amount": "5", "uses": "1", "days": "soon"},
    ):
        fields = {"percent": "", "amount": "", "days": "", "note": "", **wrong}
        assert boss.submit("/admin/coupons/create", **fields).status_code == 422, wrong
    good = {"code": code, "percent": "25", "amount": "", "uses": "3", "days": "9", "note": "<b>fair</b>"}
    boss.submit("/admin/coupons/create", **good)
    page = words(boss.page)
    assert "The coupon is created." in page
    assert f"{code} <b>fair</b>" in page
    assert "0 / 3" in page
    assert boss.submit("/admin/coupons/create", **good).status_code == 422
    found = server.read(lambda c: coupons.find(c, code))
    assert found is not None
    assert (found.percent, found.uses) == (25, 3)
    boss.open("/admin/coupons")
    boss.submit("/admin/coupons/cancel", code=code)
    cancelled = server.read(lambda c: coupons.find(c, code))
    assert cancelled is not None
    assert cancelled.cancelled_ms is not None
    log = words(boss.open("/admin/actions"))
    assert "Coupon created" in log
    assert "Coupon cancelled" in log


def test_no_other_customer_may_do_any_of_this(member: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, email)
    assert member.open("/admin/coupons").status_code == 404
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    member.open("/plans")
    csrf = member.fields("/plans/coupon")["csrf"]
    for path in (f"/admin/accounts/{number}/group", f"/admin/accounts/{number}/plan", "/admin/coupons/create"):
        data = {"csrf": csrf, "group": "partner", "plan": "pro", "once": "1"}
        assert member.post(member.url(path), data=data, headers=own, timeout=20).status_code == 404
    assert server.read(lambda c: accounts.price_group_of(c, number)) is None
