"""What a writer remembers of purses is what the database has, whoever else writes and whatever is rolled back."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing, suppress

from minitoolai.billing.selling import plans
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.plans import Windows
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import InsufficientFunds, Operation
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import purses
from minitoolai.storage.tables import ledger
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle

PRO = Plan("pro", "Pro", 100, 1000, "month", Windows(five_hours=500, week=900))


class Undone(Exception):
    """Rolls a transaction back."""


def buy(books: TemporaryBooks, connection: Connection, account: int, once: str = "1") -> int:
    with connection.transaction():
        done = plans.buy(
            connection, books.clock, account, PRO, expected_price=100, reference=f"plan:{account}:{once}", replace=True
        )
    assert isinstance(done, purses.Purse)
    return done.id


def spend(connection: Connection, number: int, account: int, amount: int) -> None:
    with connection.transaction():
        ledger.apply(connection, [hold(number, account, amount)], decide)
    with connection.transaction():
        ledger.apply(connection, [settle(number, account, amount)], decide)


def roll_back(connection: Connection, *operations: Operation) -> None:
    """Write a batch, and then have its transaction fail."""
    with suppress(Undone), connection.transaction():
        ledger.apply(connection, operations, decide)
        raise Undone


def used(books: TemporaryBooks, purse: int) -> set[int]:
    """What each window has counted, which is the same if all holds are in the same windows."""
    return set(books.database.read(purses.used_windows, purse).values())


def selects(connection: Connection, work: Callable[[], None]) -> list[str]:
    """The queries of purses and windows that this makes."""
    seen: list[str] = []
    ask = connection.select_by_ids

    def record(sql: str, ids: object, *, lock: bool = False) -> object:
        seen.append(sql)
        return ask(sql, ids, lock=lock)  # type: ignore[arg-type]

    connection.select_by_ids = record  # type: ignore[method-assign, assignment]
    try:
        work()
    finally:
        connection.select_by_ids = ask  # type: ignore[method-assign]
    return [sql for sql in seen if "FROM purse" in sql]


def test_the_second_request_of_a_plan_asks_for_no_purse(books: TemporaryBooks) -> None:
    account = books.account(500)
    purse = buy(books, books.connection, account)
    assert selects(books.connection, lambda: spend(books.connection, 1, account, 10))
    assert selects(books.connection, lambda: spend(books.connection, 2, account, 10)) == []
    assert used(books, purse) == {20}


def test_another_writer_is_noticed(books: TemporaryBooks) -> None:
    account = books.account(500)
    purse = buy(books, books.connection, account)
    with closing(books.database.connect()) as other:
        for number, connection in enumerate((books.connection, other, books.connection, other), 1):
            spend(connection, number, account, 100)
            assert used(books, purse) == {100 * number}
        spend(books.connection, 9, account, 90)
        # The window has 10 left, and the balance 400.
        spend(other, 10, account, 20)
    assert used(books, purse) == {490}
    assert books.money(account).posted == 380
    assert books.broken() == {}


def test_a_plan_that_another_writer_bought_or_ended_is_noticed(books: TemporaryBooks) -> None:
    account = books.account(500)
    first = buy(books, books.connection, account)
    spend(books.connection, 1, account, 100)
    with closing(books.database.connect()) as other:
        second = buy(books, other, account, "2")
        spend(books.connection, 2, account, 7)
        assert used(books, second) == {7}
        assert books.database.read(purses.find, first).state == "closed"  # type: ignore[union-attr]
    assert books.broken() == {}


def test_what_was_rolled_back_is_forgotten_also_if_another_writer_wrote_meanwhile(books: TemporaryBooks) -> None:
    account = books.account(500)
    purse = buy(books, books.connection, account)
    spend(books.connection, 1, account, 100)
    with closing(books.database.connect()) as other:
        for meanwhile in (False, True):
            roll_back(books.connection, hold(50, account, 300))
            if meanwhile:
                spend(other, 2, account, 100)
    (refused,) = books.apply(hold(3, account, 600))
    assert isinstance(refused, InsufficientFunds)
    assert refused.available == 400
    spend(books.connection, 4, account, 300)
    assert used(books, purse) == {500}
    assert books.broken() == {}


def test_random_writers_and_rollbacks_leave_exact_books(books: TemporaryBooks) -> None:
    draw = random.Random(7)
    accounts = [books.account(10_000) for _ in range(3)]
    with closing(books.database.connect()) as other:
        for account in accounts:
            buy(books, draw.choice((books.connection, other)), account)
        number = 0
        for step in range(150):
            connection, account = draw.choice((books.connection, other)), draw.choice(accounts)
            books.clock.ms = NOON_MS + step * 600_000
            if step % 50 == 49:
                buy(books, connection, account, f"{step}")
            number += 1
            batch = [hold(number, account, draw.randint(1, 40), now_ms=books.clock.ms)]
            if draw.random() < 0.3:
                roll_back(connection, *batch)
                continue
            with connection.transaction():
                ledger.apply(connection, batch, decide)
            with connection.transaction():
                ledger.apply(connection, [settle(number, account, draw.randint(0, 40))], decide)
    assert books.broken() == {}
