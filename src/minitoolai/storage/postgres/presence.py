"""One session that stands for a process among the others on a PostgreSQL database: its number and its ear.

The number is an advisory lock: nobody else has it while the session lives. What is heard is only ever a hint to look
again; after a lost session anything may have been missed, and the listener is told so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import psycopg

from minitoolai.core.errors import ConnectionLost, StoreError
from minitoolai.storage.database import Heard, Row
from minitoolai.storage.postgres.session import connect

log = logging.getLogger(__name__)

#: The first half of the advisory locks for numbers; "mtai".
_LOCKS = 0x6D746169
#: As many as fit into an identifier.
NUMBERS = 256
RETRY_S = 0.5


class Presence:
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
