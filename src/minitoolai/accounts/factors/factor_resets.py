"""Remove all second factors of a user without device or recovery codes (decision 0037).

The password comes first, then the mailbox, then a waiting period, during which every session and every e-mail can stop
it. A sign-in with a second factor stops it, too. Admins of the site ask the operator instead.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from minitoolai.core.clock import MS_PER_DAY, Clock
from minitoolai.core.models import User
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import factor_resets, users
from minitoolai.storage.tables.factor_resets import FactorReset
from minitoolai.storage.writer import Writer

HOUR_MS = 3600 * 1000
#: How long the mailbox may confirm, and how long a removal that is ready may be finished.
CONFIRM_MS, FINISH_MS = 24 * HOUR_MS, 7 * MS_PER_DAY
#: The mailbox can replace the password. After a replacement within this time, the waiting period is longer.
RECENT_RESET_MS, LONG_WAIT_FACTOR = 30 * MS_PER_DAY, 4
BATCH = 50
#: What became of a request: it was started, the operator must be asked, or an earlier one is waiting.
Start = Literal["started", "operator", "waiting"]


class DueMail(NamedTuple):
    """An e-mail about a removal that is waiting or ready."""

    reset: FactorReset
    user: User
    is_ready: bool


class FactorResets:
    """Start, confirm, stop and finish removals of second factors."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, wait_hours: int) -> None:
        """`wait_hours`: the waiting period. 0: only the operator removes second factors."""
        self._database = database
        self._writer = writer
        self._clock = clock
        self._wait_ms = wait_hours * HOUR_MS

    @property
    def is_open(self) -> bool:
        return self._wait_ms > 0

    async def start(self, user: User) -> tuple[Start, FactorReset | None]:
        """Start a removal after the user has proved the password. One that is confirmed goes on instead."""
        if not self.is_open or user.is_admin:
            return "operator", None
        now_ms = self._clock.now_ms()
        new = FactorReset(user.user_id, self._clock.new_id(), now_ms, None, None, None, now_ms + CONFIRM_MS)

        def change(connection: Connection) -> tuple[Start, FactorReset]:
            present = factor_resets.of_user(connection, user.user_id, now_ms)
            if present is not None and present.confirmed_ms is not None:
                return "waiting", present
            factor_resets.replace(connection, new)
            return "started", new

        outcome: tuple[Start, FactorReset] = await self._writer.run(change)
        return outcome

    async def find(self, reset_id: int) -> tuple[FactorReset, User] | None:
        """Return the removal of a link with its user, or None if it was stopped, finished or has expired."""
        return await self._database.read_async(_find, reset_id, self._clock.now_ms())

    async def of_user(self, user: User) -> FactorReset | None:
        """Return the removal of a user, or None."""
        return await self._database.read_async(factor_resets.of_user, user.user_id, self._clock.now_ms())

    async def confirm(self, reset_id: int) -> FactorReset | None:
        """Begin the waiting period, as the mailbox has confirmed. None if the link is not valid."""
        now_ms = self._clock.now_ms()

        def change(connection: Connection) -> FactorReset | None:
            found = factor_resets.find(connection, reset_id, now_ms)
            if found is None or found.confirmed_ms is not None:
                return found
            replaced_ms = users.password_reset_ms_of(connection, found.user_id)
            is_recent = replaced_ms is not None and replaced_ms > now_ms - RECENT_RESET_MS
            ready_ms = now_ms + self._wait_ms * (LONG_WAIT_FACTOR if is_recent else 1)
            confirmed = found._replace(
                confirmed_ms=now_ms, ready_ms=ready_ms, next_mail_ms=now_ms, expires_ms=ready_ms + FINISH_MS
            )
            factor_resets.set_times(connection, confirmed)
            return confirmed

        confirmed: FactorReset | None = await self._writer.run(change)
        return confirmed

    async def stop(self, user_id: int) -> bool:
        """Discard a removal. Return False if there is none."""
        return bool(await self._writer.run(lambda connection: factor_resets.delete(connection, user_id)))

    async def finish(self, reset_id: int) -> User | None:
        """Remove all second factors and end all sessions, if the waiting period is over. None if not."""
        now_ms = self._clock.now_ms()

        def change(connection: Connection) -> User | None:
            found = _find(connection, reset_id, now_ms)
            if found is None or found[1].is_admin or found[0].ready_ms is None or found[0].ready_ms > now_ms:
                return None
            user_id = found[0].user_id
            factor_resets.delete(connection, user_id)
            users.delete_factors(connection, user_id)
            users.end_sessions(connection, user_id)
            return found[1]

        user: User | None = await self._writer.run(change)
        return user

    async def claim_mail(self) -> list[DueMail]:
        """Return the e-mails that are due: one each day of the waiting period, and one when it is over.

        Each is sent at most once: the time of the next one is stored before.
        """
        now_ms = self._clock.now_ms()
        if not await self._database.read_async(factor_resets.has_due, now_ms):
            return []

        def change(connection: Connection) -> list[DueMail]:
            mails = []
            for reset in factor_resets.due(connection, now_ms, BATCH):
                found = users.find_user_of(connection, reset.user_id)
                assert reset.ready_ms is not None, "only a confirmed removal has e-mails due"
                is_ready = reset.ready_ms <= now_ms
                next_ms = None if is_ready else min(now_ms + MS_PER_DAY, reset.ready_ms)
                factor_resets.set_times(connection, reset._replace(next_mail_ms=next_ms))
                if found is not None and reset.expires_ms > now_ms:
                    mails.append(DueMail(reset, found[0], is_ready))
            return mails

        due: list[DueMail] = await self._writer.run(change)
        return due


def _find(connection: Connection, reset_id: int, now_ms: int) -> tuple[FactorReset, User] | None:
    reset = factor_resets.find(connection, reset_id, now_ms)
    found = users.find_user_of(connection, reset.user_id) if reset else None
    return (reset, found[0]) if reset and found else None
