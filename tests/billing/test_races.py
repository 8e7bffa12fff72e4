"""Concurrent processes on one PostgreSQL database: each voucher, budget, key and hold is used once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

from minitoolai.billing.payments import make_voucher, redeem
from minitoolai.core.models import Balance, Budget
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import IDEMPOTENCY_TTL_MS, DuplicateRequest, Held, OverBudget
from minitoolai.storage.database import Connection
from minitoolai.storage.postgres.connection import PostgresConnection
from minitoolai.storage.tables import idempotency, ledger, payments
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle

PROCESSES = 8


def at_once(books: TemporaryBooks, *changes: Callable[[Connection], Any]) -> list[Any]:
    """Run each in its own transaction and session, all started at the same moment."""
    ready = threading.Barrier(len(changes))

    def one(change: Callable[[Connection], Any]) -> Any:
        with closing(PostgresConnection(books.url)) as connection:
            ready.wait(20)
            with connection.transaction():
                return change(connection)

    with ThreadPoolExecutor(len(changes)) as pool:
        return list(pool.map(one, changes))


def _judge(connection: Connection, *, operation: Any) -> Any:
    return ledger.apply(connection, [operation], decide)[0]


def test_a_voucher_is_redeemed_by_one_of_many(postgres_books: TemporaryBooks) -> None:
    books, secret_key = postgres_books, b"pepper"
    voucher = make_voucher(secret_key, books.clock, 500, note=None, days=None)
    with books.connection.transaction():
        payments.insert_voucher(books.connection, voucher.code_hmac, voucher.row)
    accounts = [books.account() for _ in range(PROCESSES)]
    told = at_once(
        books,
        *(partial(redeem, clock=books.clock, secret_key=secret_key, account_id=a, code=voucher.code) for a in accounts),
    )
    assert sorted(map(str, told)) == ["500"] + ["used"] * (PROCESSES - 1)
    assert sum(books.money(account).posted for account in accounts) == 500


def test_a_budget_is_never_passed_by_many(postgres_books: TemporaryBooks) -> None:
    account = postgres_books.account(10_000)
    budget = Budget("key", total=350)
    told = at_once(
        postgres_books,
        *(partial(_judge, operation=hold(n, account, 100, budget=budget)) for n in range(1, PROCESSES + 1)),
    )
    assert sum(isinstance(verdict, Held) for verdict in told) == 3
    assert sum(isinstance(verdict, OverBudget) for verdict in told) == PROCESSES - 3
    assert ledger.budget_spent(postgres_books.connection, "key", NOON_MS)["total"] == 300


def test_an_idempotency_key_is_claimed_by_one_of_many(postgres_books: TemporaryBooks) -> None:
    account = postgres_books.account(10_000)
    told = at_once(
        postgres_books,
        *(partial(_judge, operation=hold(n, account, 100, claim="same")) for n in range(1, PROCESSES + 1)),
    )
    assert sum(isinstance(verdict, Held) for verdict in told) == 1
    assert sum(isinstance(verdict, DuplicateRequest) for verdict in told) == PROCESSES - 1
    assert postgres_books.money(account) == Balance(10_000, 100)


def test_a_hold_is_settled_by_one_of_many(postgres_books: TemporaryBooks) -> None:
    account = postgres_books.account(10_000)
    postgres_books.apply(hold(1, account, 100))
    told = at_once(postgres_books, *(partial(_judge, operation=settle(1, account, 60)) for _ in range(PROCESSES)))
    assert sum(not verdict.repeated for verdict in told) == 1
    assert postgres_books.money(account) == Balance(9_940, 0)


def test_a_key_claimed_again_during_a_sweep_stays_claimed(postgres_books: TemporaryBooks) -> None:
    # Deleting it would let a retry of the new request run, and be charged, a second time.
    books = postgres_books
    account, now_ms = books.account(10_000), NOON_MS + IDEMPOTENCY_TTL_MS + 1000
    books.apply(hold(1, account, 100, claim="same"), settle(1, account, 60))
    swept = threading.Thread(target=at_once, args=(books, partial(idempotency.delete_expired, now_ms=now_ms)))
    with books.connection.transaction():
        ledger.apply(books.connection, [hold(2, account, 100, claim="same", now_ms=now_ms)], decide)
        # Sent before the COMMIT, so that the row is changed and locked while the sweep looks.
        books.connection.execute("SELECT 1")
        swept.start()
        time.sleep(0.3)
    swept.join(20)
    found = idempotency.find(books.connection, f"{account}/same")
    assert found is not None
    assert found.hold_id == 2
