"""Histories for tests: a long one in seconds, written as rows, and work at random, written by the ledger."""

from __future__ import annotations

import random

import msgspec

from minitoolai.billing.audit_days import next_closable, read_day
from minitoolai.core.clock import first_id_at
from minitoolai.core.models import NewGeneration, Outcome
from minitoolai.ledger.types import Operation
from minitoolai.storage.database import Connection
from minitoolai.storage.insight import traffic
from minitoolai.storage.tables import usage_days
from minitoolai.storage.tables.audit import insert_closed
from tests.support.books import TemporaryBooks, hold, recover, refund, settle

MODELS = ("gpt-4o-mini", "claude-3-haiku", "=llama")
PRICE = 9
#: Every so many requests fail and cost nothing.
FREE_EVERY = 10
ROWS_AT_ONCE = 20_000


def seed_history(
    connection: Connection,
    account_id: int,
    requests: int,
    *,
    first_ms: int,
    until_ms: int,
    key_id: str = "key000000001",
    keys: int = 2,
) -> None:
    """Add requests at even distances in time. The account needs PRICE nano-dollars for each."""
    (posted, version) = connection.execute("SELECT posted, version FROM accounts WHERE id = ?", (account_id,))[0]
    step, first = (until_ms - first_ms) / requests, first_id_at(first_ms)
    for begin in range(0, requests, ROWS_AT_ONCE):
        numbers = range(begin, min(begin + ROWS_AT_ONCE, requests))
        paid = [n for n in numbers if n % FREE_EVERY]
        ids = {n: first_id_at(first_ms + int(n * step)) + account_id % 1000 * 1000 + n % 1000 for n in numbers}
        assert ids[numbers[0]] >= first
        with connection.transaction():
            _insert_work(connection, account_id, ids, {n: first_ms + int(n * step) for n in numbers}, key_id, keys)
            connection.execute_many(
                "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after,"
                " created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    ("usage", account_id, 1, PRICE, ids[n], version + i, posted - PRICE * i)
                    + (first_ms + int(n * step) + 500,)
                    for i, n in enumerate(paid, 1)
                ],
            )
            posted, version = posted - PRICE * len(paid), version + len(paid)
            connection.execute(
                "UPDATE accounts SET posted = ?, version = ? WHERE id = ?", (posted, version, account_id)
            )
    with connection.transaction():
        count_usage(connection, account_id)


def count_usage(connection: Connection, account_id: int) -> None:
    """Make the usage by day of an account agree with its generations, which were written as rows."""
    if connection.skip_locked:
        # PostgreSQL would plan for the few rows that it knows of until its autovacuum has seen the new ones.
        connection.execute("ANALYZE generations")
        connection.execute("ANALYZE holds")
    for day in usage_days.wrong_days(connection, account_id, 0, 2**30):
        usage_days.rebuild(connection, account_id, day)


def close_days(connection: Connection, now_ms: int) -> int:
    """Close every day that can be, as the server does in the background, and return how many."""
    count = 0
    while (following := next_closable(connection, now_ms)) is not None:
        day, before = following
        reader = read_day(connection, day)
        assert (reader.wrong, reader.different) == ([], [])
        with connection.transaction():
            insert_closed(connection, reader.closed(before), reader.budgets, now_ms)
        count += 1
    return count


def _insert_work(
    connection: Connection, account_id: int, ids: dict[int, int], times: dict[int, int], key_id: str, keys: int
) -> None:
    names = [f"{key_id[:-1]}{number}" for number in range(keys)]
    # Every value is a parameter: PostgreSQL then gets all rows in one statement, which takes half the time.
    connection.execute_many(
        "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (i, account_id, names[n % keys], "chat", PRICE, *(("posted", PRICE) if n % FREE_EVERY else ("voided", 0)))
            for n, i in ids.items()
        ],
    )
    connection.execute_many(
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " input_units, output_units, cost, created_ms, finished_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (i, account_id, names[n % keys], "chat", MODELS[n % len(MODELS)], "e")
            + ("succeeded" if n % FREE_EVERY else "failed", 1, 1, 3, 6)
            + (PRICE if n % FREE_EVERY else 0, times[n], times[n] + 500)
            for n, i in ids.items()
        ],
    )


#: Splits of prices with several buckets and prices, also where nano-dollars are rounded.
SPLITS = (
    '[["cached_input",3,37500],["input",1,150000],["output",2,600000]]',
    '[["cache_write",1,999],["cache_write_1h",7,1],["request",1,1500000]]',
    '[["reasoning",2,1000001],["audio_output",5,123456789012345],["image_input",9,333]]',
)


class RandomWork:
    """Work of two accounts at random: holds that are settled at once, late, by a recovery, or as a failed job."""

    def __init__(self, books: TemporaryBooks, dice: random.Random, *, first_id: int | None = None) -> None:
        """Begin without work. With `first_id`, IDs say nothing about time, as after a clock was set."""
        self.books, self._dice, self._first_id = books, dice, first_id
        self.accounts = [books.account(10**9), books.account(10**9)]
        self._open: list[tuple[int, int, bool]] = []
        self._ended: list[tuple[int, int]] = []
        self._last = 0

    def step(self) -> None:
        """Place a hold that began up to five minutes ago, then perhaps end one or several."""
        dice, now_ms = self._dice, self.books.clock.now_ms()
        self._last += 1
        number = self._last + (first_id_at(now_ms) if self._first_id is None else self._first_id)
        account, is_job = self.accounts[dice.random() < 0.1], dice.random() < 0.3
        generation = NewGeneration("image" if is_job else "chat", f"m{self._last % 3}", "e", 1, 1)
        key, began_ms = f"k{self._last % 2}", now_ms - dice.randrange(300_000)
        lease_ms = None if is_job else now_ms
        placed = hold(number, account, 100, lease_ms=lease_ms, generation=generation, key=key, now_ms=began_ms)
        self.books.apply(msgspec.structs.replace(placed, queue_limit=1000 if is_job else None))
        self._open.append((number, account, is_job))
        dice.shuffle(self._open)
        # At times everything is left open for days, then ends in one batch.
        if dice.random() < 0.8:
            ended, self._open = self._open[:2], self._open[2:]
            self.books.apply(*(self._end(*one) for one in ended))
            self._ended += [(number, account) for number, account, _ in ended]
        if self._ended and dice.random() < 0.1:
            given = refund(*dice.choice(self._ended), dice.choice((1, 7, None)))
            self.books.apply(msgspec.structs.replace(given, now_ms=now_ms))

    def _end(self, number: int, account: int, is_job: bool) -> Operation:
        dice = self._dice
        how = dice.random()
        if how < 0.2 and not is_job:
            return recover(number, account, self.books.clock.now_ms(), forced=True)
        cost = dice.choice((0, number % 90, 120))
        purchase = dice.choice((None, cost // 2))
        split = None if is_job or dice.random() < 0.6 else dice.choice(SPLITS)
        outcome = Outcome("succeeded", number % 5, 2, upstream_cost=purchase, price_split=split)
        return settle(number, account, cost, outcome if how < 0.9 else Outcome("failed", error_code="x"))

    def close(self) -> None:
        self.books.apply(*(self._end(*one) for one in self._open))


def count_traffic(connection: Connection, at_once: int = 2_000) -> None:
    """Add all generations to the sums of the dashboards now, as the server does after a minute."""
    while (piece := traffic.next_piece(connection, 2**63 - 1, at_once)) is not None:
        assert traffic.add_piece(connection, piece)
