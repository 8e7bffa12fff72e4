"""Many statements to PostgreSQL in one round trip, over the pipeline mode of libpq.

Whoever holds the locks of a batch waits for nothing but the server: what can be asked together is, and what is only
to be written goes with the COMMIT. After a failure the server passes over the rest.
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
    """SQL with marks `$1`…, the numbers of their types, and their values in binary form."""

    sql: str
    types: tuple[int, ...] = ()
    values: tuple[bytes, ...] = ()
    #: Worth preparing. BEGIN and COMMIT have no plan.
    repeats: bool = True
    #: What it means that this one divides by zero; see `surely`.
    otherwise: str = ""


class Failure(Exception):
    """The server refused a statement: which one, and its words."""

    def __init__(self, statement: Statement, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.statement = statement
        self.error = error


class Pipeline:
    """The round trips of one session. Statements are prepared when they are first sent."""

    def __init__(self, db: psycopg.Connection[Row]) -> None:
        self._db = db
        self._loading = Transformer(db)
        self._names: dict[str, bytes] = {}
        self._drawn = 0

    def run(self, statements: Sequence[Statement]) -> list[PGresult]:
        """The result of each, in order. Failure where one was refused, psycopg.Error where the session broke."""
        connection = self._db.pgconn
        connection.enter_pipeline_mode()
        try:
            return self._checked(statements, self._db.wait(self._exchange(statements)))
        finally:
            if connection.status == pq.ConnStatus.OK and connection.transaction_status != pq.TransactionStatus.ACTIVE:
                connection.exit_pipeline_mode()
            else:
                # Broken, or left in the middle: nobody could tell what the next answer belongs to.
                self._db.close()

    def rows(self, result: PGresult) -> list[Row]:
        """What a SELECT gave."""
        self._loading.set_pgresult(result)
        return self._loading.load_rows(0, result.ntuples, tuple)

    # ── within ────────────────────────────────────────────────────────────────────────────────────────────

    def _exchange(self, statements: Sequence[Statement]) -> PQGen[tuple[dict[str, bytes], list[PGresult]]]:
        """Send all and one Sync; the names given to what is new, and every result but the Sync's."""
        new: dict[str, bytes] = {}
        commands = deque([lambda: self._send(statements, new)])
        groups = yield from generators.pipeline_communicate(self._db.pgconn, commands)
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
                self._drawn += 1
                name = new[one.sql] = b"minitoolai_%d" % self._drawn
                connection.send_prepare(name, one.sql.encode(), one.types)
            formats = (_BINARY,) * len(one.values)
            connection.send_query_prepared(name, one.values, formats, _BINARY)
        connection.pipeline_sync()

    def _checked(
        self, statements: Sequence[Statement], outcome: tuple[dict[str, bytes], list[PGresult]]
    ) -> list[PGresult]:
        """The results of what was asked, without those of its preparation."""
        new, results = outcome
        left, answers = deque(results), []
        unprepared = dict(new)
        for one in statements:
            steps = 2 if unprepared.pop(one.sql, None) else 1
            for _ in range(steps):
                result = left.popleft()
                if result.status == _FAILED:
                    raise Failure(one, psycopg.errors.error_from_result(result))
            answers.append(result)
            if steps == 2:
                self._names[one.sql] = new[one.sql]
        return answers


def require_row_count(update: Statement, rows: int, otherwise: str) -> Statement:
    """The same, refused by the server itself unless it changes so many rows: a COMMIT may follow unseen."""
    sql = f"WITH done AS ({update.sql} RETURNING 1) SELECT 1 / (count(*) = ${len(update.types) + 1})::integer FROM done"
    return Statement(sql, (*update.types, _INT8), (*update.values, rows.to_bytes(8, "big")), otherwise=otherwise)
