"""A customer buys a plan, sees its windows, changes, cancels and resumes it, and redeems coupons."""

from __future__ import annotations

import csv
import io

import pytest

from minitoolai.billing import payments as billing
from minitoolai.billing.selling.coupons import create_coupon
from minitoolai.core.clock import SystemClock
from minitoolai.ledger.rules import decide
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import purses
from minitoolai.storage.selling.coupons import Coupon
from minitoolai.storage.tables import accounts, ledger
from tests.portal.pages.admin.test_admin import account_of
from tests.portal.pages.admin.test_corrections import words
from tests.support.books import hold, settle
from tests.support.browse import Forms, Visitor
from tests.support.server import ServerProcess

CLOCK = SystemClock()
NANO = 10**9


def credit(server: ServerProcess, number: int, dollars: int) -> None:
    server.write(lambda c: billing.grant(c, CLOCK, number, dollars * NANO, reason="a test"))


def spend(server: ServerProcess, number: int, cost: int) -> None:
    made = CLOCK.new_id()

    def change(connection: Connection) -> None:
        placed = hold(made, number, cost, now_ms=CLOCK.now_ms())
        ledger.apply(connection, [placed, settle(made, number, cost)], decide)

    server.write(change)


def buy(member: Visitor, name: str, **more: str) -> int:
    """Send the form of a plan, as the browser has it."""
    forms = [fields for _, fields in Forms(member.open("/plans").text).found if "price" in fields]
    fields = next(one for one in forms if one["plan"] == name) | more
    own = {"origin": member.server.url, "sec-fetch-site": "same-origin"}
    member.page = member.post(member.url("/plans/buy"), data=fields, headers=own, timeout=20)
    return member.page.status_code


def coupon(server: ServerProcess, code: str, *, percent: int | None = None, amount: int | None = None) -> None:
    made = Coupon(CLOCK.new_id(), code, percent, amount, 5, 0, None, CLOCK.now_ms())
    server.write(lambda c: create_coupon(c, CLOCK, made))


