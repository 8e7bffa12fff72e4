"""The backup format: parts in, parts out, and what a damaged file is refused with."""

from __future__ import annotations

import io
import itertools

import pytest

from minitoolai.core.errors import StoreError
from minitoolai.storage import backup
from minitoolai.storage.backup import BackupFooter, BackupHeader, BackupTotals, BackupWriter, RowChunk
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle

HEADER = BackupHeader(backup.FORMAT, "1.2.3", "0011", "sqlite", NOON_MS, "0123abcd")
CHUNK = RowChunk("accounts", ["id", "posted"], [[1, 2], [3, None]])
TOTALS = BackupTotals({"accounts": 2}, 2, 0)


def written() -> bytes:
    file = io.BytesIO()
    writer = BackupWriter(file)
    writer.write_header(HEADER)
    writer.write_secret(b"current")
    writer.write_secret(b"previous")
    writer.write_rows(CHUNK)
    writer.write_totals(TOTALS)
    writer.write_image("a-1", b"png")
    assert writer.finish() == 1
    return file.getvalue()


def test_parts_are_read_as_they_were_written() -> None:
    parts = list(backup.read_parts(io.BytesIO(written())))
    assert parts == [HEADER, b"current", b"previous", CHUNK, TOTALS, ("a-1", b"png"), BackupFooter(1)]


def test_a_truncated_file_is_refused() -> None:
    data = written()
    for size in (0, 1, 50, len(data) // 4, len(data) // 2):
        with pytest.raises(StoreError):
            list(backup.read_parts(io.BytesIO(data[:size])))


def test_a_file_without_a_header_or_of_another_format_is_refused() -> None:
    file = io.BytesIO()
    writer = BackupWriter(file)
    writer.write_rows(CHUNK)
    writer.finish()
    with pytest.raises(StoreError, match="does not start with a header"):
        list(backup.read_parts(io.BytesIO(file.getvalue())))
    file = io.BytesIO()
    writer = BackupWriter(file)
    writer.write_header(BackupHeader(99, "9", "9999", "sqlite", 0, ""))
    writer.finish()
    with pytest.raises(StoreError, match=f"has format 99, but this version reads format {backup.FORMAT}"):
        list(backup.read_parts(io.BytesIO(file.getvalue())))


def test_a_file_that_is_no_archive_is_refused() -> None:
    with pytest.raises(StoreError, match="damaged"):
        list(backup.read_parts(io.BytesIO(b"a text" * 1000)))


def test_all_rows_go_out_in_pages_and_come_back(books: TemporaryBooks) -> None:
    for number in range(1, 6):
        account = books.account(1_000)
        books.apply(hold(number, account, 100, claim="word"))
    books.apply(settle(5, account, 40))
    before = books.everything()
    totals = backup.customer_totals(books.connection)
    with books.connection.snapshot():
        chunks = list(backup.dump_rows(books.connection, chunk_rows=2))
    assert totals == (5_000 - 40, 400)
    assert max(len(chunk.rows) for chunk in chunks) == 2
    counts = {name: sum(len(c.rows) for c in chunks if c.table == name) for name in backup.table_names()}
    assert backup.count_rows(books.connection, counts) == counts
    with pytest.raises(StoreError, match="already has rows"), books.connection.transaction():
        backup.clear_seed_rows(books.connection)
    books.clear()
    with books.connection.transaction():
        backup.clear_seed_rows(books.connection)
        for chunk in chunks:
            backup.insert_rows(books.connection, chunk)
    assert books.everything() == before
    assert backup.customer_totals(books.connection) == totals


def test_rows_that_do_not_fit_the_schema_are_refused(books: TemporaryBooks) -> None:
    for chunk in (RowChunk("nothing", ["id"], [[1]]), RowChunk("accounts", ["id", "nothing"], [[1, 2]])):
        with pytest.raises(StoreError, match="do not fit the schema"):
            backup.insert_rows(books.connection, chunk)


def test_postgres_numbers_go_on_behind_the_restored_rows(postgres_books: TemporaryBooks) -> None:
    account = postgres_books.account(1_000)
    connection = postgres_books.connection
    connection.execute("UPDATE transfers SET id = 77")
    with connection.transaction():
        backup.reset_sequences(connection)
    postgres_books.apply(hold(1, account, 100))
    postgres_books.apply(settle(1, account, 40))
    assert connection.execute("SELECT id FROM transfers ORDER BY id") == [(77,), (78,)]


def test_tables_come_in_the_order_of_their_references() -> None:
    names = backup.table_names()
    for first, second in itertools.pairwise(["accounts", "holds", "generations", "outbox", "webhook_deliveries"]):
        assert names.index(first) < names.index(second)
