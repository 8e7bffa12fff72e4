"""Usage and revenue: cached and freshly read rows together equal the ledger, and a report reads little."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import get_args

import msgspec
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from minitoolai.billing.audit_days import read_day
from minitoolai.billing.usage import LENGTHS_MS, REVENUE_DAYS, RevenueCache, UsageCache, split
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import ReportTooLarge
from minitoolai.core.models import Outcome
from minitoolai.storage.opening import MIGRATIONS
from minitoolai.storage.tables import usage_days
from minitoolai.storage.tables.ledger import USAGE_DAYS
from minitoolai.storage.tables.reports import GroupBy, usage_cells
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle
from tests.support.history import RandomWork, seed_history
from tests.support.pace import TimeLimit


def revenue_of_rows(books: TemporaryBooks, first_day: int) -> list[tuple[object, ...]]:
    """Return revenue by day and kind as one query over all rows, newest day first."""
    rows = books.rows(
        f"SELECT g.created_ms / {MS_PER_DAY} AS day, g.kind, count(*), sum(h.settled), coalesce(sum(g.purchase), 0),"
        " coalesce(sum((SELECT sum(r.amount) FROM refunds r WHERE r.generation_id = g.id)), 0)"
        f" FROM generations g JOIN holds h ON h.id = g.id WHERE g.created_ms >= ? GROUP BY day, g.kind",
        first_day * MS_PER_DAY,
    )
    return sorted(((*row[:2], *map(int, row[2:])) for row in rows), key=lambda row: (-row[0], row[1]))


def test_revenue_always_equals_the_rows(books: TemporaryBooks) -> None:
    dice = random.Random(3)
    history, revenues = RandomWork(books, dice), RevenueCache(books.database, books.clock)
    for number in range(1, 300):
        books.clock.forward(dice.choice((1, 600, 40_000)))
        history.step()
        if number % 10 == 0:
            shown = [msgspec.structs.astuple(row) for row in asyncio.run(revenues.rows())]
            first = books.clock.now_ms() // MS_PER_DAY - REVENUE_DAYS + 1
            assert shown == revenue_of_rows(books, first)
    assert len(shown) > REVENUE_DAYS
    history.close()


def expected(books: TemporaryBooks, account: int, from_ms: int, until_ms: int, group_by: GroupBy) -> list[object]:
    """The report as one query over all rows."""
    group = {"day": f"g.created_ms / {MS_PER_DAY}", "model": "g.model", "key": "g.key_id"}[group_by]
    rows = books.rows(
        f"SELECT {group}, g.kind, count(*), sum(g.input_units), sum(g.output_units), sum(h.settled),"
        " coalesce(sum((SELECT sum(r.amount) FROM refunds r WHERE r.generation_id = g.id)), 0)"
        " FROM generations g JOIN holds h ON h.id = g.id"
        f" WHERE g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ? GROUP BY {group}, g.kind",
        account, from_ms, until_ms,
    )  # fmt: skip
    return [(str(row[0]), row[1], *map(int, row[2:])) for row in sorted(rows)]


def expected_parts(
    books: TemporaryBooks, account: int, from_ms: int, until_ms: int, group_by: GroupBy
) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Units and cost by bucket of the same report, from the split of each generation."""
    group = {"day": f"created_ms / {MS_PER_DAY}", "model": "model", "key": "key_id"}[group_by]
    rows = books.rows(
        f"SELECT {group}, kind, price_split FROM generations"
        " WHERE account_id = ? AND created_ms >= ? AND created_ms < ? AND price_split IS NOT NULL",
        account, from_ms, until_ms,
    )  # fmt: skip
    sums: dict[tuple[str, str, str], tuple[int, int]] = {}
    for name, kind, parts in rows:
        for bucket, units, price in json.loads(parts):
            if bucket not in ("input", "output"):
                before = sums.get((str(name), kind, bucket), (0, 0))
                sums[str(name), kind, bucket] = before[0] + units, before[1] + units * price // 1000
    return sums


