"""Connections: readers that cannot write and never wait, transactions that are whole or not at all."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from minitoolai.core.errors import StoreError
from minitoolai.storage import accounts
from minitoolai.storage.database import Connection
from minitoolai.storage.sqlite import SqliteConnection, open_sqlite
from tests.support.books import TemporaryBooks, hold

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
