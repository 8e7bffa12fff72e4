"""Rewriting one-row statements into bulk statements over arrays."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

from minitoolai.core.models import StoredResponse
from minitoolai.ledger.types import PlaceHold
from minitoolai.storage.postgres import connection as postgres
from minitoolai.storage.postgres.bulk import array_oid, bulk_statement, can_pack, pack_array
from minitoolai.storage.tables import idempotency, jobs, ledger, outbox
from tests.support.books import NOON_MS, TemporaryBooks, hold, settle


def test_an_insert_becomes_one_statement_over_arrays() -> None:
    form = bulk_statement("INSERT INTO holds (id, kind) VALUES (?, ?) ON CONFLICT DO NOTHING")
    assert form is not None
    assert form.over_arrays({"id": "bigint", "kind": "text"}) == (
        "INSERT INTO holds (id, kind) SELECT * FROM unnest($1::bigint[], $2::text[]) ON CONFLICT DO NOTHING"
    )


def test_an_update_becomes_one_statement_with_its_guard() -> None:
    form = bulk_statement("UPDATE holds SET state = ?, settled = ? WHERE id = ? AND state = 'pending'")
    assert form is not None
    assert form.key == 2
    assert form.over_arrays({"id": "bigint", "state": "text", "settled": "bigint"}) == (
        "UPDATE holds SET state = v.v0, settled = v.v1 FROM unnest($1::text[], $2::bigint[], $3::bigint[])"
        " AS v(v0, v1, v2) WHERE holds.id = v.v2 AND holds.id = ANY($3::bigint[])"
        " AND holds.state IS NOT DISTINCT FROM 'pending'"
    )


def test_an_update_may_have_expressions_and_guards_with_values() -> None:
    form = bulk_statement(
        "UPDATE holds SET worker = NULL, n = n + 1, state = ? WHERE id = ? AND attempt = ? AND m = 'a'"
    )
    assert form is not None
    assert (form.columns, form.key) == (("state", "id", "attempt"), 1)
    assert form.over_arrays({"id": "bigint", "state": "text", "attempt": "integer"}) == (
        "UPDATE holds SET worker = NULL, n = n + 1, state = v.v0"
        " FROM unnest($1::text[], $2::bigint[], $3::integer[]) AS v(v0, v1, v2)"
        " WHERE holds.id = v.v1 AND holds.id = ANY($2::bigint[])"
        " AND holds.attempt IS NOT DISTINCT FROM v.v2 AND holds.m IS NOT DISTINCT FROM 'a'"
    )


def test_a_delete_becomes_one_statement_over_its_keys() -> None:
    form = bulk_statement("DELETE FROM holds WHERE id = ?")
    assert form is not None
    assert form.over_arrays({"id": "bigint"}) == "DELETE FROM holds WHERE id = ANY($1::bigint[])"


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO accounts (id, is_system) VALUES (?, 1)",
        "UPDATE accounts SET posted = posted + ? WHERE id = ?",
        "UPDATE accounts SET posted = greatest(posted, held) WHERE id = ?",
        "UPDATE accounts SET posted = ? WHERE id = ? OR held = ?",
        "UPDATE accounts SET posted = ? WHERE id > ?",
        "UPDATE holds SET state = ? WHERE id = ? AND attempt > ?",
        "DELETE FROM workers WHERE seen_ms < ?",
        "DELETE FROM holds WHERE id = ? AND state = ?",
    ],
)
def test_a_statement_of_another_shape_is_left_as_it_is(sql: str) -> None:
    assert bulk_statement(sql) is None


def test_arrays_are_packed_as_the_server_reads_them(postgres_books: TemporaryBooks) -> None:
    columns = {
        "bigint": [2**62, -1, None],
        "integer": [7, None, -(2**31)],
        "text": ["a", None, "ä"],
        "bytea": [b"", b"\0x", None],
    }
    with postgres_books.connection.transaction():
        for column_type, values in columns.items():
            statement = postgres.Statement(
                f"SELECT * FROM unnest($1::{column_type}[])",
                (array_oid(column_type),),
                (pack_array(column_type, values),),
            )
            connection = postgres_books.connection
            assert isinstance(connection, postgres.PostgresConnection)
            (result,) = connection._round_trip([statement])
            rows = [row[0] for row in connection._pipeline.rows(result)]
            assert rows == values, column_type
    assert not can_pack("double precision")


def test_rows_that_name_one_key_twice_are_written_one_after_the_other(postgres_books: TemporaryBooks) -> None:
    account = postgres_books.account(100)
    written = postgres_books.connection.execute_many(
        "UPDATE accounts SET version = ? WHERE id = ?", [(7, account), (8, account)]
    )
    assert written == 2
    assert postgres_books.rows("SELECT version FROM accounts WHERE id = ?", account) == [(8,)]
    postgres_books.rows("UPDATE accounts SET version = 1 WHERE id = ?", account)


# ── falling back to one statement per row ─────────────────────────────────────────────────────────────────


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Warnings about rows written one by one, as if none had been logged before in this process."""
    postgres._log_once.cache_clear()
    caplog.set_level(logging.WARNING, postgres.__name__)
    return caplog


