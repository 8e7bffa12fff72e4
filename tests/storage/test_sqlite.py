"""The SQLite connection."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from minitoolai.core.errors import StoreError
from minitoolai.storage.database import SelectByIds
from minitoolai.storage.sqlite import SqliteConnection, open_sqlite
from tests.support.books import TemporaryBooks


def test_commits_are_durable_and_references_are_enforced(sqlite_books: TemporaryBooks) -> None:
    pragmas = {name: sqlite_books.rows(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert pragmas == {"journal_mode": [("wal",)], "synchronous": [(2,)], "foreign_keys": [(1,)]}


def test_only_the_serving_process_checkpoints_the_log(sqlite_books: TemporaryBooks) -> None:
    sizes = {}
    for serving in (True, False):
        database = open_sqlite(sqlite_books.path, serving=serving)
        connection = database.connect()
        sizes[serving] = connection.execute("PRAGMA wal_autocheckpoint")
        sizes[serving, "reader"] = database.read(lambda c: c.execute("PRAGMA wal_autocheckpoint"))
        connection.close()
        database.close()
    assert sizes == {True: [(2000,)], False: [(0,)], (True, "reader"): [(0,)], (False, "reader"): [(0,)]}


def test_a_reader_cannot_write(sqlite_books: TemporaryBooks) -> None:
    reader = SqliteConnection(sqlite_books.path, read_only=True)
    with pytest.raises(StoreError, match="readonly database in DELETE"):
        reader.execute("DELETE FROM transfers")
    reader.close()


def test_a_transaction_that_fails_leaves_nothing_and_the_connection_usable(sqlite_books: TemporaryBooks) -> None:
    account = sqlite_books.account()
    with pytest.raises(StoreError, match="in UPDATE"), sqlite_books.connection.transaction():  # noqa: PT012
        sqlite_books.rows("UPDATE accounts SET version = 9 WHERE id = ?", account)
        sqlite_books.rows("UPDATE accounts SET held = -1 WHERE id = ?", account)
    assert sqlite_books.rows("SELECT version FROM accounts WHERE id = ?", account) == [(0,)]
    with sqlite_books.connection.transaction():
        sqlite_books.rows("UPDATE accounts SET created_ms = 5 WHERE id = ?", account)


def test_any_number_of_ids_is_selected_with_few_statements(sqlite_books: TemporaryBooks) -> None:
    ids = [sqlite_books.account() for _ in range(5)]
    sql = "SELECT id FROM accounts WHERE id IN (…) ORDER BY id"
    for count in range(6):
        assert [row[0] for row in sqlite_books.connection.select_by_ids(sql, ids[:count])] == ids[:count]
    found, nothing = sqlite_books.connection.select_many(SelectByIds(sql, ids), SelectByIds(sql, []))
    assert (len(found), nothing) == (5, [])


def test_a_snapshot_does_not_see_later_writes(sqlite_books: TemporaryBooks) -> None:
    reader = SqliteConnection(sqlite_books.path, read_only=True)
    with reader.snapshot():
        before = reader.execute("SELECT count(*) FROM accounts")
        sqlite_books.account()
        assert reader.execute("SELECT count(*) FROM accounts") == before
    assert reader.execute("SELECT count(*) FROM accounts") != before
    reader.close()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_bytes(b"this is not a database, only a long enough text" * 50)
    with pytest.raises(StoreError, match=r"cannot open .*no\.db: file is not a database"):
        SqliteConnection(tmp_path / "no.db")


def test_opening_a_connection_takes_no_write_lock(sqlite_books: TemporaryBooks) -> None:
    with sqlite_books.connection.transaction():
        sqlite_books.connection.execute("UPDATE accounts SET posted = posted")
        began_s = time.monotonic()
        SqliteConnection(sqlite_books.path, read_only=True).close()
        SqliteConnection(sqlite_books.path).close()
        assert time.monotonic() - began_s < 1
    assert sqlite_books.rows("PRAGMA auto_vacuum") == [(2,)]


def test_free_pages_are_given_back_as_many_at_a_time_as_asked(sqlite_books: TemporaryBooks) -> None:
    with closing(sqlite_books.database.connect()) as connection:
        connection.execute("CREATE TABLE large (content TEXT)")
        connection.execute_many("INSERT INTO large VALUES (?)", [("x" * 3_000,)] * 300)
        connection.execute("DELETE FROM large")
        free = connection.execute("PRAGMA freelist_count")[0][0]
        assert free > 290
        with connection.transaction():
            assert connection.free_pages(128)
        assert connection.execute("PRAGMA freelist_count")[0][0] == free - 128
        while connection.free_pages(128):
            pass
        assert connection.execute("PRAGMA freelist_count")[0][0] == 0
