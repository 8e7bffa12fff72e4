"""Open PostgreSQL sessions, translate their errors, and register this process to receive notifications (LISTEN).

The address contains a password, so it never appears in a message.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.types.numeric import Int8Dumper

from minitoolai.core.errors import ConnectionLost, QueryTimeout, SettingsError, StoreError
from minitoolai.storage.database import OnNotify, Row

#: The server ends a transaction that is idle for this long, so that a frozen process does not keep its locks.
IDLE_TRANSACTION_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 15_000

_SESSION = {
    "application_name": "minitoolai",
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
#: SQLSTATE prefixes after which the session is gone: connection errors, shutdown, idle in transaction.
_ENDS_THE_SESSION = ("08", "57P", "25P03", "25P04")
#: Writers find rows by key. A generic plan made while a table was small would keep scanning it.
_PLANS = (
    " SET enable_seqscan = off; SET enable_mergejoin = off; SET enable_memoize = off;"
    " SET plan_cache_mode = force_generic_plan;"
)
#: Enable durable commits even if they are disabled for the whole server: this is a ledger.
_DURABLE = " SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


class _WholeNumber(psycopg.adapt.Loader):
    """Load numeric values as int: PostgreSQL's sum() of 64-bit integers is numeric."""

    def load(self, data: Any) -> int:
        return int(bytes(data))


def connect(url: str, *, read_only: bool = False) -> psycopg.Connection[Row]:
    """Open a session with our settings. Raise ConnectionLost if the server is unavailable."""
    try:
        db = psycopg.connect(url, autocommit=True, **_SESSION)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise ConnectionLost(f"cannot reach PostgreSQL at {display_address(url)}: {_server_message(error)}") from None
    db.adapters.register_dumper(int, Int8Dumper)
    db.adapters.register_loader("numeric", _WholeNumber)
    db.prepare_threshold = 2
    try:
        db.execute(
            f"SET client_min_messages = error; SET jit = off; SET lock_timeout = {LOCK_TIMEOUT_MS};"
            f" SET idle_in_transaction_session_timeout = {IDLE_TRANSACTION_TIMEOUT_MS};"
            f" SET default_transaction_read_only = {'on' if read_only else 'off'};"
            f"{'' if read_only else _PLANS}{_DURABLE}"
        )
    except psycopg.Error as error:
        db.close()
        raise translate_error(error, db, "SET") from error
    return db


def _server_message(error: psycopg.Error) -> str:
    """Return the server's message on one line."""
    return " ".join((error.diag.message_primary or str(error)).split())


def translate_error(error: psycopg.Error, db: psycopg.Connection[Any], sql: str) -> StoreError:
    """Turn a psycopg error into ConnectionLost, QueryTimeout or StoreError. The message never contains parameters."""
    if db.closed or (error.sqlstate or "").startswith(_ENDS_THE_SESSION):
        db.close()
        return ConnectionLost(f"the connection to PostgreSQL broke: {_server_message(error)}")
    kind = QueryTimeout if isinstance(error, psycopg.errors.QueryCanceled) else StoreError
    return kind(f"{_server_message(error)} in {sql.split(maxsplit=1)[0]}")


def display_address(url: str) -> str:
    """Return host, port and database name for messages, without user, password and options.

    Raise SettingsError if the address is invalid.
    """
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's message would contain parts of the address.
        raise SettingsError(
            "MINITOOLAI_DATABASE_URL is not a PostgreSQL address; "
            "write it like postgresql://user:password@host:5432/minitoolai, with special characters as %XX"
        ) from None
    host = parts.get("host") or "the local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{host}{port}/{parts.get('dbname') or ''}"


# ── process registration ──────────────────────────────────────────────────────────────────────────────────────────

log = logging.getLogger(__name__)

#: First half of the advisory lock IDs of process numbers; spells "mtai".
_LOCKS = 0x6D746169
#: As many process numbers as fit into an ID.
MAX_PROCESSES = 256
RETRY_S = 0.5


class ProcessRegistration:
    """Session that registers this process on a shared database, holds its number and listens for notifications.

    The process number is an advisory lock, so it is unique while the session lives. Notifications (publish/subscribe)
    are only hints to read again: some may be lost with a session, which `on_notify(None, None)` reports. `on_notify`
    is called in a separate thread.
    """

    def __init__(self, url: str, channels: Sequence[str], on_notify: OnNotify) -> None:
        self._url = url
        self._channels = channels
        self._heard = on_notify
        self._stopping = threading.Event()
        self._session: psycopg.Connection[Row] | None = None
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)
        self.number = -1

    def start(self) -> int:
        """Register and return the process number. Raise StoreError if the server is away or no number is free."""
        self._open()
        self._thread.start()
        return self.number

    def stop(self) -> None:
        """Release the process number."""
        self._stopping.set()
        self._thread.join()

    def _open(self) -> None:
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
        """Return the previous process number if it is still free, otherwise the lowest free one."""
        number: int
        for number in (self.number, *range(MAX_PROCESSES)):
            if number >= 0:
                row = session.execute("SELECT pg_try_advisory_lock(%s::int, %s::int)", (_LOCKS, number)).fetchone()
                if row == (True,):
                    return number
        raise StoreError(f"{MAX_PROCESSES} processes already use this database; stop one of them")

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._session is None:
                    self._open()
                    self._heard(None, None)
                self._listen()
            except (psycopg.Error, StoreError) as error:
                if not isinstance(error, ConnectionLost):
                    log.warning("listening for notifications was interrupted, will reconnect: %s", error)
                self._close()
                self._stopping.wait(RETRY_S)
        self._close()

    def _listen(self) -> None:
        assert self._session is not None, "opened above"
        for notification in self._session.notifies(timeout=0.5):
            self._heard(notification.channel, notification.payload)

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
