"""Revenue: cached and freshly read rows together equal the ledger."""

from __future__ import annotations

import asyncio
import random

from minitoolai.billing.usage import REVENUE_DAYS, SETTLING_MS, RevenueCache
from minitoolai.core.clock import first_id_at
from minitoolai.storage.reports import MS_PER_DAY, revenue_by_day
from tests.support.books import TemporaryBooks


def _work(books: TemporaryBooks, account: int, number: int, at_ms: int, state: str) -> None:
    settled = number if state == "posted" else 0
    books.connection.execute(
        "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled) VALUES (?, ?, 'k', 'chat', ?, ?, ?)",
        (first_id_at(at_ms) + number, account, number, state, settled),
    )
    books.connection.execute(
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " purchase, created_ms) VALUES (?, ?, 'k', ?, 'm', 'e', 'succeeded', 1, 1, ?, ?)",
        (first_id_at(at_ms) + number, account, "chat" if number % 2 else "image", settled // 2, at_ms),
    )


def test_cached_revenue_always_equals_the_ledger(books: TemporaryBooks) -> None:
    account, dice, revenues = books.account(), random.Random(3), RevenueCache(books.database, books.clock)
    for number in range(1, 300):
        books.clock.forward(dice.choice((1, 600, 40_000)))
        with books.connection.transaction():
            ago_ms = dice.randrange(SETTLING_MS // 2)
            _work(books, account, number, books.clock.now_ms() - ago_ms, dice.choice(("posted", "pending")))
            if dice.random() < 0.3:
                ended = "UPDATE holds SET state = 'posted', settled = amount WHERE state = 'pending' AND id % 3 = 0"
                books.connection.execute(ended)
        if number % 10 == 0:
            shown = asyncio.run(revenues.rows())
            first = books.clock.now_ms() // MS_PER_DAY - REVENUE_DAYS + 1
            told = revenue_by_day(books.connection, first * MS_PER_DAY, 2**62)
            assert shown == sorted(told, key=lambda row: (-row.day, row.kind))
    assert len(shown) > REVENUE_DAYS
    # Made up as they are, they are no sound books.
    with books.connection.transaction():
        books.connection.execute("DELETE FROM generations")
        books.connection.execute("DELETE FROM holds")