@pytest.mark.parametrize("max_cells", [100_000, 40, 3])
def test_reports_always_equal_the_rows(books: TemporaryBooks, max_cells: int) -> None:
    dice = random.Random(max_cells)
    history = RandomWork(books, dice)
    usage = UsageCache(books.database, books.clock, books.archive_reader(), max_cells=max_cells)
    for number in range(1, 240):
        books.clock.forward(dice.choice((1, 300, 5_000, 60_000)))
        now_ms = books.clock.now_ms()
        history.step()
        if number % 6 == 0:
            from_ms = dice.choice((0, now_ms - 30 * MS_PER_DAY, now_ms - dice.randrange(1, 20 * MS_PER_DAY)))
            until_ms = dice.choice((2**62, now_ms + MS_PER_DAY, from_ms + dice.randrange(1, 30 * MS_PER_DAY)))
            group_by = dice.choice(get_args(GroupBy))
            for owner in history.accounts:
                shown = asyncio.run(usage.report(owner, from_ms, until_ms, group_by))
                told = [(r.group, r.kind, r.requests, r.input_units, r.output_units, r.cost, r.refunded) for r in shown]
                assert told == expected(books, owner, from_ms, until_ms, group_by)
                parts = {(r.group, r.kind, name): sums for r in shown for name, sums in r.buckets.items()}
                assert parts == expected_parts(books, owner, from_ms, until_ms, group_by)
                assert usage_days.wrong_days(books.connection, owner, 0, 2**30) == []
            today = now_ms // MS_PER_DAY
            cells = asyncio.run(usage.cells(history.accounts[0], 7))
            assert [msgspec.structs.replace(cell, refunded=0) for cell in cells] == sorted(
                usage_cells(books.connection, history.accounts[0], (today - 6) * MS_PER_DAY, 2**62),
                key=lambda cell: (cell.day, cell.kind, cell.model, cell.key_id),
            )
        assert usage.size <= max_cells
    history.close()


