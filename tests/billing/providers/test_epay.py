"""Payments by signed redirect: credited once, for the amount asked, whatever notifications and return URLs say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import requests

from minitoolai.billing.providers.epay import sign
from minitoolai.billing.providers.registry import build_providers
from minitoolai.core.errors import SettingsError
from minitoolai.httpclient.client import HttpClient
from minitoolai.settings import Secret, Settings
from minitoolai.storage.selling import invoices
from minitoolai.storage.tables import users
from minitoolai.storage.tables.payments import payments_of
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
from tests.support.epay import Epay, environment
from tests.support.server import ServerProcess
from tests.support.shop import exact_books, money
from tests.support.waiting import eventually

DOLLAR = 10**9


@pytest.fixture(scope="module")
def epay() -> Iterator[Epay]:
    with Epay() as epay:
        yield epay


@pytest.fixture(scope="module")
def epay_server(epay: Epay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("epay"), catalog=CATALOG, env=environment(epay)) as server:
        yield server


@pytest.fixture
def server(epay_server: ServerProcess, epay: Epay) -> Iterator[ServerProcess]:
    epay.is_away = False
    with exact_books(epay_server) as server:
        yield server


def order(member: Visitor, epay: Epay, amount: str = "10") -> str:
    """Go to the payment page and return the number of the order there."""
    member.open("/topup")
    member.submit("/topup/card", follow=False, amount=amount)
    assert member.page.status_code == 303, member.page.text
    return epay.accept(member.page.headers["location"])


def tell(server: ServerProcess, fields: dict[str, str]) -> requests.Response:
    return requests.get(f"{server.url}/webhooks/payments/epay", params=fields, timeout=30)


def test_a_payment_in_another_currency_is_credited_in_dollars_and_shown_as_such(
    member: Visitor, email: str, server: ServerProcess, epay: Epay
) -> None:
    assert "one dollar costs 7.10 CNY" in member.open("/topup").text
    number = order(member, epay, "9.99")
    # 9.99 × 7.10 = 70.929: never less than the rate says.
    assert epay.orders[number]["money"] == "70.93"
    epay.pay(number)
    told = epay.notify(number)
    assert (told.status_code, told.text) == (200, "success")
    assert money(server, email) == 9.99 * DOLLAR
    assert "70.93\u00a0CNY" in member.open("/topup").text
    assert "Paid as 70.93\u00a0CNY." in member.open(f"/invoices/{last_invoice(server, email)}").text


def last_invoice(server: ServerProcess, email: str) -> str:
    account = server.read(lambda c: users.find_user(c, email)[0].account_id)
    return server.read(lambda c: invoices.invoices_of_account(c, account, 1))[0].name


def test_the_return_url_is_not_believed(member: Visitor, email: str, server: ServerProcess, epay: Epay) -> None:
    number = order(member, epay)
    member.page = member.get(epay.orders[number]["return_url"], params=epay.notification(number), timeout=30)
    assert "Payment pending" in member.page.text
    assert money(server, email) == 0
    epay.pay(number)
    member.page = member.get(epay.orders[number]["return_url"], params=epay.notification(number), timeout=30)
    assert "Thank you! $10.00 was added" in member.page.text
    assert money(server, email) == 10 * DOLLAR


def test_forged_notifications_write_nothing(member: Visitor, email: str, server: ServerProcess, epay: Epay) -> None:
    number = order(member, epay)
    right = epay.notification(number)
    before, queries = server.read(lambda c: c.execute("SELECT * FROM payments ORDER BY id")), epay.queries
    for forged in (
        epay.notification(number, key="guessed"),
        right | {"money": "0.01"},
        right | {"sign": ""},
        right | {"sign": "0" * 32},
        right | {"sign": right["sign"] + "0"},
        {name: value for name, value in right.items() if name != "sign"},
        epay.notification(number, pid="1002"),
        epay.notification(number, money="1.00"),
        epay.notification(number, money="71.00 "),
        epay.notification(number, money="Infinity"),
    ):
        assert tell(server, forged).status_code == 400, forged
    assert tell(server, epay.notification(number, trade_status="WAIT_BUYER_PAY")).text == "success"
    assert tell(server, epay.notification(number, out_trade_no="epay-77")).text == "success"
    assert server.read(lambda c: c.execute("SELECT * FROM payments ORDER BY id")) == before
    assert epay.queries == queries
    # Signed correctly, but the provider itself does not know of a payment.
    assert tell(server, right).text == "success"
    assert money(server, email) == 0


def test_a_wrong_amount_is_not_credited_and_is_shown(
    member: Visitor, email: str, server: ServerProcess, epay: Epay
) -> None:
    number = order(member, epay)
    epay.pay(number, money="0.71")
    assert epay.notify(number).status_code == 400
    member.open(f"/topup/done?out_trade_no={number}")
    assert money(server, email) == 0
    assert "Paid differently than agreed" in member.open("/topup").text
    epay.orders[number]["money"] = "71.00"
    assert epay.notify(number).text == "success"
    assert money(server, email) == 10 * DOLLAR


def test_a_provider_that_is_down_loses_nothing(member: Visitor, email: str, server: ServerProcess, epay: Epay) -> None:
    number = order(member, epay)
    epay.pay(number)
    epay.is_away = True
    for _ in range(3):
        assert epay.notify(number).status_code == 503
    assert "Payment pending" in member.open(f"/topup/done?out_trade_no={number}").text
    assert money(server, email) == 0
    epay.is_away = False
    assert [epay.notify(number).text for _ in range(3)] == ["success"] * 3
    assert money(server, email) == 10 * DOLLAR


def test_the_poll_finds_payments_and_refunds_without_notifications(
    member: Visitor, email: str, server: ServerProcess, epay: Epay
) -> None:
    number, other = order(member, epay), order(member, epay, "5")
    epay.pay(number)
    epay.pay(other)
    server.terminate()
    assert server.wait() == 0
    server.start()
    eventually(lambda: money(server, email) == 15 * DOLLAR)
    epay.refund(other)
    server.terminate()
    assert server.wait() == 0
    server.start()
    eventually(lambda: money(server, email) == 10 * DOLLAR)
    account = server.read(lambda c: users.find_user(c, email)[0].account_id)
    rows = server.read(lambda c: invoices.invoices_of_account(c, account, 9))
    assert sorted((row.kind, row.total // DOLLAR) for row in rows) == [
        ("credit_note", 5), ("invoice", 5), ("invoice", 10),
    ]  # fmt: skip


def test_an_order_of_another_account_is_hidden(member: Visitor, email: str, server: ServerProcess, epay: Epay) -> None:
    number = order(member, epay)
    epay.pay(number)
    other = Visitor(server).sign_up(f"other-{email}")
    assert other.open(f"/topup/done?out_trade_no={number}").status_code == 404
    assert money(server, f"other-{email}") == 0
    account = server.read(lambda c: users.find_user(c, email)[0].account_id)
    assert server.read(lambda c: payments_of(c, account, 1))[0].state == "open"


def test_the_signature_sorts_names_and_leaves_out_empty_values() -> None:
    # MD5 of "a=1&c=3" and the key, as the protocol's own example does it.
    assert sign({"c": "3", "a": "1", "b": "", "sign": "x", "sign_type": "MD5"}, "k") == sign({"a": "1", "c": "3"}, "k")
    assert sign({"a": "1", "c": "3"}, "k") == hashlib.md5(b"a=1&c=3k").hexdigest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epay_merchant": ""}, "MINITOOLAI_EPAY_MERCHANT"),
        ({"epay_currency": "yuan"}, "three capital letters"),
        ({"epay_rate": "0"}, "price of a dollar"),
        ({"epay_rate": "7,1"}, "price of a dollar"),
        ({"payment_providers": "paypal"}, "there is no provider 'paypal'"),
    ],
)
def test_wrong_settings_are_refused_with_a_remedy(changes: dict[str, str], words: str) -> None:
    settings = Settings(
        **({"epay_url": "https://pay.example.com", "epay_merchant": "1", "epay_key": Secret("k")} | changes)
    )  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=words):
        build_providers(settings, HttpClient())
