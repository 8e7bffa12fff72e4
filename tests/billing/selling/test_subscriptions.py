"""Plans that the payment provider renews: each paid period is invoiced and bought once, however it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from minitoolai.storage.selling import invoices, notices, purses, subscriptions
from minitoolai.storage.selling.purses import Purse
from minitoolai.storage.tables import payments
from tests.portal.conftest import SELLING
from tests.support.browse import Forms, Visitor
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess
from tests.support.shop import account_number, exact_books, money, restart
from tests.support.storm import DOLLAR, environment, tell
from tests.support.stripe import Stripe
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def selling_server(stripe: Stripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("subscriptions")
    with ServerProcess(folder, catalog=CATALOG + SELLING, env=environment(stripe)) as server:
        yield server


@pytest.fixture
def server(selling_server: ServerProcess, stripe: Stripe) -> Iterator[ServerProcess]:
    stripe.is_away = False
    with exact_books(selling_server) as server:
        yield server


def subscribe(member: Visitor, name: str = "pro", **more: str) -> str:
    """Send the form of a plan by its second button and return the session at Stripe."""
    forms = [fields for _, fields in Forms(member.open("/plans").text).found if "price" in fields]
    fields = next(one for one in forms if one["plan"] == name) | more
    own = {"origin": member.server.url, "sec-fetch-site": "same-origin"}
    member.page = member.post(
        member.url("/plans/subscribe"), data=fields, headers=own, timeout=20, allow_redirects=False
    )
    return str(member.page.headers.get("location", "")).rsplit("/", 1)[-1]


def periods(server: ServerProcess, email: str) -> list[Purse]:
    number = account_number(server, email)
    found: list[Purse] = server.read(lambda c: purses.open_purses(c, number))
    return found


def told(server: ServerProcess, stripe: Stripe, kind: str, thing: dict[str, Any]) -> int:
    return tell(server, stripe.event(kind, thing))


def subscribed(server: ServerProcess, stripe: Stripe, member: Visitor) -> str:
    """Subscribe and pay, and return Stripe's ID of the subscription."""
    session = subscribe(member)
    stripe.pay(session)
    assert told(server, stripe, "checkout.session.completed", stripe.sessions[session]) == 200
    return str(stripe.sessions[session]["subscription"])


