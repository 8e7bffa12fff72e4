"""Sign users in with identities of other providers, and connect such identities to users.

An identity signs in the user that it is connected to. An unknown identity opens an account only if no user has its
address, and only if the provider has verified that address. It never signs in to an account that exists: its user first
proves the password, and then connects the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from minitoolai.accounts.addresses import check_email, email_forms
from minitoolai.accounts.external.protocol import ExternalIdentity
from minitoolai.accounts.users import SignIn, Users
from minitoolai.core.clock import Clock
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import Device, User
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import accounts, identities, users
from minitoolai.storage.tables.identities import IdentityRow
from minitoolai.storage.writer import Writer

#: Why an identity is refused: a user has its address; sign-up is closed; the provider has not verified an address.
Unadmitted = Literal["known_address", "closed", "unverified"]


class ExternalSignIn:
    """Sign in with identities, connect and disconnect them."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        people: Users,
        on_created: Callable[[Connection, int, str], None] | None = None,
    ) -> None:
        """`on_created` is called with each new account and its address, in the transaction that creates it."""
        self._database = database
        self._writer = writer
        self._clock = clock
        self._people = people
        self._on_created = on_created

    async def admit(
        self, identity: ExternalIdentity, language: str, device: Device, *, is_signup_open: bool
    ) -> SignIn | Unadmitted:
        """Sign in the user of an identity, or ask for the second factor, or open an account."""
        found = await self._database.read_async(_find_user, identity)
        if found is None:
            if not identity.is_verified:
                return "unverified"
            try:
                email = check_email(identity.email)
            except InvalidRequest:
                return "unverified"
            if await self._database.read_async(accounts.find_email, email_forms(email)) is not None:
                return "known_address"
            if not is_signup_open:
                return "closed"
            if not await self._writer.run(lambda connection: self._open(connection, identity, email, language)):
                return "known_address"
            found = await self._database.read_async(_find_user, identity)
            assert found is not None, "created above"
        admitted = await self._people.admit(*found, device)
        return "closed" if admitted is None else admitted

    def _open(self, connection: Connection, identity: ExternalIdentity, email: str, language: str) -> bool:
        """Create an account for an identity, unless another request has just done so."""
        if accounts.find_email(connection, email_forms(email)) is not None:
            return False
        now_ms = self._clock.now_ms()
        account_id = accounts.create_account(connection, email, None, now_ms)
        users.set_language(connection, account_id, language)
        identities.insert(connection, IdentityRow(identity.issuer, identity.subject, account_id, email, now_ms))
        if self._on_created is not None:
            self._on_created(connection, account_id, email)
        return True

    async def connect(self, user: User, identity: ExternalIdentity) -> bool:
        """Connect an identity to this user. Return False if it is another user's."""
        row = IdentityRow(identity.issuer, identity.subject, user.user_id, identity.email, self._clock.now_ms())

        def change(connection: Connection) -> bool:
            return identities.insert(connection, row) or identities.find(connection, *row[:2]) == user.user_id

        return bool(await self._writer.run(change))

    async def of_user(self, user: User) -> list[IdentityRow]:
        """Return the identities of a user."""
        return await self._database.read_async(identities.of_user, user.user_id)

    async def disconnect(self, user: User, issuer: str, subject: str) -> bool:
        """Disconnect an identity. Return False if the user could not sign in without it."""

        def change(connection: Connection) -> bool:
            others = [one for one in identities.of_user(connection, user.user_id) if one[:2] != (issuer, subject)]
            if not others and users.password_hash_of(connection, user.user_id) is None:
                return False
            identities.delete(connection, user.user_id, issuer, subject)
            return True

        return bool(await self._writer.run(change))


def _find_user(connection: Connection, identity: ExternalIdentity) -> tuple[User, str | None] | None:
    user_id = identities.find(connection, identity.issuer, identity.subject)
    return None if user_id is None else users.find_user_of(connection, user_id)
