"""PostgreSQL implementation of `Connection` for many processes: psycopg 3, synchronous, READ COMMITTED.

If the connection breaks during a COMMIT, the outcome is looked up by transaction ID. A broken session is replaced
before the next transaction.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial

import psycopg
from psycopg.pq.abc import PGresult

from minitoolai.core.errors import CommitInDoubt, ConnectionLost, StoreError
from minitoolai.ledger.types import OpenPurses
from minitoolai.storage.database import Database, OnServerTime, PriceParts, Row, SelectByIds
from minitoolai.storage.postgres.bulk import BulkStatement, array_oid, bulk_statement, can_pack, pack_array
from minitoolai.storage.postgres.pipeline import Pipeline, Statement, StatementFailed, require_row_count
from minitoolai.storage.postgres.session import (
    ProcessRegistration,
    connect,
    display_address,
    translate_error,
    vanished_workers,
)

log = logging.getLogger(__name__)

#: How long to look up the outcome of a COMMIT while the server is unavailable.
COMMIT_LOOKUP_S = 5.0
FIRST_RETRY_S = 0.05
_BEGIN = Statement("BEGIN ISOLATION LEVEL READ COMMITTED", repeats=False)
_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
#: Transaction ID in 64 and in 32 bits, the process ID of the server session, and the server's time.
_IDS = Statement(f"SELECT pg_current_xact_id()::text, pg_current_xact_id()::xid::text, pg_backend_pid(), {_CLOCK}")
#: Identifies the period since the last crash: statistics are reset by a crash, not by an orderly shutdown.
_SERVER_EPOCH = "SELECT stats_reset::text FROM pg_stat_wal"
_COMMIT = Statement("COMMIT", repeats=False)
_ROLLBACK = Statement("ROLLBACK", repeats=False)
_WHOLE_TABLES = (
    "SET LOCAL enable_nestloop = off; SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on;"
    " SET LOCAL enable_mergejoin = on"
)
#: Transaction ID in 64 and in 32 bits, process ID of the session, and server epoch.
TransactionId = tuple[str, str, int, str]


class PostgresConnection:
    """One session, reconnected when it broke.

    BEGIN is sent together with the first statement of a transaction, and queued writes together with its COMMIT.
    """

    skip_locked = " FOR NO KEY UPDATE SKIP LOCKED"
    price_parts = PriceParts(
        "jsonb_array_elements(g.price_split::jsonb) AS p(value)",
        "(p.value ->> 0)",
        "(p.value ->> 1)::bigint",
        "(p.value ->> 2)::bigint",
    )

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url = url
        self._read_only = read_only
        self.open_purses: dict[int, OpenPurses] = {}
        self._types: dict[str, dict[str, str]] = {}
        self._is_inside = False
        #: The time limit of this session's statements.
        self._limit_s: float | None = None
        self._follow: OnServerTime | None = None
        #: Of the open transaction: writes to send before any other statement, and its ID once it has begun.
        self._queued: list[Statement] = []
        self.transaction_id: TransactionId | None = None
        self._connect()

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        return self._run(_with_placeholders(sql), parameters)

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        if not rows:
            return 0
        statement = self._in_bulk(sql, rows)
        if statement is None:
            return self._row_by_row(sql, rows)
        return self._round_trip([statement])[0].command_tuples or 0

    def queue_write(self, sql: str, rows: Sequence[Sequence[object]], *, conflict_error: str = "") -> None:
        statement = self._in_bulk(sql, rows) if rows else None
        if statement is not None and self._is_inside:
            self._queued.append(
                require_row_count(statement, len(rows), conflict_error) if conflict_error else statement
            )
        elif self.execute_many(sql, rows) < len(rows) and conflict_error:
            raise StoreError(conflict_error)

    def select_by_ids(self, sql: str, ids: Iterable[int | str], *, lock: bool = False) -> list[Row]:
        return self.select_many(SelectByIds(sql, list(ids), lock))[0]

    def select_many(self, *selects: SelectByIds) -> list[list[Row]]:
        answers: list[list[Row]] = [[] for _ in selects]
        asked = {position: _listing(one) for position, one in enumerate(selects) if one.ids}
        if asked:
            for position, result in zip(asked, self._round_trip(list(asked.values())), strict=True):
                answers[position] = self._pipeline.rows(result)
        return answers

    def notify(self, channel: str, payload: str) -> None:
        self._run("SELECT pg_notify(%s, %s)", (channel, payload))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._reconnect()
        self._queued, self.transaction_id, self._is_inside = [], None, True
        try:
            yield
            if self._queued and self.transaction_id is None:
                # Never send a COMMIT before the transaction ID is known: its outcome could not be looked up.
                self._round_trip([])
        except BaseException:
            self._queued = []
            self._roll_back()
            raise
        else:
            self._commit()
        finally:
            self._queued, self._is_inside = [], False

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        # Snapshots read whole tables. Statistics may be outdated, and a nested loop over whole tables would not end.
        self._run(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_WHOLE_TABLES}", ())
        self._is_snapshot = True
        try:
            yield
        finally:
            self._is_snapshot = False
            self._roll_back()

    def limit_time(self, limit_s: float) -> None:
        self._reconnect()
        if self._limit_s != limit_s:
            self._run(f"SET statement_timeout = {round(limit_s * 1000)}", ())
            self._limit_s = limit_s

    def follow_time(self, follow: OnServerTime) -> None:
        self._follow = follow
        sent_s = time.monotonic()
        follow(self.server_ms(), sent_s)

    def server_ms(self) -> int:
        return int(self._run(f"SELECT {_CLOCK}", ())[0][0])

    def free_pages(self, limit: int) -> bool:
        """Do nothing: autovacuum does it."""
        return False

    def close(self) -> None:
        self._db.close()

    # ── internals ────────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> None:
        self._types.clear()
        self._is_snapshot = False
        self._limit_s = None
        self._db = connect(self._url, read_only=self._read_only)
        self._pipeline = Pipeline(self._db)
        self.server_epoch = "" if self._read_only else str(self._run(_SERVER_EPOCH, ())[0][0])

    def _reconnect(self) -> None:
        """Open a new session if the old one is broken, but never inside a transaction."""
        if self._db.closed and not self._is_inside and not self._is_snapshot:
            self._connect()

    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        """Run one statement through psycopg, after the queued writes."""
        self._flush()
        try:
            cursor = self._db.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise translate_error(error, self._db, statement) from error

    def _flush(self) -> None:
        """Send BEGIN, if it is due, and the queued writes."""
        self._reconnect()
        if self._is_inside and (self._queued or self.transaction_id is None):
            self._round_trip([])

    def _round_trip(self, statements: Sequence[Statement]) -> list[PGresult]:
        """Send the queued writes and these statements in one round trip, and return the results of these statements."""
        self._reconnect()
        opening = [_BEGIN, _IDS] if self._is_inside and self.transaction_id is None else []
        before = [*opening, *self._queued]
        self._queued = []
        sent_s = time.monotonic()
        try:
            results = self._pipeline.run([*before, *statements])
        except StatementFailed as failure:
            if failure.statement.conflict_error and isinstance(failure.error, psycopg.errors.DivisionByZero):
                raise StoreError(failure.statement.conflict_error) from failure
            raise translate_error(failure.error, self._db, failure.statement.sql) from failure
        except psycopg.Error as error:
            raise translate_error(error, self._db, [*before, *statements][-1].sql) from error
        if opening:
            xid, short_xid, pid, server_ms = self._pipeline.rows(results[1])[0]
            self.transaction_id = xid, short_xid, pid, self.server_epoch
            if self._follow is not None:
                self._follow(server_ms, sent_s)
        return results[len(before) :]

    def _in_bulk(self, sql: str, rows: Sequence[Sequence[object]]) -> Statement | None:
        """Return one statement for all rows, or None if they must be written one by one."""
        form = _bulk_form(sql)
        if form is None:
            _warn_row_by_row(sql, rows, "its shape cannot be rewritten")
            return None
        if form.key is not None and len({row[form.key] for row in rows}) < len(rows):
            _warn_row_by_row(sql, rows, "a batch named a row twice")
            return None
        types = self._types_of(form.table)
        kinds = [types[column] for column in form.columns]
        if not all(map(can_pack, kinds)):
            _warn_row_by_row(sql, rows, "a column type cannot be packed into an array")
            return None
        return Statement(
            form.over_arrays(types),
            tuple(map(array_oid, kinds)),
            tuple(map(pack_array, kinds, zip(*rows, strict=True))),
        )

    def _row_by_row(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        self._flush()
        try:
            with self._db.cursor() as cursor:
                cursor.executemany(_with_placeholders(sql), rows)
                return cursor.rowcount
        except psycopg.Error as error:
            raise translate_error(error, self._db, sql) from error

    def _types_of(self, table: str) -> dict[str, str]:
        """Return column → type of a table, queried once per session."""
        if table not in self._types:
            rows = self._run(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                (table,),
            )
            self._types[table] = dict(rows)
        return self._types[table]

    def _roll_back(self) -> None:
        # Not through psycopg, which would deallocate every prepared statement.
        with suppress(psycopg.Error, StatementFailed):
            self._pipeline.run([_ROLLBACK])

    def _commit(self) -> None:
        """Send the queued writes and COMMIT in one round trip, so that locks are held no longer than necessary."""
        if self.transaction_id is None:
            return
        try:
            (result,) = self._round_trip([_COMMIT])
        except ConnectionLost as error:
            self._is_inside = False
            if not self.was_committed(self.transaction_id):
                raise ConnectionLost("the connection broke before the COMMIT; nothing was written") from error
            return
        except StoreError:
            self._roll_back()
            raise
        if result.command_status != b"COMMIT":
            raise StoreError("a statement of the transaction had failed; nothing was written")

    def was_committed(self, transaction_id: TransactionId) -> bool:
        """Return whether a COMMIT without a response was committed, from its transaction ID.

        Raise CommitInDoubt if the server stays unavailable or has crashed: a transaction ID that a crash kept from the
        disk is assigned again, so a committed one may be that of another transaction.
        """
        xid, short_xid, pid, server_epoch = transaction_id
        give_up_s = time.monotonic() + COMMIT_LOOKUP_S
        while True:
            try:
                state = self._run("SELECT pg_xact_status(%s::text::xid8)", (xid,))[0][0]
                if state == "in progress":
                    # The server has not noticed the broken connection yet. End the session, or it would keep its locks.
                    self._run(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE pid = %s AND backend_xid = %s::text::xid",
                        (pid, short_xid),
                    )
            except StoreError as error:
                if time.monotonic() > give_up_s:
                    raise CommitInDoubt(
                        f"the connection broke during a COMMIT, and its outcome is not known yet: {error}"
                    ) from error
            else:
                if state == "committed" and self.server_epoch != server_epoch:
                    raise CommitInDoubt("the server crashed during a COMMIT, and its outcome is not known")
                if state != "in progress":
                    return bool(state == "committed")
            time.sleep(FIRST_RETRY_S)


@cache
def _with_placeholders(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


@cache
def _over_list(sql: str, lock: bool) -> str:
    return sql.replace("IN (…)", "= ANY($1)") + (" ORDER BY id FOR NO KEY UPDATE" if lock else "")


def _listing(select: SelectByIds) -> Statement:
    kind = "bigint" if isinstance(select.ids[0], int) else "text"
    values = (pack_array(kind, select.ids),)
    return Statement(_over_list(select.sql, select.lock), (array_oid(kind),), values)


@cache
def _bulk_form(sql: str) -> BulkStatement | None:
    return bulk_statement(sql)


def _warn_row_by_row(sql: str, rows: Sequence[Sequence[object]], reason: str) -> None:
    """Log once per statement and reason that several rows are written one by one, which is slow."""
    if len(rows) > 1:
        _log_once(sql, reason)


@cache
def _log_once(sql: str, reason: str) -> None:
    log.warning("rows are written one by one instead of in bulk, because %s: %s", reason, sql)


def open_postgres(url: str) -> Database:
    """Return the database at this address, not yet connected. Raise SettingsError if the address is invalid."""

    return Database(
        lambda read_only: PostgresConnection(url, read_only=read_only),
        register=partial(ProcessRegistration, url),
        name="postgres",
        where=display_address(url),
        is_shared=True,
        vanished_workers=vanished_workers,
        readers=4,
    )
