"""The newest requests of an account, added up: its own, no more than asked for, as quick in a long account."""

from __future__ import annotations

import time
from itertools import accumulate

import pytest

from minitoolai.core.models import UsageRow
from minitoolai.storage.tables.reports import last_usage
from tests.support.books import NOON_MS, TemporaryBooks
from tests.support.history import count_usage

CREDIT = 10**12
#: (model, kind, units in, units out, cost), oldest first.
WORK = [("old", "chat", 9, 9, 9), ("m", "chat", 3, 5, 40), ("flat", "image", 0, 1, 15), ("m", "chat", 4, 6, 50)]


def fill(books: TemporaryBooks, account: int, first: int, work: list[tuple[str, str, int, int, int]]) -> None:
    with books.connection.transaction():
        books.connection.execute_many(
            "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(first + n, account, "k", row[1], row[4], "posted", row[4]) for n, row in enumerate(work)],
        )
        books.connection.execute_many(
            "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
            " input_units, output_units, cost, created_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (first + n, account, "k", row[1], row[0], "e", "succeeded", 1, 1, row[2], row[3], row[4], NOON_MS + n)
                for n, row in enumerate(work)
            ],
        )
        costs = list(accumulate(row[4] for row in work))
        books.connection.execute_many(
            "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after, created_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                ("usage", account, 1, row[4], first + n, n + 2, CREDIT - costs[n], NOON_MS + n)
                for n, row in enumerate(work)
            ],
        )
        books.connection.execute(
            "UPDATE accounts SET posted = ?, version = ? WHERE id = ?", (CREDIT - costs[-1], len(work) + 1, account)
        )
        count_usage(books.connection, account)


def test_only_the_newest_of_the_own_requests_are_added_up(books: TemporaryBooks) -> None:
    account, other = books.account(CREDIT), books.account(CREDIT)
    fill(books, account, 1, WORK)
    fill(books, other, 100, WORK)
    assert last_usage(books.connection, account, 3) == [
        UsageRow("m", "chat", 2, 7, 11, 90),
        UsageRow("flat", "image", 1, 0, 1, 15),
    ]
    assert len(last_usage(books.connection, account, 100)) == 3
    assert last_usage(books.connection, 777, 100) == []


@pytest.mark.acceptance
@pytest.mark.timing
def test_a_long_account_is_added_up_as_quickly_as_a_short_one(books: TemporaryBooks) -> None:
    short, long = books.account(CREDIT), books.account(CREDIT)
    fill(books, short, 1, WORK * 300)
    fill(books, long, 10_000, WORK * 10_000)
    took = {}
    for account in (short, long):
        times = []
        for _ in range(9):
            began_s = time.perf_counter()
            assert sum(row.requests for row in last_usage(books.connection, account, 1000)) == 1000
            times.append(time.perf_counter() - began_s)
        took[account] = sorted(times)[4]
    assert took[long] < 5 * took[short], took
