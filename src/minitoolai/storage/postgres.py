"""PostgreSQL behind `Connection`: psycopg 3, synchronous, READ COMMITTED; for many processes on one database.

A COMMIT whose answer was lost is looked up by the number of its transaction. A session that broke is replaced at the
next transaction. The address holds a password and appears in no message.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.types.numeric import Int8Dumper

from minitoolai.core.errors import CommitInDoubt, ConnectionLost, SettingsError, StoreError
from minitoolai.storage.database import Database, Heard, Member, Row
from minitoolai.storage.set_based import SetBased, rewrite

#: How long the fate of a COMMIT is asked after, while its server is away.
DOUBT_S = 5.0
FIRST_RETRY_S = 0.05
#: A process that was stopped in the middle of a transaction keeps its locks for no longer than this.
FROZEN_MS = 10_000
LOCK_TIMEOUT_MS = 15_000

_SESSION = {
    "application_name": "minitoolai",
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED;"
    " SELECT pg_current_xact_id()::text, pg_current_xact_id()::xid::text, pg_backend_pid()"
)
#: Classes of SQLSTATE after which nothing more comes: connection errors, shutdown, idle in a transaction for too long.
_ENDS_THE_SESSION = ("08", "57P", "25P03", "25P04")
#: Whoever writes finds rows by their keys. A plan made while a table was new and small would scan it for ever.
_PLANS = " SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan;"
#: Whoever turned it off for the whole server did not mean money.
_DURABLE = " SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
_Fate = tuple[str, str, int]


class _WholeNumber(psycopg.adapt.Loader):
    """PostgreSQL's sum of 64-bit integers is a numeric; here it is an int again."""

    def load(self, data: Any) -> int:
        return int(bytes(data))


def connect(url: str, *, read_only: bool = False) -> psycopg.Connection[Row]:
    """A session as every part of us wants it. ConnectionLost where the server is away."""
    try:
        db = psycopg.connect(url, autocommit=True, **_SESSION)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise ConnectionLost(f"cannot reach PostgreSQL at {place(url)}: {_words(error)}") from None
    db.adapters.register_dumper(int, Int8Dumper)
    db.adapters.register_loader("numeric", _WholeNumber)
    db.prepare_threshold = 2
    try:
        db.execute(
            f"SET client_min_messages = error; SET lock_timeout = {LOCK_TIMEOUT_MS};"
            f" SET idle_in_transaction_session_timeout = {FROZEN_MS};"
            f" SET default_transaction_read_only = {'on' if read_only else 'off'};"
            f"{'' if read_only else _PLANS}{_DURABLE}"
        )
    except psycopg.Error as error:
        db.close()
        raise _translated(error, db, "SET") from error
    return db


