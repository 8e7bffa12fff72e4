"""Sessions of PostgreSQL: how they are opened, what their errors mean to us, and what may be said of their address.

The address holds a password and appears in no message.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.types.numeric import Int8Dumper

from minitoolai.core.errors import ConnectionLost, SettingsError, StoreError
from minitoolai.storage.database import Heard, Row

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
#: Classes of SQLSTATE after which nothing more comes: connection errors, shutdown, idle in a transaction for too long.
_ENDS_THE_SESSION = ("08", "57P", "25P03", "25P04")
#: Whoever writes finds rows by their keys. A plan made while a table was new and small would scan it for ever.
_PLANS = (
    " SET enable_seqscan = off; SET enable_mergejoin = off; SET enable_memoize = off;"
    " SET plan_cache_mode = force_generic_plan;"
)
#: Whoever turned it off for the whole server did not mean money.
_DURABLE = " SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


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
            f"SET client_min_messages = error; SET jit = off; SET lock_timeout = {LOCK_TIMEOUT_MS};"
            f" SET idle_in_transaction_session_timeout = {FROZEN_MS};"
            f" SET default_transaction_read_only = {'on' if read_only else 'off'};"
            f"{'' if read_only else _PLANS}{_DURABLE}"
        )
    except psycopg.Error as error:
        db.close()
        raise translated(error, db, "SET") from error
    return db


def _words(error: psycopg.Error) -> str:
    """The server's own words, on one line."""
    return " ".join((error.diag.message_primary or str(error)).split())


def translated(error: psycopg.Error, db: psycopg.Connection[Any], sql: str) -> StoreError:
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


# (merged from presence) One session that stands for a process among the others on a PostgreSQL database: its number and its ear.
# (merged from presence)
# (merged from presence) The number is an advisory lock: nobody else has it while the session lives. What is heard is only ever a hint to look
# (merged from presence) again; after a lost session anything may have been missed, and the listener is told so.

log = logging.getLogger(__name__)

#: The first half of the advisory locks for numbers; "mtai".
_LOCKS = 0x6D746169
#: As many as fit into an identifier.
NUMBERS = 256
RETRY_S = 0.5


class ProcessRegistration:
    """Held from `start` to `stop`. `heard` is called in a thread of its own."""

    def __init__(self, url: str, channels: Sequence[str], heard: Heard) -> None:
        self._url = url
        self._channels = channels
        self._heard = heard
        self._stopping = threading.Event()
        self._session: psycopg.Connection[Row] | None = None
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)
        self.number = -1

    def start(self) -> int:
        """Our number among all processes. StoreError where the server is away or all numbers are taken."""
        self._begin()
        self._thread.start()
        return self.number

    def stop(self) -> None:
        """Give the number back."""
        self._stopping.set()
        self._thread.join()

    def _begin(self) -> None:
        session = connect(self._url)
        try:
            self.number = self._claim(session)
            for channel in self._channels:
                session.execute(f"LISTEN {channel}")
        except BaseException:
            session.close()
            raise
        self._session = session

    def _claim(self, session: psycopg.Connection[Row]) -> int:
        """The number we had, if it is still free; otherwise the lowest."""
        number: int
        for number in (self.number, *range(NUMBERS)):
            if number >= 0:
                row = session.execute("SELECT pg_try_advisory_lock(%s::int, %s::int)", (_LOCKS, number)).fetchone()
                if row == (True,):
                    return number
        raise StoreError(f"{NUMBERS} processes work on this database already; stop one of them")

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._session is None:
                    self._begin()
                    self._heard(None, None)
                self._listen()
            except (psycopg.Error, StoreError) as error:
                if not isinstance(error, ConnectionLost):
                    log.warning("listening was interrupted: %s", error)
                self._end()
                self._stopping.wait(RETRY_S)
        self._end()

    def _listen(self) -> None:
        assert self._session is not None, "begun above"
        for said in self._session.notifies(timeout=0.5):
            self._heard(said.channel, said.payload)

    def _end(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
