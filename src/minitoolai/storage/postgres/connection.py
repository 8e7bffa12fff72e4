"""PostgreSQL behind `Connection`: psycopg 3, synchronous, READ COMMITTED; for many processes on one database.

A COMMIT whose answer was lost is looked up by the number of its transaction. A session that broke is replaced at the
next transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache

import psycopg
from psycopg.pq.abc import PGresult

from minitoolai.core.errors import CommitInDoubt, ConnectionLost, StoreError
from minitoolai.storage.database import Database, Heard, Member, Row, SelectByIds
from minitoolai.storage.postgres import bulk as arrays
from minitoolai.storage.postgres.bulk import SetBased, rewrite
from minitoolai.storage.postgres.pipeline import Failure, Pipeline, Statement, require_row_count
from minitoolai.storage.postgres.session import connect, place, translated

#: How long the fate of a COMMIT is asked after, while its server is away.
DOUBT_S = 5.0
FIRST_RETRY_S = 0.05
_BEGIN = Statement("BEGIN ISOLATION LEVEL READ COMMITTED", repeats=False)
#: The number under which the server knows this transaction, whole and short, and the session's.
_NUMBERS = Statement("SELECT pg_current_xact_id()::text, pg_current_xact_id()::xid::text, pg_backend_pid()")
#: The server's life: its statistics begin anew after a crash, and not after an orderly stop.
_LIFE = "SELECT stats_reset::text FROM pg_stat_wal"
_COMMIT = Statement("COMMIT", repeats=False)
_ROLLBACK = Statement("ROLLBACK", repeats=False)
_WHOLE_TABLES = (
    "SET LOCAL enable_nestloop = off; SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on;"
    " SET LOCAL enable_mergejoin = on"
)
_Fate = tuple[str, str, int, str]


class PostgresConnection:
    """One session, begun again when it broke.

    A transaction begins with its first statement, and what is only to be written goes with its COMMIT.
    """

    skip_locked = " FOR NO KEY UPDATE SKIP LOCKED"

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url = url
        self._read_only = read_only
        self._types: dict[str, dict[str, str]] = {}
        self._is_inside = False
        #: Of the transaction under way: what is to be sent before anything else, and what the server calls it.
        self._queued: list[Statement] = []
        self.fate: _Fate | None = None
        self._connect()

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        return self._run(_with_marks(sql), parameters)

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        if not rows:
            return 0
        statement = self._over_arrays(sql, rows)
        if statement is None:
            return self._row_by_row(sql, rows)
        return self._ask([statement])[0].command_tuples or 0

    def queue_write(self, sql: str, rows: Sequence[Sequence[object]], *, otherwise: str = "") -> None:
        statement = self._over_arrays(sql, rows) if rows else None
        if statement is not None and self._is_inside:
            self._queued.append(require_row_count(statement, len(rows), otherwise) if otherwise else statement)
        elif self.execute_many(sql, rows) < len(rows) and otherwise:
            raise StoreError(otherwise)

    def select_by_ids(self, sql: str, ids: Iterable[int | str], *, lock: bool = False) -> list[Row]:
        return self.select_many(SelectByIds(sql, list(ids), lock))[0]

    def select_many(self, *questions: SelectByIds) -> list[list[Row]]:
        answers: list[list[Row]] = [[] for _ in questions]
        asked = {place: _listing(one) for place, one in enumerate(questions) if one.ids}
        if asked:
            for place, result in zip(asked, self._ask(list(asked.values())), strict=True):
                answers[place] = self._pipeline.rows(result)
        return answers

    def notify(self, channel: str, payload: str) -> None:
        self._run("SELECT pg_notify(%s, %s)", (channel, payload))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._revive()
        self._queued, self.fate, self._is_inside = [], None, True
        try:
            yield
            if self._queued and self.fate is None:
                # No COMMIT goes out for a transaction whose number we do not know.
                self._ask([])
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
        # Whoever wants a snapshot looks at everything, and statistics may be from when there was little:
        # a nested loop over whole tables would never end.
        self._run(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_WHOLE_TABLES}", ())
        self._is_snapshot = True
        try:
            yield
        finally:
            self._is_snapshot = False
            self._roll_back()

    def close(self) -> None:
        self._db.close()

    # ── within ────────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> None:
        self._types.clear()
        self._is_snapshot = False
        self._db = connect(self._url, read_only=self._read_only)
        self._pipeline = Pipeline(self._db)
        self.life = "" if self._read_only else str(self._run(_LIFE, ())[0][0])

    def _revive(self) -> None:
        """A new session where the old one is known to be gone; never in the middle of a transaction."""
        if self._db.closed and not self._is_inside and not self._is_snapshot:
            self._connect()

    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        """By the driver, once everything before it is sent."""
        self._flush()
        try:
            cursor = self._db.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise translated(error, self._db, statement) from error

    def _flush(self) -> None:
        """Before the driver has its turn: what is queued is sent, and a transaction has begun."""
        self._revive()
        if self._is_inside and (self._queued or self.fate is None):
            self._ask([])

    def _ask(self, statements: Sequence[Statement]) -> list[PGresult]:
        """In one round trip: what is queued, then these; the results of these."""
        self._revive()
        opening = [_BEGIN, _NUMBERS] if self._is_inside and self.fate is None else []
        before = [*opening, *self._queued]
        self._queued = []
        try:
            results = self._pipeline.run([*before, *statements])
        except Failure as failure:
            if failure.statement.otherwise and isinstance(failure.error, psycopg.errors.DivisionByZero):
                raise StoreError(failure.statement.otherwise) from failure
            raise translated(failure.error, self._db, failure.statement.sql) from failure
        except psycopg.Error as error:
            raise translated(error, self._db, [*before, *statements][-1].sql) from error
        if opening:
            number, short, pid = self._pipeline.rows(results[1])[0]
            self.fate = number, short, pid, self.life
        return results[len(before) :]

    def _over_arrays(self, sql: str, rows: Sequence[Sequence[object]]) -> Statement | None:
        """One statement for all rows; None where they must be written one after the other."""
        form = _rewritten(sql)
        if form is None or (form.key is not None and len({row[form.key] for row in rows}) < len(rows)):
            return None
        types = self._types_of(form.table)
        kinds = [types[column] for column in form.columns]
        if not all(map(arrays.is_known, kinds)):
            return None
        return Statement(
            form.over_arrays(types),
            tuple(map(arrays.array_type, kinds)),
            tuple(map(arrays.packed, kinds, zip(*rows, strict=True))),
        )

    def _row_by_row(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        self._flush()
        try:
            with self._db.cursor() as cursor:
                cursor.executemany(_with_marks(sql), rows)
                return cursor.rowcount
        except psycopg.Error as error:
            raise translated(error, self._db, sql) from error

    def _types_of(self, table: str) -> dict[str, str]:
        """Column → type, asked for once a session."""
        if table not in self._types:
            rows = self._run(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                (table,),
            )
            self._types[table] = dict(rows)
        return self._types[table]

    def _roll_back(self) -> None:
        # Not by the driver's own way: that makes the server forget every prepared statement.
        with suppress(psycopg.Error, Failure):
            self._pipeline.run([_ROLLBACK])

    def _commit(self) -> None:
        """Send what is queued, and COMMIT: in one round trip, behind which nobody waits for us."""
        if self.fate is None:
            return
        try:
            (result,) = self._ask([_COMMIT])
        except ConnectionLost as error:
            self._is_inside = False
            if not self.was_committed(self.fate):
                raise ConnectionLost("the connection broke before the COMMIT; nothing was written") from error
            return
        except StoreError:
            self._roll_back()
            raise
        if result.command_status != b"COMMIT":
            raise StoreError("a statement of the transaction had failed; nothing was written")

    def was_committed(self, fate: _Fate) -> bool:
        """What became of a COMMIT whose answer was lost. CommitInDoubt while the server is away, and after its crash.

        A number that a crash kept from the disk is given to another transaction: that one's COMMIT is not ours.
        """
        number, short, pid, life = fate
        give_up_s = time.monotonic() + DOUBT_S
        while True:
            try:
                state = self._run("SELECT pg_xact_status(%s::text::xid8)", (number,))[0][0]
                if state == "in progress":
                    # Its session does not know yet that we are gone, and would keep its locks until it does.
                    self._run(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE pid = %s AND backend_xid = %s::text::xid",
                        (pid, short),
                    )
            except StoreError as error:
                if time.monotonic() > give_up_s:
                    raise CommitInDoubt(
                        f"the connection broke during a COMMIT, and its fate is not known yet: {error}"
                    ) from error
            else:
                if state == "committed" and self.life != life:
                    raise CommitInDoubt("the server crashed during a COMMIT; whether it was written is not known")
                if state != "in progress":
                    return bool(state == "committed")
            time.sleep(FIRST_RETRY_S)


@cache
def _with_marks(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


@cache
def _over_list(sql: str, lock: bool) -> str:
    return sql.replace("IN (…)", "= ANY($1)") + (" ORDER BY id FOR NO KEY UPDATE" if lock else "")


def _listing(question: SelectByIds) -> Statement:
    kind = "bigint" if isinstance(question.ids[0], int) else "text"
    values = (arrays.packed(kind, question.ids),)
    return Statement(_over_list(question.sql, question.lock), (arrays.array_type(kind),), values)


@cache
def _rewritten(sql: str) -> SetBased | None:
    return rewrite(sql)


def open_postgres(url: str) -> Database:
    """The database at this address. SettingsError where it is no address; nothing is connected yet."""

    def join(channels: Sequence[str], heard: Heard) -> Member:
        from minitoolai.storage.postgres.session import ProcessRegistration

        return ProcessRegistration(url, channels, heard)

    return Database(
        lambda read_only: PostgresConnection(url, read_only=read_only),
        join=join,
        name="postgres",
        where=place(url),
        is_shared=True,
        readers=4,
    )
