"""Open PostgreSQL sessions, translate their errors, and register this process to receive notifications (LISTEN).

The address contains a password, so it never appears in a message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.types.numeric import Int8Dumper

from minitoolai.core.clock import wall_s
from minitoolai.core.errors import ConnectionLost, QueryTimeout, SettingsError, StoreError
from minitoolai.storage.database import ClockOffset, Connection, OnNotify, Row, offset_of

#: The server ends a transaction that is idle for this long, so that a frozen process does not keep its locks.
IDLE_TRANSACTION_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 15_000

#: Our side of a session: give up on a server that does not acknowledge what we sent for this long. A long statement is
#: not affected, because the server's kernel acknowledges it.
SILENCE_LIMIT_S = 3
_SESSION = {
    "application_name": "minitoolai",
    "connect_timeout": SILENCE_LIMIT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    # Less, because the statement ends up to 0.4 s after it.
    "tcp_user_timeout": SILENCE_LIMIT_S * 1000 - 500,
}
#: The server's side: end a session if its machine lost power or its network. By default that takes two hours, in which
#: its place, its locks and its process number stay taken.
_SERVER_SIDE = (
    " SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;"
    " SET tcp_user_timeout = 15000;"
)
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


#: Address with several servers → the order in which to try them next.
_orders: dict[str, tuple[tuple[str, str], ...]] = {}


def _connect_to_any(url: str, *, autocommit: bool) -> psycopg.Connection[Row]:
    """Connect, to the server that answered last before the others of the address.

    A server that lost its power takes SILENCE_LIMIT_S to try. So after a failover only the first session waits for it.
    """
    order = servers_of(url)
    if len(order) < 2:
        return psycopg.connect(url, autocommit=autocommit, **_SESSION)  # type: ignore[arg-type]
    hosts, ports = (",".join(part) for part in zip(*order, strict=True))
    try:
        db = psycopg.connect(url, autocommit=autocommit, host=hosts, port=ports, **_SESSION)  # type: ignore[arg-type]
    except psycopg.Error:
        # None could be written. Begin with another one, unless a session has found out more meanwhile.
        if servers_of(url) == order:
            _orders[url] = order[1:] + order[:1]
        raise
    answered = (db.info.host, str(db.info.port))
    if answered in order:
        _orders[url] = (answered, *(server for server in order if server != answered))
    return db


def servers_of(url: str) -> tuple[tuple[str, str], ...]:
    """Return host and port of each server of an address, in the order in which to try them. Empty for a socket."""
    order = _orders.get(url)
    if order is None:
        parts = conninfo.conninfo_to_dict(url)
        hosts, ports = str(parts.get("host") or "").split(","), str(parts.get("port") or "5432").split(",")
        if len(ports) == 1:
            ports *= len(hosts)
        # An address that libpq refuses is left to it, and so is one with numeric addresses beside the names.
        is_usual = len(ports) == len(hosts) and all(hosts) and not parts.get("hostaddr")
        order = _orders[url] = tuple(zip(hosts, ports, strict=True)) if is_usual else ()
    return order


def open_session(url: str, *, autocommit: bool = False) -> psycopg.Connection[Row]:
    """Open a session that ends soon after either side has vanished. Raise psycopg.Error."""
    db = _connect_to_any(url, autocommit=autocommit)
    db.execute(_SERVER_SIDE)
    if not autocommit:
        db.commit()
    return db


def connect(url: str, *, read_only: bool = False) -> psycopg.Connection[Row]:
    """Open a session with our settings. Raise ConnectionLost if the server is unavailable."""
    try:
        db = _connect_to_any(url, autocommit=True)
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
            f"{_SERVER_SIDE}{'' if read_only else _PLANS}{_DURABLE}"
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
#: Ask the server for the time this often, to see that it answers and that the clocks agree.
ASK_EVERY_S = 1.0
#: Not ready without an answer for this long: seen by a balancer that asks each half second within 3 s of the loss.
ANSWER_LIMIT_S = 2.5
_CLOCK_AND_ROLE = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, pg_is_in_recovery()"


class ProcessRegistration:
    """Session that registers this process on a shared database, holds its number and listens for notifications.

    The process number is an advisory lock, so it is unique while the session lives. Notifications (publish/subscribe)
    are only hints to read again: some may be lost with a session, which `on_notify(None, None)` reports. `on_notify`
    is called in a separate thread.
    """

    def __init__(self, url: str, channels: Sequence[str], on_notify: OnNotify, *, is_numbered: bool = True) -> None:
        """Create it. Without `is_numbered` it takes no process number: for processes that make no IDs."""
        self._url = url
        self._is_numbered = is_numbered
        #: Whether to receive notifications now, and whether the session does.
        self._wants_to_listen = True
        self._is_listening = False
        self._channels = channels
        self._heard = on_notify
        self._stopping = threading.Event()
        self._session: psycopg.Connection[Row] | None = None
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)
        self.number = -1
        self._answered_s = self._opened_s = time.monotonic()
        self.clock_offset: ClockOffset | None = None
        #: The server's process ID of this session, by which others see that this process lives. 0: there is none now.
        self.session_pid = 0

    def session_age_s(self) -> float:
        """Return the seconds since the session was opened, 0 if there is none now."""
        return time.monotonic() - self._opened_s if self.session_pid else 0.0

    def listen(self, wanted: bool) -> None:
        """Receive notifications or not, within half a second. Each listening session costs the server some work."""
        self._wants_to_listen = wanted

    def why_not_ready(self) -> str | None:
        """Return why requests cannot be served, as far as the database tells, or None if they can."""
        if time.monotonic() - self._answered_s > ANSWER_LIMIT_S:
            return f"the database has not answered for {ANSWER_LIMIT_S:g} s"
        if self.clock_offset is not None and self.clock_offset.is_wrong:
            return f"{self.clock_offset.describe()}; synchronise it (NTP)"
        return None

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
            if self._is_numbered:
                self.number = self._claim(session)
            self._is_listening = False
            self._follow_wish(session)
            self._ask(session)
        except BaseException:
            session.close()
            raise
        self._session = session
        self._opened_s = time.monotonic()
        self.session_pid = session.info.backend_pid

    def _ask(self, session: psycopg.Connection[Row]) -> None:
        """Ask for the time. A server that only reads, because another took over, is as good as away."""
        before_s, began_s = wall_s(), time.monotonic()
        row = session.execute(_CLOCK_AND_ROLE).fetchone()
        assert row is not None, "one row"
        if row[1]:
            raise ConnectionLost("this PostgreSQL server is a standby, which cannot be written")
        self._answered_s = time.monotonic()
        self.clock_offset = offset_of(row[0], before_s, self._answered_s - began_s)

    def _follow_wish(self, session: psycopg.Connection[Row]) -> None:
        if self._is_listening != self._wants_to_listen:
            self._is_listening = self._wants_to_listen
            for channel in self._channels:
                session.execute(f"{'LISTEN' if self._is_listening else 'UNLISTEN'} {channel}")

    def _claim(self, session: psycopg.Connection[Row]) -> int:
        """Return the previous process number if it is still free, otherwise the lowest free one."""
        number: int
        for number in (self.number, *range(MAX_PROCESSES)):
            if number >= 0:
                row = session.execute("SELECT pg_try_advisory_lock(%s::int, %s::int)", (_LOCKS, number)).fetchone()
                if row == (True,):
                    return number
        raise StoreError(
            f"{MAX_PROCESSES} processes already serve this database, and there are no more numbers for their IDs; stop"
            " one of them, or use fewer and larger ones (minitoolai worker needs no number)"
        )

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
        self._follow_wish(self._session)
        if time.monotonic() - self._answered_s >= ASK_EVERY_S:
            self._ask(self._session)
        # It returns after this time, or after the first notifications.
        for notification in self._session.notifies(timeout=0.5, stop_after=1):
            self._heard(notification.channel, notification.payload)

    def _close(self) -> None:
        self.session_pid = 0
        if self._session is not None:
            self._session.close()
            self._session = None


def vanished_workers(db: Connection) -> set[str]:
    """Return the registered workers that have no session any more.

    The session of a process that was killed ends immediately; that of a machine without power after some seconds.
    """
    rows = db.execute(
        "SELECT name FROM workers WHERE presence IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM pg_stat_activity AS a WHERE a.pid = workers.presence)"
    )
    return {row[0] for row in rows}
