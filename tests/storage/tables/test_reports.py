"""The statement: page by page it is every transfer, whatever order work ended in, and fast in a long account."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from minitoolai.core.models import AdminAction, StatementRow
from minitoolai.storage.tables.reports import (
    admin_actions,
    insert_admin_action,
    recent_requests,
    statement_page,
)
from tests.support.books import NOON_MS, TemporaryBooks, credit, hold, reverse, settle
from tests.support.history import count_usage
from tests.support.old_days import whole_statement
from tests.support.pace import TimeLimit


def pages(books: TemporaryBooks, account: int, rows: int) -> list[int]:
    """Page after page, as a reader leafs through it."""
    seen: list[int] = []
    below, until = None, NOON_MS + 10**9
    while page := statement_page(books.connection, account, below=below, before_ms=until, rows=rows):
        seen += [row.version for row in page]
        below, until = page[-1].version, page[-1].at_ms
    return seen


def full_statement(books: TemporaryBooks, account: int) -> list[StatementRow]:
    """Every transfer of an account, part by part, as the portal sends it."""
    return asyncio.run(whole_statement(books.archive_reader(), account))


def test_every_transfer_is_on_one_page_though_work_ends_in_any_order(books: TemporaryBooks) -> None:
    account, other, draw = books.account(10**9), books.account(10**9), random.Random(1)
    open_holds: list[int] = []
    for number in range(1, 400):
        what = draw.random()
        if what < 0.55:
            books.apply(hold(number, account if what < 0.5 else other, 100))
            if what < 0.5:
                open_holds.append(number)
        elif open_holds and what < 0.9:
            books.apply(settle(open_holds.pop(draw.randrange(len(open_holds))), account, draw.choice((0, 40, 100))))
        else:
            books.apply(credit(account, 5) if what < 0.97 else reverse(account, 3))
    for number in open_holds:
        books.apply(settle(number, account, 7))
    whole = full_statement(books, account)
    ((transfers,),) = books.rows("SELECT count(*) FROM transfers WHERE ? IN (debit, credit)", account)
    assert [row.version for row in whole] == list(range(transfers, 0, -1))
    assert sum(row.amount for row in whole) == whole[0].balance_after == books.money(account).posted
    assert whole == statement_page(books.connection, account, below=None, before_ms=2**62, rows=2**40)
    for rows in (1, 7, 50):
        assert pages(books, account, rows) == [row.version for row in whole]


def test_an_account_without_transfers_has_an_empty_statement(books: TemporaryBooks) -> None:
    assert full_statement(books, books.account()) == []
    assert statement_page(books.connection, 777, below=5, before_ms=NOON_MS, rows=50) == []


def test_pages_of_requests_and_of_admin_actions_show_each_once(books: TemporaryBooks) -> None:
    account = books.account(10**6)
    with books.connection.transaction():
        for number in range(1, 26):
            action = AdminAction(number, account, account, "grant", 5, None, NOON_MS)
            insert_admin_action(books.connection, action)
    # Several in one millisecond.
    for number in range(1, 26):
        books.apply(hold(number, account, 5, now_ms=NOON_MS + number // 4))
        books.apply(settle(number, account, 1))
    requests: list[int] = []
    before = None
    while rows := recent_requests(books.connection, account, 7, before):
        requests += [row.id for row in rows]
        before = rows[-1].created_ms, rows[-1].id
    assert requests == list(range(25, 0, -1))
    for owner in (None, account):
        actions: list[int] = []
        while found := admin_actions(books.connection, 7, owner, actions[-1] if actions else None):
            actions += [action.id for action in found]
        assert actions == list(range(25, 0, -1))


@pytest.mark.acceptance
@pytest.mark.timing
def test_a_page_of_a_long_statement_is_read_in_a_moment(books: TemporaryBooks) -> None:
    account, number = books.account(10**12), 100_000
    with books.connection.transaction():
        books.connection.execute_many(
            "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(n, account, "k", "chat", 9, "posted", 9) for n in range(1, number + 1)],
        )
        books.connection.execute_many(
            "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
            " cost, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (n, account, "k", "chat", "m", "e", "succeeded", 1, 1, 9, NOON_MS + n * 1000)
                for n in range(1, number + 1)
            ],
        )
        books.connection.execute_many(
            "INSERT INTO transfers (kind, debit, credit, amount, hold_id, account_version, balance_after, created_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                ("usage", account, 1, 9, n, n + 1, 10**12 - 9 * n, NOON_MS + n * 1000 + 500)
                for n in range(1, number + 1)
            ],
        )
        books.connection.execute(
            "UPDATE accounts SET posted = ?, version = ? WHERE id = ?", (10**12 - 9 * number, number + 1, account)
        )
        count_usage(books.connection, account)
    limit = TimeLimit(0.25, "s")
    took: list[float] = []
    times: list[float] = []
    for below in (None, 50_000, 100):
        until = NOON_MS + (number if below is None else below) * 1000 + 1000
        for _ in range(3):
            began_s = time.monotonic()
            assert len(statement_page(books.connection, account, below=below, before_ms=until, rows=51)) == 51
            times.append(time.monotonic() - began_s)
        took.append(min(times[-3:]))
    print(f"{max(took):.3f} s; {limit}")
    assert limit.permits(max(took)), f"{took}; {limit}"
