"""Many statements in one round trip."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import psycopg
import pytest

from minitoolai.storage.postgres.bulk import array_oid, pack_array
from minitoolai.storage.postgres.pipeline import Pipeline, Statement, StatementFailed, require_row_count
from minitoolai.storage.postgres.session import connect

#: The OID of the type.
TEXT = 25


@pytest.fixture
def session(postgres_url: str) -> Iterator[psycopg.Connection]:  # type: ignore[type-arg]
    session = connect(postgres_url)
    session.execute("CREATE TEMPORARY TABLE things (id bigint PRIMARY KEY, n bigint)")
    yield session
    session.close()


def ids(sql: str, *numbers: int) -> Statement:
    return Statement(sql, (array_oid("bigint"),), (pack_array("bigint", numbers),))


INSERT = "INSERT INTO things SELECT *, 0 FROM unnest($1::bigint[])"
SELECT = "SELECT id, n FROM things WHERE id = ANY($1) ORDER BY id"
UPDATE = "UPDATE things SET n = n + 1 WHERE id = ANY($1)"


def test_results_come_in_the_order_of_the_statements(session: psycopg.Connection) -> None:  # type: ignore[type-arg]
    pipeline = Pipeline(session)
    for _ in range(2):
        first, nothing, second = pipeline.run([ids(SELECT, 1), ids(INSERT, 1, 2), ids(SELECT, 1, 2)])
        assert (pipeline.rows(first), pipeline.rows(second)) == ([], [(1, 0), (2, 0)])
        assert nothing.command_tuples == 2
        pipeline.run([ids("DELETE FROM things WHERE id = ANY($1)", 1, 2)])


def test_a_statement_is_prepared_once(session: psycopg.Connection) -> None:  # type: ignore[type-arg]
    pipeline = Pipeline(session)
    for number in range(3):
        pipeline.run([ids(INSERT, number), ids(SELECT, number)])
    names = session.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'minitoolai_%'").fetchone()
    assert names == (2,)


def test_a_rejected_statement_is_named_and_the_session_stays_usable(session: psycopg.Connection) -> None:  # type: ignore[type-arg]
    pipeline, wrong = Pipeline(session), ids("SELECT wrong FROM things WHERE id = ANY($1)", 1)
    with pytest.raises(StatementFailed, match="wrong") as failure:
        pipeline.run([ids(INSERT, 1), wrong, ids(SELECT, 1)])
    assert failure.value.statement is wrong
    (result,) = pipeline.run([ids(SELECT, 1)])
    assert pipeline.rows(result) == []


@pytest.mark.parametrize("expected", [1, 2, 3])
def test_an_update_of_another_number_of_rows_fails_with_its_message(
    session: psycopg.Connection,  # type: ignore[type-arg]
    expected: int,
) -> None:
    pipeline = Pipeline(session)
    pipeline.run([ids(INSERT, 1, 2)])
    update = require_row_count(ids(UPDATE, 1, 2, 3), expected, "somebody was quicker")
    if expected == 2:
        pipeline.run([update])
    else:
        with pytest.raises(StatementFailed) as failure:
            pipeline.run([update])
        assert isinstance(failure.value.error, psycopg.errors.DivisionByZero)
        assert failure.value.statement.conflict_error == "somebody was quicker"
    (result,) = pipeline.run([ids(SELECT, 1, 2)])
    assert pipeline.rows(result) == [(1, int(expected == 2)), (2, int(expected == 2))]


def test_a_broken_session_is_closed(session: psycopg.Connection, postgres_url: str) -> None:  # type: ignore[type-arg]
    pipeline = Pipeline(session)
    pid = session.info.backend_pid
    with connect(postgres_url) as other:
        other.execute("SELECT pg_terminate_backend(%s::int, 5000)", (pid,))
    with pytest.raises(psycopg.Error):
        pipeline.run([ids(SELECT, 1)])
    assert session.closed


def test_a_batch_larger_than_the_buffers_of_the_connection_arrives(
    session: psycopg.Connection,  # type: ignore[type-arg]
) -> None:
    with socket.socket(fileno=os.dup(session.pgconn.socket)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    large = Statement("SELECT length($1), repeat('y', 8000000)", (TEXT,), (b"x" * 8_000_000,))
    pipeline, lengths = Pipeline(session), []

    def run() -> None:
        for result in pipeline.run([large, large]):
            ((length, answer),) = pipeline.rows(result)
            lengths.append((length, len(answer)))

    running = threading.Thread(target=run, daemon=True)
    running.start()
    running.join(30)
    assert lengths == [(8_000_000, 8_000_000)] * 2