def test_writing_row_by_row_is_logged_once_for_each_statement(
    postgres_books: TemporaryBooks, warnings: pytest.LogCaptureFixture
) -> None:
    connection, account = postgres_books.connection, postgres_books.account()
    slow = "UPDATE accounts SET version = version + ? WHERE id = ?"
    for _ in range(3):
        assert connection.execute_many(slow, [(0, account), (0, account)]) == 2
    assert [record.levelname for record in warnings.records] == ["WARNING"]
    assert slow in warnings.text
    twice = "UPDATE accounts SET version = ? WHERE id = ?"
    with connection.transaction():
        connection.queue_write(twice, [(0, account), (0, account)])
    assert "a batch named a row twice" in warnings.records[1].getMessage()
    assert len(warnings.records) == 2


def test_a_column_type_that_cannot_be_packed_is_logged_and_still_written(
    postgres_books: TemporaryBooks, warnings: pytest.LogCaptureFixture
) -> None:
    connection = postgres_books.connection
    connection.execute("CREATE TABLE readings (id bigint, value double precision)")
    try:
        assert connection.execute_many("INSERT INTO readings (id, value) VALUES (?, ?)", [(1, 0.5), (2, 1.5)]) == 2
        assert connection.execute("SELECT sum(value) FROM readings") == [(2.0,)]
    finally:
        connection.execute("DROP TABLE readings")
    assert "a column type cannot be packed" in warnings.text


def test_one_row_is_written_as_it_is_without_a_warning(
    postgres_books: TemporaryBooks, warnings: pytest.LogCaptureFixture
) -> None:
    account = postgres_books.account()
    sql = "UPDATE accounts SET version = version + ? WHERE id = ?"
    assert postgres_books.connection.execute_many(sql, [(0, account)]) == 1
    assert warnings.records == []


def test_a_batch_of_the_ledger_is_written_in_bulk(
    postgres_books: TemporaryBooks, warnings: pytest.LogCaptureFixture
) -> None:
    accounts = [postgres_books.account(1_000) for _ in range(3)]
    postgres_books.apply(*(hold(number, account, 100) for number, account in enumerate(accounts, 1)))
    results = postgres_books.apply(*(settle(number, account, 40) for number, account in enumerate(accounts, 1)))
    assert len(results) == 3
    assert warnings.records == []


def _written_statements(module: object) -> list[str]:
    """Return every SQL text that a module passes to `queue_write` or `execute_many`."""
    tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))  # type: ignore[attr-defined]
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
    found = [call.args[0] for call in calls if call.func.attr in ("queue_write", "execute_many")]
    return [text.value for text in found if isinstance(text, ast.Constant)]


def test_every_statement_of_the_ledger_has_a_bulk_form() -> None:
    statements = {sql for module in (ledger, idempotency, jobs, outbox) for sql in _written_statements(module)}
    assert len(statements) > 15
    # Runs for a single row only.
    single = {"DELETE FROM workers WHERE seen_ms < ?"}
    assert {sql for sql in statements if bulk_statement(sql) is None} == single


def test_jobs_and_idempotency_keys_are_written_in_bulk_too(
    postgres_books: TemporaryBooks, warnings: pytest.LogCaptureFixture
) -> None:
    account = postgres_books.account(10_000)
    operations = [hold(number, account, 100, claim=f"key {number}") for number in (1, 2)]
    assert all(isinstance(operation, PlaceHold) for operation in operations)
    postgres_books.apply(*operations)
    connection = postgres_books.connection
    kept = StoredResponse(200, "[]", b"body")
    with connection.transaction():
        for number in (1, 2):
            idempotency.store_response(connection, f"{account}/key {number}", number, kept)
    found = idempotency.rows_with_response(connection, 0, NOON_MS)
    assert len(found) == 2
    with connection.transaction():
        idempotency.drop_responses(connection, found)
        assert idempotency.delete_expired(connection, NOON_MS + 10**9) == 2
    assert idempotency.rows_with_response(connection, 0, NOON_MS) == []
    assert warnings.records == []
    postgres_books.apply(*(settle(number, account, 0) for number in (1, 2)))
