"""Books with some old days of work of every kind, and everything that a customer may read about them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minitoolai.billing.archive.archiver import Archiver
from minitoolai.billing.archive.reader import ArchiveReader
from minitoolai.billing.selling import plans
from minitoolai.billing.usage import UsageCache
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.clock import MS_PER_DAY, first_id_at
from minitoolai.core.inference import Usage
from minitoolai.core.models import Budget, NewGeneration, Outcome, StatementRow
from minitoolai.core.plans import Windows
from minitoolai.http.exports import csv_lines
from minitoolai.ledger.types import Credit, PlaceHold, Reverse, Settle
from minitoolai.portal.pages.account.account import statement_line
from minitoolai.storage.database import Connection
from minitoolai.storage.insight.requests import LogFilter, LogPlace
from minitoolai.storage.object_store import LocalObjectStore, ObjectStore
from minitoolai.storage.selling import purses
from minitoolai.storage.tables import accounts
from minitoolai.storage.tables.personal_data import read_personal_data
from minitoolai.storage.tables.reports import StatementPlace, find_generation
from tests.support.books import NOON_MS, TemporaryBooks
from tests.support.history import close_days

TODAY = NOON_MS // MS_PER_DAY
#: The first old day, and the first day that is left.
FIRST, UNTIL = TODAY - 60, TODAY - 50
UNTIL_MS = UNTIL * MS_PER_DAY
BUDGET = Budget("key000000001", total=10**12)
#: Prices with a fee for each request, so a generation's split says more than its columns.
SPLIT = Prices.of(150_000, 600_000, request=1_000)
KINDS = (
    NewGeneration("chat", "gpt-4o-mini", "fake", 150, 600),
    NewGeneration("speech", "tts", "voice", 15, 0),
    NewGeneration("image", "sketch", "draw", 0, 100),
)


def fill(books: TemporaryBooks, *, each_day: int = 40, days: int = 10, seed: int = 1) -> list[int]:
    """Fill these days and the two after them, and return the accounts: two busy ones, one with little, one empty."""
    draw = random.Random(seed)
    busy = [books.account(), books.account()]
    rare, empty = books.account(), books.account()
    for day in range(FIRST, FIRST + days + 2):
        begin_ms = day * MS_PER_DAY
        books.clock.ms, before_ms = begin_ms + 6, books.clock.ms
        if day == FIRST + 1:
            _buy_plan(books, busy[1])
        for purse in books.database.read(purses.ending, begin_ms, 10):
            with books.connection.transaction():
                plans.end_or_renew(books.connection, books.clock, purse.id, {})
        books.clock.ms = before_ms
        for account in (*busy, *([rare] if day % 3 == 0 else [])):
            books.apply(Credit(account, 10**7, "payment", f"payment:{account}:{day}", begin_ms + 5, "old"))
        work = [draw.choice(busy) for _ in range(each_day)] + ([rare] if day % 3 == 0 else [])
        for number, account in enumerate(work):
            _one_request(books, draw, account, begin_ms + number * (MS_PER_DAY // len(work)), number)
        books.apply(Reverse(busy[0], 3, "refund", f"refund:{day}", begin_ms + 80_000_000, "a test"))
    # As retention does after a month.
    books.connection.execute("UPDATE generations SET request = NULL, result = NULL")
    return [*busy, rare, empty]


def _buy_plan(books: TemporaryBooks, account: int) -> None:
    """A plan of a week that pays for a part of the work, and leaves some credit to expire."""
    books.apply(Credit(account, 1000, "payment", f"payment:{account}:plan", books.clock.ms, "old"))
    plan = Plan("pro", "Pro", 1000, 3000, "week", Windows(five_hours=200))
    with books.connection.transaction():
        bought = plans.buy(
            books.connection, books.clock, account, plan, expected_price=1000, reference="plan:1", renewal="none"
        )
    assert isinstance(bought, purses.Purse)


def _one_request(books: TemporaryBooks, draw: random.Random, account: int, at_ms: int, number: int) -> None:
    hold_id, generation = first_id_at(at_ms) + number, KINDS[number % 3]
    has_budget = number % 5 == 0
    books.apply(
        PlaceHold(
            hold_id, account, "key000000001", generation.kind, 100, 0, 1, 1, at_ms + 10_000, at_ms, generation,
            None, None, BUDGET if has_budget else None,
        )
    )  # fmt: skip
    # Some cost nothing, some more than was held, some end on the next day.
    cost, state = draw.choice(((0, "failed"), (40, "succeeded"), (100, "succeeded"), (130, "succeeded")))
    usage = Usage(draw.randrange(9), draw.randrange(9))
    outcome = Outcome(
        state, usage.prompt_tokens, usage.completion_tokens, cached_units=number % 2,
        error_code="broken" if state == "failed" else None,
        price_split=SPLIT.charge(usage)[1] if number % 4 == 0 else None,
    )  # fmt: skip
    if generation.kind == "image":
        books.connection.execute("UPDATE generations SET state = 'running', attempt = 1 WHERE id = ?", (hold_id,))
    books.apply(Settle(hold_id, account, cost, at_ms + draw.choice((500, 90_000_000)), outcome))


# ── archive ───────────────────────────────────────────────────────────────────────────────────────────────────────


class TestAccess:
    """Read and write in this thread, and tell of each step."""

    __test__ = False

    def __init__(self, books: TemporaryBooks, on_step: Callable[[], None] = lambda: None) -> None:
        self._books = books
        self._on_step = on_step

    async def read(self, function: Callable[..., Any], *arguments: object) -> Any:
        return self._books.database.read(function, *arguments)

    async def write(self, function: Callable[[Connection], Any]) -> Any:
        self._on_step()
        with self._books.connection.transaction():
            result = function(self._books.connection)
        self._on_step()
        return result


async def no_pause(seconds: float) -> None:
    """Go on at once."""


def archiver(books: TemporaryBooks, store: ObjectStore, **options: Any) -> Archiver:
    access = options.pop("access", None) or TestAccess(books)
    return Archiver(access, store, books.clock, pause=no_pause, part_rows=7, **options)


def archive(books: TemporaryBooks, folder: Path, before_ms: int = UNTIL_MS, **options: Any) -> int:
    """Close the days, archive these in small files, and return how many generations."""
    close_days(books.connection, books.clock.now_ms())
    count, stopped = asyncio.run(archiver(books, LocalObjectStore(folder), **options).archive(before_ms))
    assert stopped is None, stopped
    return count


# ── what a customer reads ─────────────────────────────────────────────────────────────────────────────────────────


def everything_of(books: TemporaryBooks, folder: Path, account: int) -> dict[str, Any]:
    """Return the balance, statement, requests, usage and export of an account, as bytes where it gets bytes."""
    return asyncio.run(_everything_of(books, folder, account))


async def _everything_of(books: TemporaryBooks, folder: Path, account: int) -> dict[str, Any]:
    reader, store = books.archive_reader(folder), LocalObjectStore(folder)
    usage = UsageCache(books.database, books.clock, reader)
    begin, end = FIRST * MS_PER_DAY, NOON_MS
    noon = MS_PER_DAY // 2
    statement = await whole_statement(reader, account)
    listed = [row async for row in _leaf(reader, account)]
    return {
        "balance": books.money(account),
        "statement": csv_lines(map(statement_line, statement)),
        "plans": [
            await reader.purse_statement(purse, None, 10**6)
            for purse in await reader._database.read_async(purses.purses_of, account, 99)
        ],
        "paid by plans": [
            await reader.paid_by_plans(account, (FIRST + day) * MS_PER_DAY, (FIRST + day + 3) * MS_PER_DAY)
            for day in range(0, 12, 3)
        ],
        "pages": [row async for row in _pages(reader, account)],
        "requests": listed,
        "filtered": [[row async for row in _matching(reader, only)] for only in filters(account)],
        "generations": [await _generation(books, reader, account, row.id) for row in listed],
        "by day": await usage.report(account, begin, end, "day"),
        "half days": await usage.report(account, begin + noon, UNTIL_MS - noon, "model"),
        "over the border": await usage.report(account, UNTIL_MS - noon, UNTIL_MS + noon, "key"),
        "cells": await usage.cells(account, 90),
        "export": await asyncio.to_thread(export, books, store, account),
    }


async def whole_statement(reader: ArchiveReader, account: int) -> list[StatementRow]:
    rows: list[StatementRow] = []
    place: StatementPlace | None = StatementPlace()
    while place is not None:
        part, place = await reader.statement_part(account, place)
        rows += part
    return rows


async def _pages(reader: ArchiveReader, account: int) -> Any:
    below, until = None, NOON_MS
    while rows := await reader.statement_page(account, below=below, before_ms=until, rows_wanted=11):
        for row in rows:
            yield row
        below, until = rows[-1].version, rows[-1].at_ms


def filters(account: int) -> list[LogFilter]:
    """Filters that reach live days, archived days, or both."""
    return [
        LogFilter(account, state="failed"),
        LogFilter(account, kind="chat", model="gpt-4o-mini", key_id="key000000001"),
        LogFilter(account, model="nothing"),
        LogFilter(account, from_ms=UNTIL_MS - 2 * MS_PER_DAY, until_ms=UNTIL_MS + MS_PER_DAY),
        LogFilter(account, kind="image", until_ms=UNTIL_MS - MS_PER_DAY),
        LogFilter(account, from_ms=UNTIL_MS),
    ]


async def _matching(reader: ArchiveReader, only: LogFilter) -> Any:
    place: LogPlace | None = None
    while True:
        found, place = await reader.matching_requests(only, 13, place)
        for row in found:
            yield row
        if place is None:
            return


async def _leaf(reader: ArchiveReader, account: int) -> Any:
    before = None
    while rows := await reader.recent_requests(account, 13, before):
        for row in rows:
            yield row
        before = rows[-1].created_ms, rows[-1].id


async def _generation(books: TemporaryBooks, reader: ArchiveReader, account: int, number: int) -> Any:
    found = books.database.read(find_generation, number, account)
    return found or await reader.find_generation(number, account)


def export(books: TemporaryBooks, store: ObjectStore, account: int) -> str:
    """The export of personal data, as JSON."""
    with asyncio.Runner() as runner:
        found = {
            table: list(rows)
            for table, rows in read_personal_data(
                books.database.read, lambda path: runner.run(store.get_file(path)), account, no_content
            )
        }
    return json.dumps(found, indent=1, default=repr)


def balances(books: TemporaryBooks) -> list[Any]:
    return [(row[0], books.database.read(accounts.balance_of, row[0])) for row in books.rows("SELECT id FROM accounts")]


def live(books: TemporaryBooks) -> list[int]:
    """Return the days of the generations in the database."""
    return sorted({row[0] // MS_PER_DAY for row in books.rows("SELECT created_ms FROM generations")})


def no_content(table: str, account: int, number: int, part: str, sealed: bytes) -> object:
    """Stand for a cipher in a test that stores no response."""
    raise AssertionError(f"no response was stored, but {part} of {number} is read")


def no_file(path: str) -> bytes:
    """Stand for a store in a test that archives nothing."""
    raise AssertionError(f"nothing was archived, but {path} is read")
