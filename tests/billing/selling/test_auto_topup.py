"""Automatic top-ups: charged once, within the consent, and given up when the card is declined."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from minitoolai.billing.cashier import Cashier
from minitoolai.billing.providers.stripe import StripeProvider
from minitoolai.billing.selling.auto_topup import FORGOTTEN_MS, UNCONFIRMED_MS, AutoTopups
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.storage.selling import auto_topups, invoices, notices
from minitoolai.storage.selling.auto_topups import AutoTopup
from minitoolai.storage.tables import payments
from minitoolai.storage.writer import Writer
from tests.support.books import TemporaryBooks, hold, settle
from tests.support.stripe import KEY, SECRET, Stripe

DOLLAR = 10**9


@pytest.fixture
def stripe() -> Iterator[Stripe]:
    with Stripe() as stripe:
        yield stripe


class Shop:
    """A cashier with Stripe on temporary books, and one account with an automatic top-up of 10 below 5, 25 a day."""

    def __init__(self, books: TemporaryBooks, writer: Writer, stripe: Stripe) -> None:
        self.books, self.stripe = books, stripe
        provider = StripeProvider(key=KEY, webhook_secret=SECRET, api_url=stripe.url)
        catalog = Catalog({}, {})
        self.cashier = Cashier(books.database, writer, books.clock, catalog, {"stripe": provider})
        self.service = AutoTopups(books.database, writer, books.clock, catalog, self.cashier)
        self.account = books.account(6 * DOLLAR)
        now_ms = books.clock.now_ms()
        self.topup = AutoTopup(
            self.account, "stripe", "cus_1", "pm_1", "visa …4242", "en", 5 * DOLLAR, 10 * DOLLAR, 25 * DOLLAR,
            now_ms, now_ms,
        )  # fmt: skip
        with books.connection.transaction():
            auto_topups.replace(books.connection, self.topup)
        self._holds = 0

    def run(self) -> None:
        asyncio.run(self.service.top_up_due())

    def spend(self, amount: int) -> None:
        self._holds += 1
        self.books.apply(hold(self._holds, self.account, amount), settle(self._holds, self.account, amount))

    @property
    def balance(self) -> int:
        return int(self.books.rows("SELECT posted FROM accounts WHERE id = ?", self.account)[0][0])

    @property
    def charges(self) -> int:
        return sum(call[:2] == ("POST", "/v1/payment_intents") for call in self.stripe.calls)

    def state(self) -> AutoTopup:
        found = auto_topups.find(self.books.connection, self.account)
        assert found is not None
        return found


@pytest.fixture
def shop(books: TemporaryBooks, stripe: Stripe) -> Iterator[Shop]:
    with books.writer() as writer:
        shop = Shop(books, writer, stripe)
        yield shop
        shop.cashier.close()
    assert invoices.wrong_invoices(books.connection, 9) == []


def test_an_account_is_topped_up_below_its_threshold_and_not_above(shop: Shop) -> None:
    shop.run()
    assert (shop.charges, shop.balance) == (0, 6 * DOLLAR)
    shop.spend(2 * DOLLAR)
    shop.run()
    shop.run()
    assert (shop.charges, shop.balance) == (1, 14 * DOLLAR)
    assert shop.state().payment_id is None
    (row,) = invoices.invoices_of_account(shop.books.connection, shop.account, 9)
    assert (row.kind, row.total) == ("invoice", 10 * DOLLAR)


def test_the_daily_cap_holds_until_the_next_day(shop: Shop) -> None:
    for _ in range(3):
        shop.spend(shop.balance - DOLLAR)
        shop.run()
    shop.run()
    assert (shop.charges, shop.balance) == (2, DOLLAR)
    shop.books.clock.forward(86_400)
    shop.run()
    assert (shop.charges, shop.balance) == (3, 11 * DOLLAR)


def test_a_declined_card_stops_it_and_is_notified_once(shop: Shop) -> None:
    shop.stripe.charges_are = "declined"
    shop.spend(2 * DOLLAR)
    for _ in range(3):
        shop.run()
    assert (shop.charges, shop.balance, shop.state().stopped) == (1, 4 * DOLLAR, "failed")
    (payment,) = payments.payments_of(shop.books.connection, shop.account, 9)
    assert (payment.state, payment.problem, payment.is_auto) == ("closed", "failed", 1)
    (notice,) = notices.notices_of(shop.books.connection, shop.account, 9)
    assert notice.type == "payment.failed"
    assert '"automatic":true' in notice.data


def test_a_debit_that_takes_days_blocks_further_ones_and_its_failure_stops_it(shop: Shop) -> None:
    shop.stripe.charges_are = "processing"
    shop.spend(2 * DOLLAR)
    shop.run()
    shop.run()
    assert (shop.charges, shop.balance) == (1, 4 * DOLLAR)
    (payment,) = payments.payments_of(shop.books.connection, shop.account, 9)
    assert (payment.state, shop.state().payment_id) == ("open", payment.id)
    shop.stripe.settle_charge(payment.provider_ref or "", succeeds=False)
    asyncio.run(shop.cashier.refresh(payment))
    assert (shop.state().stopped, shop.state().payment_id) == ("failed", None)
    assert len(notices.notices_of(shop.books.connection, shop.account, 9)) == 1
    assert shop.balance == 4 * DOLLAR


def test_a_debit_that_succeeds_later_is_credited_once(shop: Shop) -> None:
    shop.stripe.charges_are = "processing"
    shop.spend(2 * DOLLAR)
    shop.run()
    (payment,) = payments.payments_of(shop.books.connection, shop.account, 9)
    shop.stripe.settle_charge(payment.provider_ref or "", succeeds=True)
    for _ in range(3):
        asyncio.run(shop.cashier.refresh(payment))
    assert (shop.charges, shop.balance) == (1, 14 * DOLLAR)


def test_a_provider_that_is_down_is_asked_again_with_the_same_number(shop: Shop) -> None:
    shop.stripe.is_away = True
    shop.spend(2 * DOLLAR)
    shop.run()
    shop.run()
    assert (shop.charges, shop.balance) == (0, 4 * DOLLAR)
    shop.stripe.is_away = False
    shop.books.clock.forward(UNCONFIRMED_MS // 1000 + 1)
    shop.run()
    shop.run()
    assert (shop.charges, shop.balance) == (1, 14 * DOLLAR)


def test_a_process_killed_after_the_charge_charges_once(shop: Shop) -> None:
    shop.spend(2 * DOLLAR)
    shop.run()
    (payment,) = payments.payments_of(shop.books.connection, shop.account, 9)
    # As if the process had ended before it stored the reference of the charge.
    shop.books.rows("UPDATE payments SET provider_ref = NULL, intent = NULL WHERE id = ?", payment.id)
    shop.books.rows("UPDATE auto_topups SET payment_id = ?", payment.id)
    shop.books.rows("UPDATE payments SET state = 'closed' WHERE id = -1")
    shop.books.clock.forward(UNCONFIRMED_MS // 1000 + 1)
    shop.run()
    assert len(shop.stripe.intents) == 1
    assert shop.balance == 14 * DOLLAR


def test_an_old_charge_without_an_answer_is_given_up_rather_than_made_twice(shop: Shop) -> None:
    shop.stripe.is_away = True
    shop.spend(2 * DOLLAR)
    shop.run()
    shop.stripe.is_away = False
    shop.books.clock.forward(FORGOTTEN_MS // 1000 + 1)
    shop.run()
    assert (shop.charges, shop.state().stopped) == (0, "failed")


def test_a_withdrawn_consent_ends_it(shop: Shop) -> None:
    asyncio.run(shop.service.stop(shop.account))
    shop.spend(2 * DOLLAR)
    shop.run()
    assert (shop.charges, shop.state().stopped) == (0, "cancelled")


def test_many_processes_charge_once(shop: Shop) -> None:
    shop.spend(2 * DOLLAR)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: shop.run(), range(16)))
    assert (len(shop.stripe.intents), shop.balance) == (1, 14 * DOLLAR)
    assert re.fullmatch(r"pi_\d+", payments.payments_of(shop.books.connection, shop.account, 1)[0].provider_ref or "")