def test_the_migration_fills_the_table_in_pieces_and_goes_on_where_it_was_interrupted(books: TemporaryBooks) -> None:
    history = RandomWork(books, random.Random(8))
    for _ in range(200):
        books.clock.forward(10_000)
        history.step()
    made = books.rows("SELECT * FROM usage_days ORDER BY 1, 2, 3, 4, 5")
    migration = ScriptDirectory(str(MIGRATIONS)).get_revision("0015").module
    with books.connection.transaction():
        books.connection.execute("DELETE FROM usage_days")
    engine = create_engine(books.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        for _ in range(3):
            assert migration._fill_piece(connection, 30)
            connection.commit()
        # Interrupted in the middle of a piece.
        assert migration._fill_piece(connection, 30)
        connection.rollback()
        pieces = 0
        while migration._fill_piece(connection, 30):
            connection.commit()
            pieces += 1
        assert pieces == 4
    engine.dispose()
    assert books.rows("SELECT * FROM usage_days ORDER BY 1, 2, 3, 4, 5") == made
    history.close()


def test_a_changed_day_is_found_and_rebuilt(books: TemporaryBooks) -> None:
    account = books.account(1000)
    for number in range(1, 4):
        books.apply(hold(number, account, 60, now_ms=NOON_MS + number * MS_PER_DAY), settle(number, account, 50))
    books.apply(hold(9, account, 60, now_ms=NOON_MS + 2 * MS_PER_DAY))
    made = books.rows("SELECT * FROM usage_days ORDER BY day")
    day = NOON_MS // MS_PER_DAY
    assert usage_days.first_and_last_day(books.connection, account) == (day + 1, day + 3)
    books.rows(f"UPDATE usage_days SET requests = 7 WHERE day = {day + 2}")
    books.rows(f"DELETE FROM usage_days WHERE day = {day + 3}")
    books.rows(f"INSERT INTO usage_days VALUES ({account}, {day}, 'chat', 'm', 'k', 1, 1, 1, 1, 1)")
    wrong = usage_days.wrong_days(books.connection, account, 0, 2**30)
    assert wrong == [day, day + 2, day + 3]
    with books.connection.transaction():
        for one in wrong:
            usage_days.rebuild(books.connection, account, one)
    assert books.rows("SELECT * FROM usage_days ORDER BY day") == made


@pytest.mark.parametrize(
    "mistake",
    [
        "UPDATE usage_buckets SET units = units + 1",
        "UPDATE usage_buckets SET cost = cost - 1",
        "DELETE FROM usage_buckets",
        "INSERT INTO usage_buckets SELECT account_id, day, kind, model, key_id, 'reasoning', 1, 1 FROM usage_buckets",
    ],
)
def test_a_wrong_bucket_is_found_by_the_audit_and_rebuilt(books: TemporaryBooks, mistake: str) -> None:
    account = books.account(1000)
    split = '[["cached_input",3,37500],["input",1,150000],["output",1,600000]]'
    books.apply(hold(1, account, 60))
    books.apply(settle(1, account, 1, Outcome("succeeded", 4, 1, price_split=split)))
    made = books.rows("SELECT * FROM usage_buckets")
    day = NOON_MS // MS_PER_DAY
    assert [(row[1], *row[5:]) for row in made] == [(day, "cached_input", 3, 112)]
    assert read_day(books.connection, day).different == []
    books.rows(mistake)
    assert read_day(books.connection, day).different != []
    assert [*books.broken()] == [USAGE_DAYS]
    assert usage_days.wrong_days(books.connection, account, 0, 2**30) == [day]
    with books.connection.transaction():
        usage_days.rebuild(books.connection, account, day)
    assert books.rows("SELECT * FROM usage_buckets") == made
    assert books.broken() == {}


def test_a_time_is_split_into_the_longest_periods_without_gap_or_overlap() -> None:
    dice = random.Random(5)
    for _ in range(500):
        from_ms = dice.randrange(3 * MS_PER_DAY)
        until_ms = from_ms + dice.choice((0, 1, 599_999, 600_000, dice.randrange(MS_PER_DAY)))
        periods, rest = split(from_ms, until_ms)
        pieces = sorted([*((begin, begin + length) for begin, length in periods), *rest])
        assert [begin for begin, _ in pieces[1:]] == [end for _, end in pieces[:-1]]
        assert (pieces[0][0], pieces[-1][1]) == (from_ms, until_ms) if pieces else from_ms == until_ms
        assert all(length in LENGTHS_MS and begin % length == 0 for begin, length in periods)
        assert len(rest) <= 2
        assert len(periods) <= 23 + 2 * 5


def test_a_report_that_ran_out_of_time_goes_on_where_it_ended(sqlite_books: TemporaryBooks) -> None:
    books, now_ms = sqlite_books, sqlite_books.clock.now_ms()
    account = books.account(10**9)
    seed_history(books.connection, account, 40_000, first_ms=now_ms - 2 * MS_PER_DAY, until_ms=now_ms - 600_000)
    usage = UsageCache(books.database, books.clock, books.archive_reader(), limit_s=0, read_s=0)
    tries, rows = 0, None
    # From one noon to the next but one: half a day, a whole one, and half a day.
    while rows is None and tries < 300:
        tries += 1
        with suppress(ReportTooLarge):
            rows = asyncio.run(usage.report(account, now_ms - 2 * MS_PER_DAY, now_ms, "model"))
    assert rows is not None
    assert tries > 15
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
    limit, began_s = TimeLimit(20.0), time.process_time()
    for _ in range(times):
        report()
    used_ms = (time.process_time() - began_s) / times * 1000
    print(f"{used_ms:.1f} ms; {limit}")
    assert limit.permits(used_ms), f"{used_ms:.1f} ms; {limit}"
