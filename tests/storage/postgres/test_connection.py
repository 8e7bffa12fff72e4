"""What only PostgreSQL does: statements over arrays, locks by account, a COMMIT looked up by its number."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import psycopg
import pytest

from minitoolai.core.errors import ConnectionLost, SettingsError, StoreError
from minitoolai.core.models import Balance
from minitoolai.ledger.rules import decide
from minitoolai.storage.opening import open_database
from minitoolai.storage.postgres.connection import PostgresConnection
from minitoolai.storage.postgres.session import display_address
from minitoolai.storage.tables import ledger
from tests.support.books import TemporaryBooks, hold, settle


def test_whoever_judges_an_account_is_alone_with_it(postgres_books: TemporaryBooks) -> None:
    account, other = postgres_books.account(1000), postgres_books.account(1000)
    ended_s: dict[str, float] = {}

    def judge(name: str, hold_id: int, whose: int) -> None:
        with closing(PostgresConnection(postgres_books.url)) as connection, connection.transaction():
            ledger.apply(connection, [hold(hold_id, whose, 600)], decide)
        ended_s[name] = time.monotonic()

    with postgres_books.connection.transaction():
        ledger.apply(postgres_books.connection, [hold(1, account, 600)], decide)
        threads = [
            threading.Thread(target=judge, args=("same", 2, account)),
            threading.Thread(target=judge, args=("other", 3, other)),
        ]
        for thread in threads:
            thread.start()
        threads[1].join(30)
        time.sleep(0.1)
        assert set(ended_s) == {"other"}
    threads[0].join(30)
    assert ended_s.keys() == {"same", "other"}
    # The second to judge saw what the first had committed, and refused.
    assert postgres_books.money(account) == Balance(1000, 600)


def test_batches_that_name_the_same_accounts_in_any_order_never_deadlock(postgres_books: TemporaryBooks) -> None:
    accounts = [postgres_books.account(10**6) for _ in range(6)]
    failures: list[BaseException] = []

    def work(place: int) -> None:
        mine = accounts if place % 2 else accounts[::-1]
        try:
            with closing(PostgresConnection(postgres_books.url)) as connection:
                for n in range(60):
                    first = place * 100_000 + n * 10
                    with connection.transaction():
                        holds = [hold(first + i, account, 1) for i, account in enumerate(mine)]
                        ledger.apply(connection, holds, decide)
                    with connection.transaction():
                        ends = [settle(first + i, account, 1) for i, account in enumerate(mine)]
                        ledger.apply(connection, ends, decide)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert [postgres_books.money(account) for account in accounts] == [Balance(10**6 - 360, 0)] * 6


def test_a_transaction_whose_session_was_ended_writes_nothing_and_the_next_one_works(
    postgres_books: TemporaryBooks,
) -> None:
    account = postgres_books.account(1000)
    connection = postgres_books.connection

    def broken() -> None:
        with connection.transaction():
            ledger.apply(connection, [hold(1, account, 5)], decide)
            _end_session_of(postgres_books)
            ledger.apply(connection, [hold(2, account, 5)], decide)

    with pytest.raises(ConnectionLost):
        broken()
    postgres_books.apply(hold(3, account, 7))
    assert postgres_books.money(account) == Balance(1000, 7)


def test_nothing_runs_outside_of_a_transaction_whose_session_was_ended(postgres_books: TemporaryBooks) -> None:
    # Whoever swallows the first failure must not write the rest on a new session, where it would be committed.
    account = postgres_books.account(1000)
    connection = postgres_books.connection

    def swallow() -> None:
        with connection.transaction():
            _end_session_of(postgres_books)
            for _ in range(2):
                with pytest.raises(ConnectionLost):
                    connection.execute("UPDATE accounts SET version = 99 WHERE id = ?", (account,))

    with pytest.raises(ConnectionLost):
        swallow()
    assert postgres_books.rows("SELECT version FROM accounts WHERE id = ?", account) == [(1,)]


def _end_session_of(books: TemporaryBooks) -> None:
    (pid,) = books.connection.execute("SELECT pg_backend_pid()")[0]
    with psycopg.connect(books.url, autocommit=True) as db:
        db.execute("SELECT pg_terminate_backend(%s)", (pid,))
        while db.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone():
            time.sleep(0.01)


def test_a_failed_statement_that_was_swallowed_is_not_a_commit(postgres_books: TemporaryBooks) -> None:
    def swallow() -> None:
        with postgres_books.connection.transaction(), pytest.raises(StoreError, match="does not exist"):
            postgres_books.connection.execute("SELECT * FROM absent")

    with pytest.raises(StoreError, match="nothing was written"):
        swallow()


def test_readers_survive_the_end_of_their_sessions(postgres_books: TemporaryBooks) -> None:
    account = postgres_books.account(1000)
    assert postgres_books.money(account).posted == 1000
    (mine,) = postgres_books.connection.execute("SELECT pg_backend_pid()")[0]
    with psycopg.connect(postgres_books.url, autocommit=True) as db:
        ended = db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'minitoolai' AND datname = current_database() AND pid <> %s",
            (mine,),
        ).fetchall()
    assert ended == [(True,)]
    assert postgres_books.money(account).posted == 1000


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:se%cret@host/books",
        "postgresql://ann:secret@host:port/books",
        "postgresql://ann:secret@host/books?secret=1",
        "postgresql://ann:secret@[::1/books",
    ],
)
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises((SettingsError, StoreError)) as refusal:
        open_database(url, serving=True).connect()
    assert "secret" not in str(refusal.value)
    assert "se%cret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_place_names_neither_user_nor_password() -> None:
    assert display_address("postgresql://ann:secret@db.example:5433/books?sslmode=require") == "db.example:5433/books"
    assert display_address("postgresql:///books") == "the local socket/books"


def test_whatever_a_column_holds_goes_over_as_an_array_and_comes_back(postgres_books: TemporaryBooks) -> None:
    rows = [
        (-(2**63), 2**31 - 1, 'ação \\ "{}", NULL', b"\x00\xff"),
        (2**63 - 1, -(2**31), "", b""),
        (7, None, None, None),
    ]
    connection = postgres_books.connection
    connection.execute("CREATE TABLE things (a bigint, b integer, c text, d bytea)")
    try:
        assert connection.execute_many("INSERT INTO things (a, b, c, d) VALUES (?, ?, ?, ?)", rows) == 3
        assert connection.execute("SELECT a, b, c, d FROM things ORDER BY c") == [rows[1], rows[0], rows[2]]
    finally:
        connection.execute("DROP TABLE things")


def test_what_must_change_every_row_and_does_not_is_not_committed(postgres_books: TemporaryBooks) -> None:
    account = postgres_books.account(100)
    connection = postgres_books.connection

    def write() -> None:
        with connection.transaction():
            connection.execute("UPDATE accounts SET version = 9 WHERE id = ?", (account,))
            sql = "UPDATE accounts SET posted = ? WHERE id = ? AND held = 0"
            connection.queue_write(sql, [(5, account), (5, 777)], conflict_error="somebody was quicker")

    with pytest.raises(StoreError, match="somebody was quicker"):
        write()
    assert postgres_books.rows("SELECT posted, version FROM accounts WHERE id = ?", account) == [(100, 1)]


def test_what_is_written_soon_is_there_for_who_reads_next(postgres_books: TemporaryBooks) -> None:
    account = postgres_books.account(100)
    connection = postgres_books.connection
    with connection.transaction():
        connection.queue_write("UPDATE accounts SET version = ? WHERE id = ?", [(9, account)])
        assert connection.execute("SELECT version FROM accounts WHERE id = ?", (account,)) == [(9,)]
        connection.queue_write("UPDATE accounts SET version = ? WHERE id = ?", [(1, account)])
    assert postgres_books.rows("SELECT version FROM accounts WHERE id = ?", account) == [(1,)]


def test_whoever_looks_at_everything_does_not_go_row_by_row(postgres_books: TemporaryBooks) -> None:
    # The audit of a ledger that had grown since the last ANALYZE would compare every row with every other.
    connection = postgres_books.connection
    with connection.snapshot():
        assert connection.execute("SHOW enable_nestloop") == [("off",)]
    assert connection.execute("SHOW enable_nestloop") == [("on",)]


def test_the_servers_time_is_reported_at_the_start_and_with_each_transaction(postgres_url: str) -> None:
    database, told = open_database(postgres_url, serving=True), list[tuple[int, float]]()
    database.follow_time(lambda server_ms, steady_s: told.append((server_ms, steady_s)))
    with closing(database.connect()) as connection:
        assert len(told) == 1
        for number in range(2, 5):
            with connection.transaction():
                connection.execute("SELECT 1")
            assert len(told) == number
        database.read(database.sync_time)
    database.close()
    for server_ms, steady_s in told:
        assert abs(server_ms - time.time() * 1000) < 10_000
        assert 0 <= time.monotonic() - steady_s < 10
    assert [ms for ms, _ in told] == sorted(ms for ms, _ in told)
    assert len(told) == 5