def test_a_plan_begins_with_its_first_payment_and_each_later_one_buys_the_next_period(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = subscribe(member)
    assert stripe.sessions[session]["amount_total"] == 200
    assert "Payment pending" in member.open(f"/plans/subscribed?session={session}").text
    assert periods(server, email) == []
    stripe.pay(session)
    member.open(f"/plans/subscribed?session={session}")
    assert "The plan has begun." in member.page.text
    assert "by payment" in member.page.text
    (first,) = periods(server, email)
    assert (first.plan, first.price, first.credit, first.renewal) == ("pro", 2 * DOLLAR, 3 * DOLLAR, "provider")
    assert money(server, email) == 0
    invoice = stripe.renew(stripe.sessions[session]["subscription"])
    assert told(server, stripe, "invoice.paid", invoice) == 200
    kept, following = periods(server, email)
    assert (kept.id, kept.renewal) == (first.id, "none")
    assert (following.begins_ms, following.renewal) == (first.ends_ms, "provider")
    number = account_number(server, email)
    issued = server.read(lambda c: invoices.invoices_of_account(c, number, 9))
    assert [row.total for row in issued] == [2 * DOLLAR, 2 * DOLLAR]


def test_a_webhook_before_the_redirect_twice_and_in_any_order_buys_one_period(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = subscribe(member)
    stripe.pay(session)
    subscription = stripe.subscriptions[stripe.sessions[session]["subscription"]]
    (invoice,) = [one for one in stripe.invoices.values() if told_of(one) == subscription["id"]]
    paid = stripe.event("invoice.paid", invoice)
    for body in (paid, paid, stripe.event("customer.subscription.created", subscription)):
        assert tell(server, body) == 200
    assert told(server, stripe, "checkout.session.completed", stripe.sessions[session]) == 200
    assert told(server, stripe, "invoice.paid", invoice) == 200
    member.open(f"/plans/subscribed?session={session}")
    assert "The plan has begun." in member.page.text
    assert len(periods(server, email)) == 1
    assert money(server, email) == 0


def told_of(invoice: dict[str, Any]) -> str:
    return str(invoice["parent"]["subscription_details"]["subscription"])


def test_without_any_webhook_the_poll_buys_the_period(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = subscribe(member)
    stripe.pay(session)
    assert periods(server, email) == []
    restart(server)
    eventually(lambda: len(periods(server, email)) == 1, within_s=20)


def test_a_payment_of_another_amount_or_currency_buys_nothing(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    name = subscribed(server, stripe, member)
    assert told(server, stripe, "invoice.paid", stripe.renew(name, cents=150)) == 200
    assert len(periods(server, email)) == 1
    assert money(server, email) == 1.5 * DOLLAR
    assert told(server, stripe, "invoice.paid", stripe.renew(name, currency="eur")) == 200
    assert (len(periods(server, email)), money(server, email)) == (1, 1.5 * DOLLAR)


def test_while_the_provider_is_down_nothing_is_bought_and_nothing_lost(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    name = subscribed(server, stripe, member)
    body = stripe.event("invoice.paid", stripe.renew(name))
    stripe.is_away = True
    assert tell(server, body) == 503
    member.open("/plans")
    assert member.submit("/plans/cancel").status_code == 503
    assert "The payment provider is not responding. Nothing has changed." in member.page.text
    assert [one.renewal for one in periods(server, email)] == ["provider"]
    stripe.is_away = False
    assert tell(server, body) == 200
    assert len(periods(server, email)) == 2


def test_a_failed_renewal_is_notified_once_and_the_plan_ends_unless_a_later_try_succeeds(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    name = subscribed(server, stripe, member)
    invoice = stripe.renew(name, succeeds=False)
    for _ in range(2):
        assert told(server, stripe, "invoice.payment_failed", invoice) == 200
    number = account_number(server, email)
    (notice,) = server.read(lambda c: notices.notices_of(c, number, 9))
    assert notice.type == "payment.failed"
    assert json.loads(notice.data) == {
        "payment": invoice["id"], "amount": "2.00", "automatic": True, "plan": "Pro plan"
    }  # fmt: skip
    (purse,) = periods(server, email)
    assert purse.renewal == "none"
    assert server.read(lambda c: subscriptions.newest(c, number)).state == "ending"
    assert told(server, stripe, "invoice.paid", stripe.collect(invoice["id"])) == 200
    assert [one.renewal for one in periods(server, email)] == ["none", "provider"]


def test_cancelled_here_or_at_the_provider_the_plan_runs_to_its_end_and_can_be_resumed(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    name = subscribed(server, stripe, member)
    member.open("/plans")
    assert "The plan will not be renewed." in member.submit("/plans/cancel").text
    assert stripe.subscriptions[name]["cancel_at_period_end"]
    assert [one.renewal for one in periods(server, email)] == ["none"]
    assert "The plan will be renewed." in member.submit("/plans/resume").text
    assert not stripe.subscriptions[name]["cancel_at_period_end"]
    assert [one.renewal for one in periods(server, email)] == ["provider"]
    stripe.subscriptions[name]["status"] = "canceled"
    assert told(server, stripe, "customer.subscription.deleted", stripe.subscriptions[name]) == 200
    (purse,) = periods(server, email)
    assert (purse.renewal, purse.available) == ("none", 3 * DOLLAR)
    number = account_number(server, email)
    assert server.read(lambda c: subscriptions.newest(c, number)).state == "ended"


def test_a_plan_by_card_is_not_changed_and_not_bought_twice(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    subscribed(server, stripe, member)
    for name in ("pro", "max"):
        subscribe(member, name)
        assert member.page.status_code == 422
        assert "Your plan is renewed by card. Cancel that first" in member.page.text


def test_a_price_that_changed_or_a_plan_that_is_gone_is_refused_before_the_card_is_asked(
    member: Visitor, server: ServerProcess, stripe: Stripe
) -> None:
    before = len(stripe.sessions)
    subscribe(member, price="1000000000")
    assert "The price of this plan has changed to $2.00." in member.page.text
    subscribe(member, plan="old")
    assert "This plan is not on offer any more." in member.page.text
    assert len(stripe.sessions) == before


def test_a_refund_of_a_period_takes_the_money_back(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    name = subscribed(server, stripe, member)
    (invoice,) = [one for one in stripe.invoices.values() if told_of(one) == name]
    intent = invoice["payments"]["data"][0]["payment"]["payment_intent"]
    charge = stripe.charges[stripe.intents[intent]["latest_charge"]]
    charge["amount_refunded"] = 200
    refund = {
        "id": f"re_{name}", "object": "refund", "amount": 200, "status": "succeeded", "charge": charge["id"],
        "payment_intent": intent,
    }  # fmt: skip
    stripe.refunds.append(refund)
    assert told(server, stripe, "charge.refunded", charge) == 200
    number = account_number(server, email)
    (payment,) = server.read(lambda c: payments.payments_of(c, number, 9))
    assert (payment.reversed, payment.owed) == (2 * DOLLAR, 2 * DOLLAR)


def test_the_first_period_of_a_plan_that_became_dearer_is_sold_at_the_price_agreed(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = subscribe(member)
    found = server.folder / "catalog.toml"
    text = found.read_text("utf-8")
    found.write_text(text.replace('price = "2.00"', 'price = "2.50"'), "utf-8")
    try:
        restart(server)
        stripe.pay(session)
        assert told(server, stripe, "checkout.session.completed", stripe.sessions[session]) == 200
        (purse,) = periods(server, email)
        assert (purse.price, purse.credit) == (2 * DOLLAR, 3 * DOLLAR)
    finally:
        found.write_text(text, "utf-8")
        restart(server)
