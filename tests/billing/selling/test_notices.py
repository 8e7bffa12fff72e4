"""Notices: once a crossing, by mail and webhook, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from minitoolai.billing.selling.notices import NoticeWatcher, announce
from minitoolai.core.models import KeyRow, KeyRules, period_ids
from minitoolai.storage.selling import notices
from minitoolai.storage.selling.notices import NoticeSettings
from minitoolai.storage.tables import accounts, outbox
from tests.support.books import NOON_MS, TemporaryBooks, credit, hold, settle

URL = "https://example.com/hook"


class Watched:
    """One account with 1000 that wants to know when it has less than 500."""

    def __init__(self, books: TemporaryBooks, watcher: NoticeWatcher) -> None:
        self.books, self.watcher = books, watcher
        self.account = books.account(1000)
        with books.connection.transaction():
            notices.save_settings(books.connection, NoticeSettings(self.account, True, URL, 500))
        self._holds = 0

    def spend(self, amount: int) -> None:
        self._holds += 1
        self.books.apply(hold(self._holds, self.account, amount), settle(self._holds, self.account, amount))

    def look(self) -> list[str]:
        """Look three times, as several processes do, and return the types of all notices, oldest first."""
        for _ in range(3):
            asyncio.run(self.watcher.look_at_balances())
            asyncio.run(self.watcher.look_at_budgets())
        found = notices.notices_of(self.books.connection, self.account, 99)
        return [notice.type for notice in reversed(found)]

    def messages(self) -> int:
        return len(outbox.delivery_log(self.books.connection, self.account, 99))


@pytest.fixture
def watched(books: TemporaryBooks) -> Iterator[Watched]:
    with books.writer() as writer:
        yield Watched(books, NoticeWatcher(books.database, writer, books.clock))


def test_a_low_balance_is_notified_once_a_crossing(watched: Watched) -> None:
    assert watched.look() == []
    watched.spend(500)
    assert watched.look() == []
    watched.spend(1)
    assert watched.look() == ["balance.low"]
    watched.spend(100)
    assert watched.look() == ["balance.low"]
    watched.books.apply(credit(watched.account, 500))
    assert watched.look() == ["balance.low"]
    watched.spend(500)
    assert watched.look() == ["balance.low"] * 2
    assert watched.messages() == 2
    first = notices.notices_of(watched.books.connection, watched.account, 9)[-1]
    assert msgspec.json.decode(first.data) == {"balance": "0.000000499", "threshold": "0.0000005"}


def test_a_budget_is_notified_once_a_period_and_limit(watched: Watched) -> None:
    connection = watched.books.connection
    rules = msgspec.json.encode(KeyRules(budget_daily=100)).decode()
    with connection.transaction():
        accounts.insert_key(connection, KeyRow("k1", watched.account, "shop", b"\1" * 32, NOON_MS, None))
    watched.books.rows("UPDATE api_keys SET rules = ?", rules)
    today = period_ids("k1", watched.books.clock.now_ms())["day"]
    watched.books.rows(f"INSERT INTO key_spending (id, used, created_ms) VALUES ('{today}', 89, 1)")
    assert watched.look() == []
    watched.books.rows("UPDATE key_spending SET used = 90")
    assert watched.look() == ["budget.reached"]
    watched.books.rows("UPDATE key_spending SET used = 100")
    assert watched.look() == ["budget.reached"]
    data = msgspec.json.decode(notices.notices_of(connection, watched.account, 1)[0].data)
    assert (data["key"], data["name"], data["period"]) == ("k1", "shop", "day")
    watched.books.clock.forward(86_400)
    assert watched.look() == ["budget.reached"]
    tomorrow = period_ids("k1", watched.books.clock.now_ms())["day"]
    watched.books.rows(f"INSERT INTO key_spending (id, used, created_ms) VALUES ('{tomorrow}', 95, 1)")
    assert watched.look() == ["budget.reached"] * 2


def test_a_notice_is_written_once_whoever_announces_it(watched: Watched) -> None:
    books = watched.books
    with books.connection.transaction():
        said = [
            announce(books.connection, books.clock, watched.account, "plan.ending", "plan 7", {"plan": "Pro"})
            for _ in range(3)
        ]
    assert said == [True, False, False]
    assert watched.messages() == 1


def test_mail_is_claimed_once_and_only_for_accounts_that_want_it(watched: Watched) -> None:
    books, silent = watched.books, watched.books.account(5)
    with books.connection.transaction():
        notices.save_settings(books.connection, NoticeSettings(silent, by_mail=False))
        for account in (watched.account, silent):
            announce(books.connection, books.clock, account, "payment.failed", "1", {})
    assert notices.has_due_mail(books.connection)
    with books.connection.transaction():
        claimed = notices.claim_mail(books.connection, 9)
    assert [notice.account_id for notice, _, _ in claimed] == [watched.account]
    assert not notices.has_due_mail(books.connection)
