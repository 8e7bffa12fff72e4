"""Run many statements on PostgreSQL in one round trip, through libpq's pipeline mode.

Fewer round trips mean that the locks of a batch are held for less time. After a failed statement, the server skips the
remaining ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import generators, pq
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.pq.abc import PGresult

from minitoolai.storage.database import Row

_BINARY = pq.Format.BINARY
_SYNC = pq.ExecStatus.PIPELINE_SYNC
_FAILED = pq.ExecStatus.FATAL_ERROR
_INT8 = 20


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with placeholders `$1`…, the OIDs of their types, and their values in binary form."""

    sql: str
    types: tuple[int, ...] = ()
    values: tuple[bytes, ...] = ()
    #: Prepare the statement. BEGIN and COMMIT have no plan.
    repeats: bool = True
    #: Error message if the statement divides by zero, see `require_row_count`.
    conflict_error: str = ""


class StatementFailed(Exception):
    """The server rejected a statement."""

    def __init__(self, statement: Statement, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.statement = statement
        self.error = error


class Pipeline:
    """Pipeline of one session. Statements are prepared when they are first sent."""

    def __init__(self, db: psycopg.Connection[Row]) -> None:
        self._db = db
        self._loading = Transformer(db)
        self._names: dict[str, bytes] = {}
        self._prepared = 0

    def run(self, statements: Sequence[Statement]) -> list[PGresult]:
        """Run the statements and return their results, in order.

        Raise StatementFailed if the server rejects one, psycopg.Error if the session breaks.
        """
        connection = self._db.pgconn
        connection.enter_pipeline_mode()
        try:
            return self._checked(statements, self._db.wait(self._exchange(statements)))
        finally:
            if connection.status == pq.ConnStatus.OK and connection.transaction_status != pq.TransactionStatus.ACTIVE:
                connection.exit_pipeline_mode()
            else:
                # Broken, or interrupted: the next result could belong to any statement.
                self._db.close()

    def rows(self, result: PGresult) -> list[Row]:
        """Decode the rows of a SELECT."""
        self._loading.set_pgresult(result)
        return self._loading.load_rows(0, result.ntuples, tuple)

    # ── internals ────────────────────────────────────────────────────────────────────────────────────────────

    def _exchange(self, statements: Sequence[Statement]) -> PQGen[tuple[dict[str, bytes], list[PGresult]]]:
        """Send all statements and one Sync, and return the names of newly prepared statements and all results."""
        new: dict[str, bytes] = {}
        groups: list[list[PGresult]] = []
        self._send(statements, new)
        # Until the system has taken all of it. `pipeline_communicate` flushes once, and then only waits for results: a
        # batch larger than the buffers of the connection would wait for ever, and the server for its other half.
        yield from generators.send(self._db.pgconn)
        while not (groups and groups[-1][0].status == _SYNC):
            groups.append((yield from generators.fetch_many(self._db.pgconn)))
        return new, [group[0] for group in groups[:-1]]

    def _send(self, statements: Sequence[Statement], new: dict[str, bytes]) -> None:
        connection = self._db.pgconn
        for one in statements:
            if not one.repeats:
                connection.send_query_params(one.sql.encode(), None, result_format=_BINARY)
                continue
            name = self._names.get(one.sql) or new.get(one.sql)
            if name is None:
                self._prepared += 1
                name = new[one.sql] = b"minitoolai_%d" % self._prepared
                connection.send_prepare(name, one.sql.encode(), one.types)
            formats = (_BINARY,) * len(one.values)
            connection.send_query_prepared(name, one.values, formats, _BINARY)
        connection.pipeline_sync()

    def _checked(
        self, statements: Sequence[Statement], outcome: tuple[dict[str, bytes], list[PGresult]]
    ) -> list[PGresult]:
        """Return the results of the statements, without those of preparing them."""
        new, results = outcome
        remaining, checked = deque(results), []
        unprepared = dict(new)
        for one in statements:
            steps = 2 if unprepared.pop(one.sql, None) else 1
            for _ in range(steps):
                result = remaining.popleft()
                if result.status == _FAILED:
                    raise StatementFailed(one, psycopg.errors.error_from_result(result))
            checked.append(result)
            if steps == 2:
                self._names[one.sql] = new[one.sql]
        return checked


def require_row_count(update: Statement, rows: int, conflict_error: str) -> Statement:
    """Wrap an UPDATE so that PostgreSQL raises an error unless it changes exactly `rows` rows.

    It divides by zero otherwise. Needed because the COMMIT is already in the pipeline and cannot depend on the result.
    """
    sql = f"WITH done AS ({update.sql} RETURNING 1) SELECT 1 / (count(*) = ${len(update.types) + 1})::integer FROM done"
    return Statement(
        sql, (*update.types, _INT8), (*update.values, rows.to_bytes(8, "big")), conflict_error=conflict_error
    )
