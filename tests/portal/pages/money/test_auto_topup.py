"""The pages of automatic top-ups and of notices: consent, limits, saved cards of others, and mail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minitoolai.storage.selling import auto_topups, notices
from minitoolai.storage.tables import users
from tests.support.browse import Visitor, letters
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess
from tests.support.storm import environment, tell
from tests.support.stripe import Stripe
from tests.support.waiting import eventually

DOLLAR = 10**9
LIMITS = {"threshold": "5", "amount": "10", "daily_cap": "20", "consent": "on"}


@pytest.fixture(scope="module")
def server(stripe: Stripe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("auto"), catalog=CATALOG, env=environment(stripe)) as server:
        yield server


def found(server: ServerProcess, email: str) -> auto_topups.AutoTopup | None:
    account = server.read(lambda c: users.find_user(c, email)[0].account_id)
    return server.read(lambda c: auto_topups.find(c, account))


def begin(member: Visitor) -> str:
    """Consent, and return the session in which the card is to be saved."""
    member.open("/topup/auto")
    member.submit("/topup/auto/save", follow=False, **LIMITS)
    assert member.page.status_code == 303, member.page.text
    return member.page.headers["location"].rsplit("/", 1)[1]


def test_consent_saves_a_card_charges_within_the_cap_and_can_be_withdrawn(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    stripe.charges_are = "succeeded"
    session = begin(member)
    assert stripe.sessions[session]["mode"] == "setup"
    member.open(f"/topup/auto/done?session={session}")
    assert "was not saved" in member.page.text
    stripe.save_card(session)
    member.open(f"/topup/auto/done?session={session}")
    assert "Automatic top-up is on." in member.page.text
    assert "visa …4242" in member.page.text
    topup = found(server, email)
    assert topup is not None
    assert (topup.threshold, topup.amount, topup.daily_cap) == (5 * DOLLAR, 10 * DOLLAR, 20 * DOLLAR)
    eventually(lambda: "$10.00" in member.open("/topup").text and "automatic" in member.page.text, within_s=20)
    member.open("/topup/auto")
    member.submit("/topup/auto/save", **(LIMITS | {"threshold": "2"}))
    changed = found(server, email)
    assert changed is not None
    assert (changed.threshold, changed.method) == (2 * DOLLAR, topup.method)
    member.submit("/topup/auto/stop")
    stopped = found(server, email)
    assert stopped is not None
    assert stopped.stopped == "cancelled"


def test_a_session_of_somebody_else_saves_nothing(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    other = Visitor(server).sign_up(f"other-{email}")
    foreign, own = begin(other), begin(member)
    stripe.save_card(foreign)
    assert own != foreign
    for session in (foreign, "cs_none", ""):
        member.open(f"/topup/auto/done?session={session}")
        assert "was not saved" in member.page.text
    topup = found(server, email)
    assert topup is not None
    assert (topup.stopped, topup.method) == ("pending", "")
    # The event of a session that saves a card is about no payment.
    assert tell(server, stripe.event("checkout.session.completed", stripe.sessions[foreign])) == 200


def test_a_declined_card_is_shown_and_mailed_once(
    member: Visitor, email: str, server: ServerProcess, stripe: Stripe
) -> None:
    stripe.charges_are = "declined"
    session = begin(member)
    stripe.save_card(session)
    member.open(f"/topup/auto/done?session={session}")
    eventually(lambda: "was declined" in member.open("/topup/auto").text, within_s=20)
    eventually(lambda: "automatic top-up failed" in "".join(letters(server, email)), within_s=20)
    assert ">failed<" in member.open("/topup").text
    stripe.charges_are = "succeeded"
    assert sum("automatic top-up failed" in letter for letter in letters(server, email)) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"consent": ""}, "Confirm that your payment method"),
        ({"daily_cap": "9"}, "must be at least the amount"),
        ({"amount": "0.50"}, "Write an amount from $1.00"),
        ({"threshold": "1,000"}, "This could mean"),
        ({"daily_cap": ""}, "Write an amount from $1.00"),
    ],
)
def test_wrong_limits_are_refused_next_to_their_field(
    member: Visitor, email: str, server: ServerProcess, changes: dict[str, str], words: str
) -> None:
    member.open("/topup/auto")
    member.submit("/topup/auto/save", **(LIMITS | changes))
    assert member.page.status_code == 422
    assert words in member.page.text
    assert found(server, email) is None


def test_a_provider_that_is_down_is_said(member: Visitor, email: str, server: ServerProcess, stripe: Stripe) -> None:
    stripe.is_away = True
    member.open("/topup/auto")
    member.submit("/topup/auto/save", **LIMITS)
    stripe.is_away = False
    assert member.page.status_code == 503
    assert "not responding" in member.page.text


def test_notices_are_set_and_a_low_balance_is_mailed(member: Visitor, email: str, server: ServerProcess) -> None:
    account = server.read(lambda c: users.find_user(c, email)[0].account_id)
    member.open("/account/notices")
    member.submit("/account/notices/save", low_balance="5", by_mail="on", budgets="on", webhook_url="http://10.0.0.1/")
    assert member.page.status_code == 422
    assert "begins with https://" in member.page.text
    member.submit("/account/notices/save", low_balance="5", by_mail="on", budgets="on", webhook_url="")
    settings = server.read(lambda c: notices.find_settings(c, account))
    assert settings is not None
    # The balance is low already, so there is nothing to report yet.
    assert (settings.low_balance, settings.is_low, settings.budgets) == (5 * DOLLAR, True, True)
    server.command("credit", "grant", email, "6.00")
    eventually(lambda: not server.read(lambda c: notices.find_settings(c, account)).is_low, within_s=20)
    server.command("credit", "reverse", email, "2.00", "--reason", "test")
    eventually(lambda: "Your balance is $4.00, below $5.00" in "".join(letters(server, email)), within_s=20)
    assert "balance.low" in member.open("/account/notices").text
