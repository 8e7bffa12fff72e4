"""Usage and revenue: cached and freshly read rows together equal the ledger, and a report reads little."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import get_args

import pytest

from minitoolai.billing.usage import LENGTHS_MS, REVENUE_DAYS, SETTLING_MS, RevenueCache, UsageCache, split
from minitoolai.core.clock import first_id_at
from minitoolai.core.errors import ReportTooLarge
from minitoolai.storage.reports import MS_PER_DAY, GroupBy, revenue_by_day, usage_cells
from tests.support.books import TemporaryBooks
from tests.support.history import seed_history


def _work(
    books: TemporaryBooks, account: int, number: int, at_ms: int, state: str, *, model: str = "m", key: str = "k"
) -> None:
    settled = number if state == "posted" else 0
    books.connection.execute(
        "INSERT INTO holds (id, account_id, key_id, kind, amount, state, settled) VALUES (?, ?, ?, 'chat', ?, ?, ?)",
        (first_id_at(at_ms) + number, account, key, number, state, settled),
    )
    books.connection.execute(
        "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input, price_output,"
        " purchase, input_units, output_units, created_ms)"
        " VALUES (?, ?, ?, ?, ?, 'e', 'succeeded', 1, 1, ?, ?, 2, ?)",
        (first_id_at(at_ms) + number, account, key, "chat" if number % 2 else "image", model, settled // 2)
        + (number % 5, at_ms),
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


def expected(books: TemporaryBooks, account: int, from_ms: int, until_ms: int, group_by: GroupBy) -> list[object]:
    """The report as one query over all rows."""
    group = {"day": f"g.created_ms / {MS_PER_DAY}", "model": "g.model", "key": "g.key_id"}[group_by]
    rows = books.rows(
        f"SELECT {group}, g.kind, count(*), sum(g.input_units), sum(g.output_units), sum(h.settled)"
        " FROM generations g JOIN holds h ON h.id = g.id"
        f" WHERE g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ? GROUP BY {group}, g.kind",
        account, from_ms, until_ms,
    )  # fmt: skip
    return [(str(row[0]), row[1], *map(int, row[2:])) for row in sorted(rows)]


@pytest.mark.parametrize("max_cells", [100_000, 40, 3])
def test_reports_from_kept_sums_always_equal_the_ledger(books: TemporaryBooks, max_cells: int) -> None:
    account, other, dice = books.account(), books.account(), random.Random(max_cells)
    usage = UsageCache(books.database, books.clock, books.archive_reader(), max_cells=max_cells)
    for number in range(1, 240):
        books.clock.forward(dice.choice((1, 300, 5_000, 60_000)))
        now_ms = books.clock.now_ms()
        with books.connection.transaction():
            owner = account if dice.random() < 0.9 else other
            ago_ms, state = dice.randrange(SETTLING_MS // 2), dice.choice(("posted", "posted", "pending"))
            _work(books, owner, number, now_ms - ago_ms, state, model=f"m{number % 3}", key=f"k{number % 2}")
            if dice.random() < 0.2:
                ended = "UPDATE holds SET state = 'posted', settled = amount WHERE state = 'pending' AND id % 3 = 0"
                books.connection.execute(ended)
        if number % 6 == 0:
            from_ms = dice.choice((0, now_ms - 30 * MS_PER_DAY, now_ms - dice.randrange(1, 20 * MS_PER_DAY)))
            until_ms = dice.choice((2**62, now_ms + MS_PER_DAY, from_ms + dice.randrange(1, 30 * MS_PER_DAY)))
            group_by = dice.choice(get_args(GroupBy))
            for owner in (account, other):
                shown = asyncio.run(usage.report(owner, from_ms, until_ms, group_by))
                told = [(r.group, r.kind, r.requests, r.input_units, r.output_units, r.cost) for r in shown]
                assert told == expected(books, owner, from_ms, until_ms, group_by)
            today = now_ms // MS_PER_DAY
            cells = asyncio.run(usage.cells(account, 7))
            assert cells == sorted(
                usage_cells(books.connection, account, (today - 6) * MS_PER_DAY, 2**62),
                key=lambda cell: (cell.day, cell.kind, cell.model, cell.key_id),
            )
        assert usage.size <= max_cells
    with books.connection.transaction():
        books.connection.execute("DELETE FROM generations")
        books.connection.execute("DELETE FROM holds")


def test_a_time_is_split_into_the_longest_periods_without_gap_or_overlap() -> None:
    dice = random.Random(5)
    for _ in range(500):
        from_ms = dice.randrange(3 * MS_PER_DAY)
        until_ms = from_ms + dice.choice((0, 1, 599_999, 600_000, dice.randrange(3 * MS_PER_DAY)))
        periods, rest = split(from_ms, until_ms)
        pieces = sorted([*((begin, begin + length) for begin, length in periods), *rest])
        assert [begin for begin, _ in pieces[1:]] == [end for _, end in pieces[:-1]]
        assert (pieces[0][0], pieces[-1][1]) == (from_ms, until_ms) if pieces else from_ms == until_ms
        assert all(length in LENGTHS_MS and begin % length == 0 for begin, length in periods)
        assert len(rest) <= 2
        assert len(periods) <= 3 + 2 * (23 + 5)


def test_a_report_that_ran_out_of_time_goes_on_where_it_ended(sqlite_books: TemporaryBooks) -> None:
    books, now_ms = sqlite_books, sqlite_books.clock.now_ms()
    account = books.account(10**9)
    seed_history(books.connection, account, 40_000, first_ms=now_ms - 60 * MS_PER_DAY, until_ms=now_ms - MS_PER_DAY)
    usage = UsageCache(books.database, books.clock, books.archive_reader(), limit_s=0, read_s=0)
    tries, rows = 0, None
    while rows is None and tries < 300:
        tries += 1
        with suppress(ReportTooLarge):
            rows = asyncio.run(usage.report(account, now_ms - 60 * MS_PER_DAY, now_ms, "model"))
    assert rows is not None
    assert tries > 20
    assert sum(row.requests for row in rows) == 40_000


@pytest.mark.acceptance
@pytest.mark.timing
def test_a_report_of_half_a_million_requests_takes_twenty_milliseconds_of_a_reader(
    sqlite_books: TemporaryBooks,
) -> None:
    books, now_ms = sqlite_books, sqlite_books.clock.now_ms()
    account = books.account(10**10)
    seed_history(books.connection, account, 500_000, first_ms=now_ms - 30 * MS_PER_DAY, until_ms=now_ms)
    usage = UsageCache(books.database, books.clock, books.archive_reader())

    def report() -> None:
        books.clock.forward(20)
        now = books.clock.now_ms()
        rows = asyncio.run(usage.report(account, now - 30 * MS_PER_DAY, now + MS_PER_DAY, "day"))
        assert sum(row.requests for row in rows) > 490_000

    report()
    times = 60
    began_s = time.process_time()
    for _ in range(times):
        report()
    assert (time.process_time() - began_s) / times < 0.02
