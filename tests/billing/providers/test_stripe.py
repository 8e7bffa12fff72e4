"""Card payments: an account gets what was paid once, in any order and number of webhooks, forged ones included."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest
import requests

from minitoolai.storage.tables import users
from minitoolai.storage.tables.payments import payments_of
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess
from tests.support.shop import exact_books, money, restart
from tests.support.storm import DOLLAR, Storm, checkout, environment, storm, tell
from tests.support.stripe import Stripe
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def stripe_server(stripe: Stripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("stripe"), catalog=CATALOG, env=environment(stripe)) as server:
        yield server


@pytest.fixture
def server(stripe_server: ServerProcess, stripe: Stripe) -> Iterator[ServerProcess]:
    stripe.is_away = False
    with exact_books(stripe_server) as server:
        yield server


def announce(server: ServerProcess, stripe: Stripe, session: str, event: str = "checkout.session.completed") -> None:
    """Send a webhook about a checkout, which the server accepts."""
    assert tell(server, stripe.event(event, stripe.sessions[session])) == 200


def announce_refunds(server: ServerProcess, stripe: Stripe, session: str) -> None:
    """Send a webhook about the refunds of a payment, which the server accepts."""
    assert tell(server, stripe.event("charge.refunded", stripe.charge(session))) == 200


def paid(member: Visitor, stripe: Stripe) -> str:
    """Pay $20 by card and send the webhook. Return the session of the checkout."""
    session = checkout(member)
    stripe.pay(session)
    announce(member.server, stripe, session)
    return session


def test_a_forged_host_changes_no_return_url(member: Visitor, server: ServerProcess, stripe: Stripe) -> None:
    """Stripe leads the browser to these URLs after the payment, with the number of the session in them."""
    member.open("/topup")
    token = member.fields("/topup/card")["csrf"]
    forged = {"host": "evil.example", "x-forwarded-host": "evil.example", "origin": "https://evil.example"}
    forged["cookie"] = "; ".join(f"{name}={value}" for name, value in member.cookies.items())
    # For a host that is not this machine, cookies have another name.
    names = {f"__Host-{name}": value for name, value in member.cookies.items()}
    forged["cookie"] += "; " + "; ".join(f"{name}={value}" for name, value in names.items())
    sent = requests.post(
        member.url("/topup/card"),
        data={"csrf": token, "amount": "20"},
        headers=forged,
        allow_redirects=False,
        timeout=20,
    )
    assert sent.status_code == 303, sent.text
    session = stripe.sessions[sent.headers["location"].rsplit("/", 1)[1]]
    for url in (session["success_url"], session["cancel_url"]):
        assert url.startswith(f"{server.url}/en/topup"), url


def test_a_payment_is_credited_by_the_webhook_and_the_landing_page_together_once(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = checkout(member, "12.34")
    (row,) = server.read(lambda c: payments_of(c, users.find_user(c, email)[0].account_id, 9))
    assert (row.provider_ref, row.asked, row.state) == (session, 12.34 * DOLLAR, "open")
    assert stripe.sessions[session]["client_reference_id"] == str(row.id)
    stripe.pay(session)
    body = stripe.event("checkout.session.completed", stripe.sessions[session])
    assert tell(server, body) == 200
    assert money(server, email) == 12.34 * DOLLAR
    landing = stripe.sessions[session]["success_url"].replace("{CHECKOUT_SESSION_ID}", session)
    member.page = member.get(landing, timeout=20)
    assert "Thank you! $12.34 was added" in member.page.text
    assert money(server, email) == 12.34 * DOLLAR
    assert ">Payment<" in member.page.text


def test_the_landing_page_credits_when_the_webhook_is_slow(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = checkout(member)
    member.open(f"/topup/done?session={session}")
    assert "Payment pending" in member.page.text
    stripe.pay(session)
    member.open(f"/topup/done?session={session}")
    assert money(server, email) == 20 * DOLLAR


def test_a_slow_payment_method_is_credited_when_the_money_arrives(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = checkout(member)
    stripe.pay(session, confirmed=False)
    announce(server, stripe, session)
    assert money(server, email) == 0
    stripe.confirm(session)
    announce(server, stripe, session, "checkout.session.async_payment_succeeded")
    assert money(server, email) == 20 * DOLLAR


def test_a_debit_that_fails_is_given_up(member: Visitor, email: str, server: ServerProcess, stripe: Stripe) -> None:
    session = checkout(member)
    stripe.pay(session, confirmed=False)
    announce(server, stripe, session)
    assert "not paid yet" in member.open("/topup").text
    stripe.fail(session)
    announce(server, stripe, session, "checkout.session.async_payment_failed")
    assert ">failed<" in member.open("/topup").text
    assert "not paid yet" not in member.page.text
    assert money(server, email) == 0


def test_a_refund_that_fails_later_gives_the_money_back(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = paid(member, stripe)
    kept, failing = stripe.refund(session, 300), stripe.refund(session, 700)
    announce_refunds(server, stripe, session)
    assert money(server, email) == 10 * DOLLAR
    failing["status"] = "failed"
    for kind in ("refund.failed", "charge.refund.updated", "refund.updated"):
        assert tell(server, stripe.event(kind, failing)) == 200
        assert money(server, email) == 17 * DOLLAR
    kept["status"] = "canceled"
    # Stripe may also lower the sum of the charge.
    stripe.charge(session)["amount_refunded"] = 0
    assert tell(server, stripe.event("refund.updated", kept)) == 200
    assert money(server, email) == 20 * DOLLAR


def test_the_poll_finds_a_failed_refund_without_a_webhook(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = paid(member, stripe)
    refund = stripe.refund(session, 2000)
    announce_refunds(server, stripe, session)
    refund["status"] = "failed"
    stripe.event("refund.failed", refund)
    assert money(server, email) == 0
    restart(server)
    eventually(lambda: money(server, email) == 20 * DOLLAR)


def test_many_shuffled_webhooks_credit_exactly_what_was_paid(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    tally = Storm()
    storm(member, email, stripe, random.Random(5), tally)
    assert tally.violations == []
    assert (tally.events, tally.forged) == (120, 36)
    assert money(server, email) == 23 * DOLLAR


def test_forged_and_stale_webhooks_write_nothing(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = checkout(member)
    stripe.pay(session)
    body = stripe.event("checkout.session.completed", stripe.sessions[session])

    def everything() -> object:
        tables = ("payments", "webhook_events", "transfers", "accounts")
        return server.read(lambda c: [c.execute(f"SELECT * FROM {table}") for table in tables])

    before = everything()
    for signature in (
        "",
        "t=1,v1=1",
        Stripe.sign(body, secret="x"),
        Stripe.sign(body, age_s=301),
        Stripe.sign(body[1:]),
    ):
        assert tell(server, body, signature) == 400
    assert everything() == before
    assert tell(server, b"not json", Stripe.sign(b"not json")) == 400
    assert tell(server, b"x" * 2_000_000) == 413
    assert everything() == before


def test_a_refund_event_that_arrives_first_is_handled(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = checkout(member)
    stripe.pay(session)
    stripe.refund(session, 500)
    announce_refunds(server, stripe, session)
    assert money(server, email) == 15 * DOLLAR
    announce(server, stripe, session)
    assert money(server, email) == 15 * DOLLAR
    stripe.refund(session, 1500)
    for _ in range(3):
        announce_refunds(server, stripe, session)
    assert money(server, email) == 0


def test_a_dispute_withdraws_the_money_and_a_won_one_returns_it(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = paid(member, stripe)
    dispute = stripe.dispute(session)
    assert tell(server, stripe.event("charge.dispute.funds_withdrawn", dispute)) == 200
    assert money(server, email) == 0
    dispute["status"] = "won"
    assert tell(server, stripe.event("charge.dispute.funds_reinstated", dispute)) == 200
    assert money(server, email) == 20 * DOLLAR
    # News of the beginning that comes late changes nothing: Stripe itself is asked.
    assert tell(server, stripe.event("charge.dispute.created", dispute | {"status": "needs_response"})) == 200
    assert money(server, email) == 20 * DOLLAR


def test_refunded_money_that_was_spent_is_deducted_from_the_next_payment(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = paid(member, stripe)
    member.open("/keys")
    member.submit("/keys", name="spender")
    found = re.search(r"sk-mt-\w{12}-\w{32}-\w{6}", member.page.text)
    assert found
    asked = {"model": "fake-chat", "stream": False, "messages": [{"role": "user", "content": "hello " * 50}]}
    answer = requests.post(
        server.url + "/v1/chat/completions", json=asked, headers={"authorization": f"Bearer {found[0]}"}, timeout=30
    )
    assert answer.status_code == 200
    spent = 20 * DOLLAR - money(server, email)
    assert spent > 0
    stripe.refund(session, 2000)
    announce_refunds(server, stripe, session)
    assert money(server, email) == 0
    assert "was reversed after its money had been spent" in member.open("/balance").text
    code = server.command("voucher", "create", "1.00").stdout.strip()
    member.open("/topup")
    member.submit("/topup/voucher", code=code)
    assert money(server, email) == DOLLAR - spent
    assert "was reversed after its money" not in member.page.text


def test_the_poll_at_startup_finds_payments_without_a_webhook(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = checkout(member)
    stripe.pay(session)
    restart(server)
    eventually(lambda: money(server, email) == 20 * DOLLAR)


def test_another_currency_is_not_credited(member: Visitor, email: str, server: ServerProcess, stripe: Stripe) -> None:
    session = checkout(member)
    stripe.pay(session, currency="idr")
    announce(server, stripe, session)
    assert money(server, email) == 0


def test_nothing_is_lost_while_stripe_is_unavailable(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = checkout(member)
    stripe.pay(session)
    stripe.is_away = True
    body = stripe.event("checkout.session.completed", stripe.sessions[session])
    assert tell(server, body) == 503
    member.open("/topup")
    member.submit("/topup/card", amount="5")
    assert member.page.status_code == 503
    assert 'value="5"' in member.page.text
    stripe.is_away = False
    assert tell(server, body) == 200
    assert money(server, email) == 20 * DOLLAR


def test_a_payment_is_hidden_from_other_accounts(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    session = checkout(member)
    stripe.pay(session)
    other = Visitor(server).sign_up(f"other-{email}")
    assert other.open(f"/topup/done?session={session}").status_code == 404
    assert money(server, f"other-{email}") == 0


def test_a_button_with_an_amount_pays_that_and_a_written_amount_counts_first(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    member.open("/topup")
    assert [f'name="preset" value="{amount}"' in member.page.text for amount in (5, 10, 20, 50, 100)] == [True] * 5
    for sent in ({"preset": "20"}, {"preset": "5", "amount": "12.34"}):
        member.open("/topup")
        assert member.submit("/topup/card", follow=False, **sent).status_code == 303
    rows = server.read(lambda c: payments_of(c, users.find_user(c, email)[0].account_id, 9))
    assert [row.asked for row in rows] == [12.34 * DOLLAR, 20 * DOLLAR]
    member.open("/topup")
    assert member.submit("/topup/card", preset="7").status_code == 422


@pytest.mark.parametrize("amount", ["", "0.99", "10001", "1.0010001", "five", "-5", "NaN", "Infinity", "9" * 40])
def test_an_invalid_amount_is_refused_next_to_its_field(
    member: Visitor, server: ServerProcess, stripe: Stripe, amount: str
) -> None:
    calls = len(stripe.calls)
    member.open("/topup")
    member.submit("/topup/card", amount=amount)
    assert member.page.status_code == 422
    assert "Write an amount from $1.00 to $10,000.00" in member.page.text
    assert len(stripe.calls) == calls


def test_foreign_events_are_accepted_and_ignored(server: ServerProcess, stripe: Stripe) -> None:
    for kind, thing in (
        ("customer.created", {"id": "cus_1", "object": "customer"}),
        ("checkout.session.completed", {"id": "cs_other", "object": "checkout.session", "client_reference_id": None}),
        ("checkout.session.completed", {"id": "cs_other", "object": "checkout.session", "client_reference_id": "7"}),
        ("charge.refunded", {"id": "ch_1", "object": "charge", "payment_intent": None}),
    ):
        assert tell(server, stripe.event(kind, thing)) == 200
