"""Connections: readers that cannot write and never wait, transactions that are whole or not at all."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from minitoolai.core.errors import Overloaded, ReportTooLarge, StoreError
from minitoolai.http.errors import error_body, status_and_type
from minitoolai.storage.database import MAX_WAITING_REPORTS, REPORT_THREADS, Connection, Database
from minitoolai.storage.opening import open_database
from minitoolai.storage.sqlite import SqliteConnection, open_sqlite
from minitoolai.storage.tables import accounts
from tests.support.books import TemporaryBooks, credit, hold

VERSION = "SELECT version FROM accounts WHERE id IN (…)"


def test_a_reader_cannot_write(books: TemporaryBooks) -> None:
    with pytest.raises(StoreError, match=r"read-?only"):
        books.database.read(lambda connection: connection.execute("DELETE FROM transfers"))


def test_readers_do_not_wait_for_a_writer_and_see_what_was_committed(books: TemporaryBooks) -> None:
    account = books.account(1000)
    with books.connection.transaction():
        books.connection.execute("UPDATE accounts SET posted = 500 WHERE id = ?", (account,))
        began_s = time.monotonic()
        assert books.money(account).posted == 1000
        assert time.monotonic() - began_s < 5
        books.connection.execute("UPDATE accounts SET posted = 1000 WHERE id = ?", (account,))


def test_a_writer_does_not_wait_for_a_reader(books: TemporaryBooks) -> None:
    account = books.account(1000)

    def slow_question(connection: Connection) -> tuple[object, object]:
        with connection.snapshot():
            first = accounts.balance_of(connection, account)
            books.apply(hold(1, account, 600))
            return first, accounts.balance_of(connection, account)

    first, second = books.database.read(slow_question)
    assert first == second
    assert books.money(account).held == 600


def test_a_transaction_that_fails_leaves_nothing(books: TemporaryBooks) -> None:
    def fail() -> None:
        with books.connection.transaction():
            books.connection.execute("UPDATE accounts SET version = 99")
            raise ZeroDivisionError

    before = books.everything()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert books.everything() == before


def test_a_second_writer_waits_its_turn(books: TemporaryBooks) -> None:
    # Whoever reads in order to write holds the lock from then on, so no update is lost.
    async def both() -> None:
        other = books.database.connect()

        def add() -> None:
            for _ in range(50):
                with other.transaction():
                    (posted,) = other.select_by_ids(VERSION, [1], lock=True)[0]
                    other.execute("UPDATE accounts SET version = ? WHERE id = 1", (posted + 1,))

        def add_here() -> None:
            for _ in range(50):
                with books.connection.transaction():
                    (posted,) = books.connection.select_by_ids(VERSION, [1], lock=True)[0]
                    books.connection.execute("UPDATE accounts SET version = ? WHERE id = 1", (posted + 1,))

        await asyncio.gather(asyncio.to_thread(add), asyncio.to_thread(add_here))
        other.close()

    asyncio.run(both())
    assert books.rows("SELECT version FROM accounts WHERE id = 1") == [(100,)]


def test_the_file_is_in_wal_mode_synchronous_and_only_the_server_checkpoints(tmp_path: Path) -> None:
    for serving, checkpoint_pages in ((True, 2000), (False, 0)):
        database = open_sqlite(tmp_path / "new.db", serving=serving)
        connection = database.connect()
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint")
        values = [connection.execute(f"PRAGMA {pragma}")[0][0] for pragma in pragmas]
        assert values == ["wal", 2, 1, checkpoint_pages]
        assert database.read(lambda c: c.execute("PRAGMA wal_autocheckpoint")) == [(0,)]
        assert database.read(lambda c: c.execute("PRAGMA query_only")) == [(1,)]
        connection.close()
        database.close()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 9, 512])
def test_any_number_of_ids_can_be_asked_for_at_once(books: TemporaryBooks, count: int) -> None:
    with books.connection.transaction():
        books.connection.execute_many(
            "INSERT INTO accounts (id, created_ms) VALUES (?, 0)", [(n,) for n in range(5000, 5600)]
        )
    ids = range(5000, 5000 + count)
    rows = books.connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", ids)
    assert sorted(rows) == [(n,) for n in ids]


def test_a_folder_instead_of_a_file_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"cannot open {tmp_path}"):
        SqliteConnection(tmp_path)


def test_a_question_that_fails_does_not_cost_the_next_one_its_connection(books: TemporaryBooks) -> None:
    for _ in range(5):
        with pytest.raises(StoreError, match=r"no such table|does not exist"):
            books.database.read(lambda connection: connection.execute("SELECT * FROM absent"))
        with pytest.raises(ZeroDivisionError):
            books.database.read(lambda connection: 1 // 0)
    assert books.money(1).posted == 0


# ── pools of their own ────────────────────────────────────────────────────────────────────────────────────

#: A question that both databases work on for minutes unless something stops them.
ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000000000) SELECT count(*) FROM c"


def endless(connection: Connection) -> object:
    with connection.snapshot():
        return connection.execute(ENDLESS)


def impatient(books: TemporaryBooks, limit_s: float) -> Database:
    """The same books, with a shorter time limit for reports."""
    database = open_database(books.url, serving=True)
    database.limit_reports(limit_s)
    return database


def test_a_look_up_never_waits_behind_reports_or_the_audit(books: TemporaryBooks) -> None:
    account, database = books.account(700), impatient(books, 3)

    async def look_up() -> float:
        reports = [
            asyncio.ensure_future(database.report(other, endless)) for other in range(10, 10 + 3 * REPORT_THREADS)
        ]
        upkeep = asyncio.ensure_future(database.upkeep(lambda _: time.sleep(2)))
        await asyncio.sleep(0.3)
        began_s = time.monotonic()
        for _ in range(20):
            assert (await database.read_async(accounts.balance_of, account)).posted == 700
        took_s = time.monotonic() - began_s
        assert not any(work.done() for work in (*reports, upkeep))
        for work in reports:
            work.cancel()
        await asyncio.gather(*reports, upkeep, return_exceptions=True)
        return took_s

    try:
        assert asyncio.run(look_up()) < 1.5
    finally:
        database.close()


def test_a_report_that_takes_too_long_ends_with_the_remedy_and_leaves_no_snapshot(books: TemporaryBooks) -> None:
    database = impatient(books, 0.3)

    async def ask() -> None:
        for _ in range(2):
            began_s = time.monotonic()
            with pytest.raises(ReportTooLarge, match="Ask for a shorter period"):
                await database.report(7, endless)
            assert time.monotonic() - began_s < 5
        # The limit is of one report, not of the connection.
        for _ in range(4):
            assert await database.report(7, lambda c: (time.sleep(0.1), c.execute("SELECT 1"))[1]) == [(1,)]

    try:
        asyncio.run(ask())
        if not database.is_shared:
            books.apply(credit(books.account(), 5))
            assert books.rows("PRAGMA wal_checkpoint(TRUNCATE)") == [(0, 0, 0)]
    finally:
        database.close()


def test_a_report_that_took_too_long_is_a_503_that_no_client_repeats_by_itself() -> None:
    error = ReportTooLarge("This report takes too long. Ask for a shorter period, such as one day.")
    assert status_and_type(error)[0] == 503
    assert b'"code":"report_too_large"' in error_body(error)
    assert not error.retryable


def test_one_report_of_an_account_runs_at_a_time_beside_those_of_others(books: TemporaryBooks) -> None:
    running: dict[int, int] = {}
    most: dict[str, int] = {"one": 0, "all": 0}
    lock = threading.Lock()

    def work(_: Connection, account: int) -> None:
        with lock:
            running[account] = running.get(account, 0) + 1
            most["one"] = max(most["one"], running[account])
            most["all"] = max(most["all"], sum(running.values()))
        time.sleep(0.05)
        with lock:
            running[account] -= 1

    async def ask() -> list[BaseException | None]:
        jobs = [books.database.report(1, work, 1) for _ in range(MAX_WAITING_REPORTS + 3)]
        return await asyncio.gather(*jobs, books.database.report(2, work, 2), return_exceptions=True)

    results = asyncio.run(ask())
    assert most == {"one": 1, "all": 2}
    refused = [result for result in results if result is not None]
    assert len(refused) == 2
    assert all(isinstance(one, Overloaded) and "Other reports of this account" in one.message for one in refused)


def test_a_caller_that_leaves_keeps_the_turn_until_its_report_has_ended(books: TemporaryBooks) -> None:
    ended: list[str] = []

    def work(_: Connection, name: str, wait_s: float) -> None:
        time.sleep(wait_s)
        ended.append(name)

    async def ask() -> None:
        left = asyncio.ensure_future(books.database.report(1, work, "left", 0.4))
        await asyncio.sleep(0.1)
        left.cancel()
        await books.database.report(1, work, "next", 0)
        with pytest.raises(asyncio.CancelledError):
            await left

    asyncio.run(ask())
    assert ended == ["left", "next"]