class PostgresConnection:
    """One session, begun again when it broke. Statements are prepared by the driver once they repeat."""

    skip_locked = " FOR NO KEY UPDATE SKIP LOCKED"

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self._url = url
        self._read_only = read_only
        self._types: dict[str, dict[str, str]] = {}
        self._is_inside = False
        self._db = connect(self._url, read_only=self._read_only)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        return self._run(_with_marks(sql), parameters)

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        if not rows:
            return 0
        form = _rewritten(sql)
        if form is None or (form.key is not None and len({row[form.key] for row in rows}) < len(rows)):
            return self._row_by_row(sql, rows)
        statement = form.over_arrays(self._types_of(form.table))
        arrays = [list(column) for column in zip(*rows, strict=True)]
        try:
            return self._db.execute(statement, arrays).rowcount
        except psycopg.Error as error:
            raise _translated(error, self._db, sql) from error

    def _row_by_row(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        try:
            with self._db.cursor() as cursor:
                cursor.executemany(_with_marks(sql), rows)
                return cursor.rowcount
        except psycopg.Error as error:
            raise _translated(error, self._db, sql) from error

    def select_by_ids(self, sql: str, ids: Iterable[int | str], *, lock: bool = False) -> list[Row]:
        listed = list(ids)
        if not listed:
            return []
        return self._run(_over_list(sql, lock), (listed,))

    def notify(self, channel: str, payload: str) -> None:
        self._run("SELECT pg_notify(%s, %s)", (channel, payload))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        fate = self._begin()
        self._is_inside = True
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._is_inside = False
        self._commit(fate)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self._run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", ())
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False
            self._roll_back()

    def close(self) -> None:
        self._db.close()

    # ── within ────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        self._revive()
        try:
            cursor = self._db.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise _translated(error, self._db, statement) from error

    def _revive(self) -> None:
        """A new session where the old one is known to be gone; never in the middle of a transaction."""
        if self._db.closed and not self._is_inside:
            self._types.clear()
            self._db = connect(self._url, read_only=self._read_only)

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

    def _begin(self) -> _Fate:
        """Begin, and note the number under which the server knows this transaction."""
        self._revive()
        try:
            cursor = self._db.execute(_BEGIN)
            cursor.nextset()
            row = cursor.fetchone()
        except psycopg.Error as error:
            raise _translated(error, self._db, "BEGIN") from error
        assert row is not None, "a SELECT without a table has one row"
        return row[0], row[1], row[2]

    def _roll_back(self) -> None:
        with suppress(psycopg.Error):
            self._db.execute("ROLLBACK")

    def _commit(self, fate: _Fate) -> None:
        try:
            cursor = self._db.execute("COMMIT")
        except psycopg.Error as error:
            known = _translated(error, self._db, "COMMIT")
            if not isinstance(known, ConnectionLost):
                self._roll_back()
                raise known from error
            if not self._was_committed(fate):
                raise ConnectionLost("the connection broke before the COMMIT; nothing was written") from error
            return
        if cursor.statusmessage != "COMMIT":
            raise StoreError("a statement of the transaction had failed; nothing was written")

    def _was_committed(self, fate: _Fate) -> bool:
        """What became of a COMMIT whose answer was lost. CommitInDoubt while the server is away."""
        number, short, pid = fate
        give_up_s = time.monotonic() + DOUBT_S
        while True:
            try:
                self._revive()
                state = self._run("SELECT pg_xact_status(%s::text::xid8)", (number,))[0][0]
                if state != "in progress":
                    return bool(state == "committed")
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
            time.sleep(FIRST_RETRY_S)


@cache
def _with_marks(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


@cache
def _over_list(sql: str, lock: bool) -> str:
    return _with_marks(sql).replace("IN (…)", "= ANY(%s)") + (" ORDER BY id FOR NO KEY UPDATE" if lock else "")


@cache
def _rewritten(sql: str) -> SetBased | None:
    return rewrite(sql)


def _words(error: psycopg.Error) -> str:
    """The server's own words, on one line."""
    return " ".join((error.diag.message_primary or str(error)).split())


def _translated(error: psycopg.Error, db: psycopg.Connection[Any], sql: str) -> StoreError:
    """What a caller may know: the words, the constraint, the verb; never a parameter."""
    if db.closed or (error.sqlstate or "").startswith(_ENDS_THE_SESSION):
        db.close()
        return ConnectionLost(f"the connection to PostgreSQL broke: {_words(error)}")
    return StoreError(f"{_words(error)} in {sql.split(maxsplit=1)[0]}")


def place(url: str) -> str:
    """Where a database is, for messages: without user, password and options. SettingsError for no address."""
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's message would repeat parts of the address.
        raise SettingsError(
            "MINITOOLAI_DATABASE_URL is no address of a PostgreSQL database; "
            "write it like postgresql://user:password@host:5432/minitoolai, with special characters as %XX"
        ) from None
    host = parts.get("host") or "the local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{host}{port}/{parts.get('dbname') or ''}"


def open_postgres(url: str) -> Database:
    """The database at this address. SettingsError where it is no address; nothing is connected yet."""

    def join(channels: Sequence[str], heard: Heard) -> Member:
        from minitoolai.storage.presence import Presence

        return Presence(url, channels, heard)

    return Database(
        lambda read_only: PostgresConnection(url, read_only=read_only),
        join=join,
        name="postgres",
        where=place(url),
        is_shared=True,
        readers=4,
    )