def test_a_plan_is_bought_spent_by_window_and_then_the_balance_pays(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    assert "Choose a plan" in words(member.open("/plans"))
    assert buy(member, "pro") == 422
    assert "The plan costs $2.00, and your balance is $0.00. Top up first." in words(member.page)
    credit(server, number, 4)
    assert buy(member, "pro") == 200
    assert "The plan has begun." in words(member.page)
    assert "$3.00 / $3.00" in words(member.page)
    spend(server, number, NANO)
    spend(server, number, NANO // 2)
    page = words(member.open("/plans"))
    assert "$2.00 / $3.00" in page
    assert "in five hours $0.00 left until" in page
    assert server.read(lambda c: accounts.balance_of(c, number)).available == 3 * NANO // 2
    statement = words(member.open("/balance"))
    assert "Pro plan" in statement
    assert "Plans and coupons" in statement


def test_the_same_form_twice_buys_once_and_an_old_price_is_refused(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    credit(server, number, 9)
    assert buy(member, "pro", price="1900000000") == 422
    assert "The price of this plan has changed to $2.00." in words(member.page)
    for wrong in ({"price": "x"}, {"once": ""}):
        assert buy(member, "pro", **wrong) == 422
    for _ in range(2):
        assert buy(member, "pro", once="the same", change="1") == 200
    assert buy(member, "pro", change="") == 422
    assert "You have a plan already." in words(member.page)
    assert len(server.read(lambda c: purses.purses_of(c, number, 9))) == 1
    assert server.read(lambda c: accounts.balance_of(c, number)).available == 7 * NANO


def test_a_plan_is_cancelled_resumed_and_changed(member: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, email)
    credit(server, number, 9)
    buy(member, "pro")
    member.submit("/plans/cancel")
    assert "The plan will not be renewed." in words(member.page)
    assert "not renewed" in words(member.page)
    member.submit("/plans/resume")
    assert "from the balance" in words(member.page)
    assert buy(member, "max") == 200
    # Of the first plan nothing was used, and a moment of its time.
    left = server.read(lambda c: accounts.balance_of(c, number)).available
    assert 3 * NANO < left < 4 * NANO
    assert "Past periods" in words(member.page)
    assert buy(member, "max", plan="old") == 422
    assert "This plan is not on offer any more." in words(member.page)


def test_a_coupon_gives_credit_and_another_one_lowers_a_price(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    coupon(server, f"GIVE{number}", amount=NANO)
    coupon(server, f"HALF{number}", percent=50)
    member.open("/plans")
    assert member.submit("/plans/coupon", code=f"give-{number}").status_code == 200
    assert "$1.00 added to your balance." in words(member.page)
    member.open("/plans")
    assert member.submit("/plans/coupon", code=f"give{number}").status_code == 422
    assert "You have used this coupon before." in words(member.page)
    assert member.submit("/plans/coupon", code=f"half{number}").status_code == 422
    assert "This coupon lowers the price of a plan." in words(member.page)
    assert buy(member, "pro", coupon=f"give{number}") == 422
    assert buy(member, "pro", coupon=f"half{number}") == 200
    assert server.read(lambda c: accounts.balance_of(c, number)).available == 0


def test_a_customer_of_a_group_sees_the_prices_of_the_group(member: Visitor, email: str, server: ServerProcess) -> None:
    before = words(member.open("/prices"))
    assert "Pro plan $2.00 $3.00 of credit each month" in before
    number = account_of(server, email)
    server.write(lambda c: accounts.set_price_group(c, number, "partner"))
    after = words(member.open("/prices"))
    assert "These are your prices, those of the group partner." in after
    assert before != after


@pytest.mark.parametrize("lang", ["de", "es", "fr", "id", "pt", "tr"])
def test_the_page_speaks_every_language(member: Visitor, server: ServerProcess, lang: str) -> None:
    page = member.get(f"{server.url}/{lang}/plans", timeout=20)
    assert page.status_code == 200
    assert "Choose a plan" not in page.text


def test_a_plan_has_a_statement_of_its_own_and_requests_name_what_paid(
    member: Visitor, email: str, server: ServerProcess
) -> None:
    number = account_of(server, email)
    credit(server, number, 4)
    assert buy(member, "pro") == 200
    for cost in (NANO // 4, NANO // 2):
        spend(server, number, cost)
    spend(server, number, NANO)
    (purse,) = server.read(lambda c: purses.open_purses(c, number))
    shown = words(member.open(f"/plans/{purse.id}/statement"))
    for text in ("Pro plan", "Credit of a plan", "+$3.00", "-$0.25", "-$0.50", "$2.25 / $3.00"):
        assert text in shown, text
    assert "-$1.00" not in shown
    lines = list(
        csv.DictReader(io.StringIO(member.open(f"/plans/{purse.id}/statement.csv").text.removeprefix("\ufeff")))
    )
    assert [(line["kind"], line["amount"]) for line in lines] == [
        ("usage", "-0.500000000"), ("usage", "-0.250000000"), ("plan_credit", "3.000000000"),
    ]  # fmt: skip
    listed = words(member.open("/usage/requests"))
    assert (listed.count("Pro plan"), listed.count("$1.00 Balance")) == (2, 1)
    # The statement of the month ends with the balance, whatever the plan paid.
    month = member.open("/invoices").text.split("/invoices/statements/")[1][:7]
    statement = words(member.open(f"/invoices/statements/{month}"))
    assert "Usage paid by plans $0.75" in statement
    assert "Closing balance $1.00" in statement


@pytest.mark.parametrize("path", ["/plans/1/statement", "/plans/x/statement.csv", f"/plans/{10**20}/statement"])
def test_a_statement_of_no_plan_is_not_found(member: Visitor, path: str) -> None:
    assert member.open(path).status_code == 404


def test_the_statement_of_somebody_elses_plan_is_not_found(member: Visitor, email: str, server: ServerProcess) -> None:
    number = account_of(server, email)
    credit(server, number, 2)
    assert buy(member, "pro") == 200
    (purse,) = server.read(lambda c: purses.open_purses(c, number))
    other = Visitor(server).sign_up(f"other-{email}")
    for path in (f"/plans/{purse.id}/statement", f"/plans/{purse.id}/statement.csv"):
        assert other.open(path).status_code == 404
        assert member.open(path).status_code == 200


def test_a_customer_of_a_group_sees_which(member: Visitor, email: str, server: ServerProcess) -> None:
    assert "You pay the prices of the group" not in words(member.open("/usage"))
    server.command("account", "group", email, "partner")
    assert "You pay the prices of the group partner" in words(member.open("/usage"))
