"""Change the e-mail address of a user, once both mailboxes have confirmed it.

Either mailbox can stop the change. Both must confirm, because an attacker with session and password could otherwise
take the account away from its owner. A user without the old mailbox asks the operator (`minitoolai account email`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from minitoolai.accounts.addresses import email_forms
from minitoolai.accounts.users import Compose, Users, digest
from minitoolai.core.clock import Clock, random_text
from minitoolai.core.models import EmailChange, User
from minitoolai.ledger.types import FUNDING
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import accounts, users
from minitoolai.storage.writer import Writer

LINK_MS = 24 * 3600 * 1000
#: Result of a confirmation: the other mailbox must still confirm, the address was changed, or another account has it.
Confirmation = Literal["waiting", "done", "taken"]


class LinkedChange(msgspec.Struct, frozen=True):
    """A change with its user, and whether the link was sent to the new address."""

    change: EmailChange
    user: User
    is_new: bool


class EmailChanges:
    """Start, confirm and stop changes of e-mail addresses."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, people: Users) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._people = people

    async def start(self, user: User, email: str, compose_old: Compose, compose_new: Compose) -> None:
        """Send a link to both mailboxes. An address that has an account gets an e-mail saying so instead.

        The caller gets the same result, so that it does not reveal which addresses have an account.
        """
        new, old, expires_ms = random_text(32), random_text(32), self._clock.now_ms() + LINK_MS
        change = EmailChange(user.user_id, email, digest(new), digest(old), False, False, expires_ms)
        await self._writer.run(lambda connection: users.replace_email_change(connection, change))
        self._people.send(compose_old("email_old", old))
        is_known = await self._database.read_async(accounts.find_email, email_forms(email)) is not None
        self._people.send(compose_new("email_known", "") if is_known else compose_new("email_new", new))

    async def pending(self, user: User) -> EmailChange | None:
        """Return the change of this user that is not confirmed yet, or None."""
        return await self._database.read_async(users.email_change_of, user.user_id, self._clock.now_ms())

    async def find(self, secret: str) -> LinkedChange | None:
        """Return the change of a valid link. Does not confirm it, because mail programs open links too."""
        return await self._database.read_async(_find, digest(secret), self._clock.now_ms())

    async def confirm(self, secret: str) -> Confirmation | None:
        """Confirm for one mailbox. The second confirmation changes the address. None if the link is not valid."""
        now_ms = self._clock.now_ms()

        def change(connection: Connection) -> Confirmation | None:
            found = _find(connection, digest(secret), now_ms)
            if found is None:
                return None
            new = found.is_new or found.change.is_new_confirmed
            old = not found.is_new or found.change.is_old_confirmed
            if not (new and old):
                confirmed = msgspec.structs.replace(found.change, is_new_confirmed=new, is_old_confirmed=old)
                users.record_confirmations(connection, confirmed)
                return "waiting"
            return "done" if move_user(connection, found.user, found.change.email) else "taken"

        confirmed: Confirmation | None = await self._writer.run(change)
        return confirmed

    async def stop(self, secret: str) -> bool:
        """Discard the change. With the old mailbox's link, also end all sessions: the request was not the owner's."""
        now_ms = self._clock.now_ms()

        def change(connection: Connection) -> bool:
            found = _find(connection, digest(secret), now_ms)
            if found is None:
                return False
            users.delete_email_change(connection, found.change.account_id)
            if not found.is_new:
                users.end_sessions(connection, found.change.account_id)
            return True

        return bool(await self._writer.run(change))


def move_user(connection: Connection, user: User, email: str) -> bool:
    """Give the user a new address, unless its mailbox has another account, however it is spelled."""
    # The same lock as for a new account, so that two of them never get one mailbox in two spellings.
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [FUNDING], lock=True)
    taken = accounts.find_account(connection, *email_forms(email))
    if taken not in (None, user.account_id):
        users.delete_email_change(connection, user.account_id)
        return False
    return users.set_email(connection, user.account_id, user.email, email)


def _find(connection: Connection, secret_hash: bytes, now_ms: int) -> LinkedChange | None:
    change = users.find_email_change(connection, secret_hash, now_ms)
    found = users.find_user_of(connection, change.account_id) if change else None
    if change is None or found is None:
        return None
    return LinkedChange(change, found[0], change.new_hash == secret_hash)
