"""Sign users up and in, list and end sessions, change passwords and second factors, delete accounts.

No response and no response time reveals whether an e-mail address has an account.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import msgspec

from minitoolai.accounts.addresses import email_forms
from minitoolai.accounts.factors.second_factors import Evidence, SecondFactors, store_recovery_codes
from minitoolai.accounts.factors.totp import new_recovery_codes
from minitoolai.accounts.mail import Letter, Mailer
from minitoolai.accounts.passwords import TRUSTED_S, Passwords
from minitoolai.core.clock import Clock, random_text
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import decode_image_job_request
from minitoolai.core.models import Device, MailLink, SessionRow, User
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.selling import purses
from minitoolai.storage.tables import accounts, factor_resets, members, passkeys, second_factors, users
from minitoolai.storage.tables.users import UNKNOWN_DEVICE
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)
MS = 1000
SESSION_MS = 30 * 86_400 * MS
IDLE_MS = 14 * 86_400 * MS
#: Write `seen_ms` again only if it is older, so that not every page view is a write.
TOUCH_MS = 600 * MS
SIGNUP_LINK_MS = 48 * 3600 * MS
RESET_LINK_MS = 3600 * MS
#: How long after the password the code of the second factor is accepted.
CHALLENGE_MS = 600 * MS

#: Purpose of an e-mail. The portal composes the text from it and from the secret for its link.
Purpose = Literal[
    "signup", "known", "reset", "changed",
    "factor_on", "factor_off", "recovery_codes", "recovery_used",
    "passkey_added", "passkey_removed", "passkey_blocked",
    "reset_asked", "reset_waiting", "reset_ready", "reset_stopped", "factors_reset",
    "email_new", "email_old", "email_known", "email_changed", "invitation",
]  # fmt: skip
Compose = Callable[[Purpose, str], Letter]
#: Result of a deletion: done; requests are still running; the account has other members; or the user is the last owner
#: of another account.
Deletion = Literal["done", "busy", "has_members", "last_owner"]


# ── erasure (GDPR): personal data is deleted, the ledger stays. Used by the portal and the command line. ───────────


def erase_personal_data(connection: Connection, account_id: int, now_ms: int) -> bool:
    """Erase the personal data of an account and of the user who opened it, inside the caller's transaction.

    An account that others own stays; only the user's sign-in is erased then. Returns False without changes while the
    account has holds, so unfinished work. Raises InvalidRequest if other members would be left without an owner.
    """
    for joined in members.memberships_of(connection, account_id):
        if joined.account_id != account_id and members.owners_of(connection, joined.account_id) == [account_id]:
            raise InvalidRequest(
                f"This user is the last owner of account {joined.account_id}. Make another member its owner first."
            )
    owners = members.owners_of(connection, account_id)
    if owners and account_id not in owners:
        found = users.find_user_of(connection, account_id)
        users.consume_links(connection, found[0].email if found else "")
        users.forget_person(connection, account_id, users.name_without_person(account_id), now_ms)
        return True
    if not _end_purses(connection, account_id):
        return False
    users.erase_personal_data(connection, account_id, _redacted_requests(connection, account_id), now_ms)
    return True


def erase_account(connection: Connection, account_id: int, now_ms: int) -> Deletion:
    """Erase an account for an owner who did not open it, inside the caller's transaction. The ledger stays.

    The user who opened it keeps their sign-in, if they still have one: it may belong to other accounts.
    """
    if len(members.members_of(connection, account_id)) > 1:
        return "has_members"
    if not _end_purses(connection, account_id):
        return "busy"
    found = users.find_user_of(connection, account_id)
    is_opener_gone = found is None or found[0].email == users.name_without_person(account_id)
    erase = users.erase_personal_data if is_opener_gone else users.erase_account
    erase(connection, account_id, _redacted_requests(connection, account_id), now_ms)
    return "done"


def _end_purses(connection: Connection, account_id: int) -> bool:
    """End the renewal of all plans. Return False without changes while the account or one of them has holds."""
    owned = purses.open_purses(connection, account_id)
    if accounts.balance_of(connection, account_id).held or any(purse.held for purse in owned):
        return False
    for purse in owned:
        purses.set_renewal(connection, purse.id, "none")
    return True


def _redacted_requests(connection: Connection, account_id: int) -> list[tuple[str, int]]:
    """Return (request without its prompt, job ID) of every image job of an account."""
    return [(_without_prompt(request), job) for job, request in users.image_requests_of(connection, account_id)]


def _without_prompt(request: str) -> str:
    job_request = msgspec.structs.replace(decode_image_job_request(request), prompt="", negative_prompt="")
    return msgspec.json.encode(job_request).decode()


class Visitor(msgspec.Struct, frozen=True):
    """A signed-in user, with the session secret for the browser's cookie."""

    user: User
    secret: str
    #: Whether a recovery code replaced the second factor.
    has_used_recovery_code: bool = False


class Challenge(msgspec.Struct, frozen=True):
    """Sign-in with a correct password that still needs a code of the second factor.

    `password_mark` ends the challenge if the password changes meanwhile.
    """

    account_id: int
    email: str
    password_mark: str
    until_ms: int


#: Result of a correct password.
SignIn = Visitor | Challenge


def digest(secret: str) -> bytes:
    """Return the hash stored for a session or link secret. A plain hash is enough: secrets have 190 random bits."""
    return hashlib.sha256(secret.encode()).digest()


def password_mark(password_hash: str | None) -> str:
    """Return a digest that identifies a password hash without revealing it."""
    return digest(password_hash or "").hex()[:32]


def _find_user(connection: Connection, email: str) -> tuple[User, str | None] | None:
    """Return the user of a mailbox and the hash of their password, however the address is spelled."""
    stored = accounts.find_email(connection, email_forms(email))
    return None if stored is None else users.find_user(connection, stored)


def insert_session(connection: Connection, secret: str, account_id: int, now_ms: int, device: Device) -> None:
    """Insert a session of the user who opened this account."""
    users.insert_session(connection, digest(secret), account_id, now_ms, now_ms + SESSION_MS, device)


class Users:
    """Manage users, their sessions, passwords and second factors."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        passwords: Passwords,
        mailer: Mailer,
        clock: Clock,
        factors: SecondFactors,
        on_created: Callable[[Connection, int, str], None] | None = None,
    ) -> None:
        """`on_created` is called with each new account and its address, in the transaction that creates it."""
        self._database = database
        self._writer = writer
        self._passwords = passwords
        self._mailer = mailer
        self._clock = clock
        self._factors = factors
        self._on_created = on_created
        self._background_tasks: set[asyncio.Task[None]] = set()

    # ── signing up ────────────────────────────────────────────────────────────────────────────────────────

    async def sign_up(
        self, email: str, password: str, browser: str, compose: Compose, delay_s: float = TRUSTED_S
    ) -> None:
        """Send a sign-up link. An address that already has an account gets an e-mail saying so.

        `delay_s`: how much later than others it takes its turn, if many wait.
        """
        hashed = await self._passwords.hash(password, delay_s)
        self._run_in_background(self._send_signup_link(email, hashed, browser, compose))

    async def _send_signup_link(self, email: str, hashed: str, browser: str, compose: Compose) -> None:
        if await self._database.read_async(accounts.find_email, email_forms(email)) is not None:
            await self._mailer.send(compose("known", ""))
            return
        secret, now_ms = random_text(32), self._clock.now_ms()
        link = MailLink("signup", email, hashed, digest(browser), now_ms + SIGNUP_LINK_MS)
        await self._writer.run(lambda connection: users.insert_link(connection, digest(secret), link, now_ms))
        await self._mailer.send(compose("signup", secret))

    async def link(self, secret: str) -> MailLink | None:
        """Return the valid link with this secret, or None.

        Does not consume it, because mail programs open links too.
        """
        return await self._database.read_async(users.find_link, digest(secret), self._clock.now_ms())

    def is_same_browser(self, link: MailLink, browser: str) -> bool:
        """Return True if this browser requested the sign-up. Another browser must enter the password."""
        return hmac.compare_digest(link.browser_hash or b"", digest(browser))

    async def confirm(
        self, secret: str, browser: str, password: str, language: str, device: Device = UNKNOWN_DEVICE
    ) -> Visitor | None:
        """Create the account of a sign-up link and sign in. Returns None if the link or the password is not valid."""
        link = await self.link(secret)
        if link is None or link.purpose != "signup":
            return None
        if not self.is_same_browser(link, browser) and not await self._passwords.verify(link.password_hash, password):
            return None
        now_ms = self._clock.now_ms()

        def change(connection: Connection) -> bool:
            if users.find_link(connection, digest(secret), now_ms) is None:
                return False
            users.consume_links(connection, link.email)
            if accounts.find_account(connection, *email_forms(link.email)) is not None:
                return False
            account_id = accounts.create_account(connection, link.email, link.password_hash, now_ms)
            users.set_language(connection, account_id, language)
            if self._on_created is not None:
                self._on_created(connection, account_id, link.email)
            return True

        return await self._create_session(link.email, device) if await self._writer.run(change) else None

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────────────

    async def sign_in(
        self, email: str, password: str, delay_s: float = TRUSTED_S, device: Device = UNKNOWN_DEVICE
    ) -> SignIn | None:
        """Create a session, or a challenge if the user has a second factor, or return None.

        `email` may be any spelling of the address. An unknown address and a wrong password give the same result in the
        same time. `delay_s`: how far behind others it queues, if many wait.
        """
        found = await self._database.read_async(_find_user, email)
        if not await self._passwords.verify(found[1] if found else None, password, delay_s) or found is None:
            return None
        return await self.admit(found[0], found[1], device)

    async def admit(self, user: User, password_hash: str | None, device: Device) -> SignIn | None:
        """Create a session, unless the user has a second factor to prove."""
        if user.has_second_factor:
            until_ms = self._clock.now_ms() + CHALLENGE_MS
            return Challenge(user.account_id, user.email, password_mark(password_hash), until_ms)
        return await self._create_session(user.email, device)

    async def answer(self, challenge: Challenge, code: str, device: Device, compose: Compose) -> Visitor | None:
        """Create a session if this is a valid code of the second factor or a recovery code, and consume it.

        The use of a recovery code is reported by e-mail.
        """
        proof = await self._factors.verify(challenge.account_id, code)
        if proof is None or challenge.until_ms <= self._clock.now_ms():
            return None
        secret, now_ms = random_text(32), self._clock.now_ms()

        def change(connection: Connection) -> User | None:
            found = users.find_user_of(connection, challenge.account_id)
            if found is None or password_mark(found[1]) != challenge.password_mark or not proof.consume(connection):
                return None
            insert_session(connection, secret, challenge.account_id, now_ms, device)
            # A user with a second factor does not need its removal.
            factor_resets.delete(connection, challenge.account_id)
            return found[0]

        user = await self._writer.run(change)
        if user is not None and proof.is_recovery_code:
            self.send(compose("recovery_used", ""))
        return Visitor(user, secret, proof.is_recovery_code) if user else None

    async def sign_in_with(self, evidence: Evidence, user_id: int, device: Device) -> Visitor | None:
        """Create a session after evidence that proves all factors. None if the evidence was used meanwhile."""
        secret, now_ms = random_text(32), self._clock.now_ms()

        def change(connection: Connection) -> User | None:
            found = users.find_user_of(connection, user_id)
            if found is None or not evidence.consume(connection):
                return None
            insert_session(connection, secret, user_id, now_ms, device)
            factor_resets.delete(connection, user_id)
            return found[0]

        user = await self._writer.run(change)
        return Visitor(user, secret) if user else None

    async def _create_session(self, email: str, device: Device) -> Visitor | None:
        secret, now_ms = random_text(32), self._clock.now_ms()

        def change(connection: Connection) -> User | None:
            found = users.find_user(connection, email)
            if found is None:
                return None
            insert_session(connection, secret, found[0].account_id, now_ms, device)
            return found[0]

        user = await self._writer.run(change)
        return Visitor(user, secret) if user else None

    async def session_user(self, secret: str, device: Device = UNKNOWN_DEVICE) -> User | None:
        """Return the user of this session, None if it is unknown or expired."""
        now_ms = self._clock.now_ms()
        found = await self._database.read_async(users.find_session, digest(secret), now_ms, IDLE_MS)
        if found is None:
            return None
        if found[1] < now_ms - TOUCH_MS:
            self._run_in_background(
                self._writer.run(lambda connection: users.touch_session(connection, digest(secret), now_ms, device))
            )
        return found[0]

    async def sign_out(self, secret: str) -> None:
        """End this session."""
        await self._writer.run(lambda connection: users.end_session(connection, digest(secret)))

    async def sessions(self, user: User) -> list[SessionRow]:
        """Return the live sessions of a user, the last used first."""
        return await self._database.read_async(users.sessions_of, user.user_id, self._clock.now_ms(), IDLE_MS)

    async def end_session(self, user: User, secret_hash: bytes) -> bool:
        """End one session of this user. False if there is none."""
        return bool(
            await self._writer.run(lambda connection: users.end_session_of(connection, user.user_id, secret_hash))
        )

    async def end_other_sessions(self, user: User, secret: str) -> None:
        """End all sessions of this user but the one with this secret."""
        await self._writer.run(lambda connection: users.end_sessions(connection, user.user_id, but=digest(secret)))

    # ── second factor ─────────────────────────────────────────────────────────────────────────────────────

    async def add_second_factor(
        self, user: User, totp_secret: bytes, code: str, session: str, compose: Compose, evidence: Evidence
    ) -> list[str] | None:
        """Add a second factor, end all other sessions, notify by e-mail and return the recovery codes.

        Returns None if the code does not belong to this secret, or if the user has an authenticator app already.
        """
        factor = await self._factors.prepare(user.user_id, totp_secret, code)
        if factor is None:
            return None
        codes = new_recovery_codes()

        def change(connection: Connection) -> bool:
            if not evidence.consume(connection) or not second_factors.insert(connection, factor):
                return False
            store_recovery_codes(connection, user.user_id, codes)
            users.end_sessions(connection, user.user_id, but=digest(session))
            return True

        if not await self._writer.run(change):
            return None
        self.send(compose("factor_on", ""))
        return codes

    async def remove_second_factor(self, user: User, evidence: Evidence, compose: Compose) -> bool:
        """Remove the authenticator app, and notify by e-mail. False if the evidence was used, or there is no app."""

        def change(connection: Connection) -> bool:
            return evidence.consume(connection) and second_factors.delete(connection, user.user_id)

        if not await self._writer.run(change):
            return False
        self.send(compose("factor_off", ""))
        return True

    async def remove_passkey(
        self, user: User, credential_id: bytes, evidence: Evidence, session: str, compose: Compose
    ) -> bool:
        """Remove a passkey, end all other sessions, and notify by e-mail. False if the evidence was used."""

        def change(connection: Connection) -> bool:
            if not evidence.consume(connection) or not passkeys.delete(connection, user.user_id, credential_id):
                return False
            second_factors.delete_useless_codes(connection, user.user_id)
            # The removed device may be signed in.
            users.end_sessions(connection, user.user_id, but=digest(session))
            return True

        if not await self._writer.run(change):
            return False
        self.send(compose("passkey_removed", ""))
        return True

    async def renew_recovery_codes(self, user: User, evidence: Evidence, compose: Compose) -> list[str] | None:
        """Replace the recovery codes, and notify by e-mail. None if the evidence was used."""
        codes = new_recovery_codes()

        def change(connection: Connection) -> bool:
            if not evidence.consume(connection):
                return False
            store_recovery_codes(connection, user.user_id, codes)
            return True

        if not await self._writer.run(change):
            return None
        self.send(compose("recovery_codes", ""))
        return codes

    async def consume(self, evidence: Evidence) -> bool:
        """Consume evidence for an action that has no transaction of its own. Return False if it was used meanwhile."""
        return bool(await self._writer.run(evidence.consume))

    async def find(self, user_id: int) -> User | None:
        """Return the user with this number, or None."""
        found = await self._database.read_async(users.find_user_of, user_id)
        return found[0] if found else None

    async def has_password(self, user: User) -> bool:
        """Return True if the user can sign in with a password."""
        return await self._database.read_async(users.password_hash_of, user.user_id) is not None

    # ── passwords ─────────────────────────────────────────────────────────────────────────────────────────

    def request_reset(self, email: str, compose: Compose) -> None:
        """Send a reset link if the address has an account. The caller cannot tell whether it has."""
        self._run_in_background(self._send_reset(email, compose))

    async def _send_reset(self, email: str, compose: Compose) -> None:
        found = await self._database.read_async(_find_user, email)
        if found is None:
            return
        secret, now_ms = random_text(32), self._clock.now_ms()
        link = MailLink("reset", found[0].email, None, None, now_ms + RESET_LINK_MS)
        await self._writer.run(lambda connection: users.insert_link(connection, digest(secret), link, now_ms))
        await self._mailer.send(compose("reset", secret))

    async def reset(self, secret: str, password: str, device: Device = UNKNOWN_DEVICE) -> SignIn | None:
        """Set a new password with a reset link, end all sessions and sign in. Returns None if the link is not valid.

        A user with a second factor must still prove it: the mailbox replaces the password only.
        """
        hashed, now_ms = await self._passwords.hash(password), self._clock.now_ms()

        def change(connection: Connection) -> User | None:
            link = users.find_link(connection, digest(secret), now_ms)
            found = users.find_user(connection, link.email) if link and link.purpose == "reset" else None
            if link is None or found is None:
                return None
            users.consume_links(connection, link.email)
            users.set_password(connection, found[0].account_id, hashed)
            users.record_password_reset(connection, found[0].account_id, now_ms)
            users.end_sessions(connection, found[0].account_id)
            return found[0]

        user = await self._writer.run(change)
        return await self.admit(user, hashed, device) if user else None

    async def verify_password(self, user: User, password: str) -> bool:
        """Return True if this is the user's password."""
        kept = await self._database.read_async(users.password_hash_of, user.user_id)
        return await self._passwords.verify(kept, password)

    async def change_password(
        self, user: User, password: str, compose: Compose, device: Device = UNKNOWN_DEVICE
    ) -> Visitor | None:
        """Change the password, end all sessions, notify by e-mail and return a new session."""
        hashed = await self._passwords.hash(password)

        def change(connection: Connection) -> None:
            users.set_password(connection, user.user_id, hashed)
            users.consume_links(connection, user.email)
            users.end_sessions(connection, user.user_id)

        await self._writer.run(change)
        self.send(compose("changed", ""))
        return await self._create_session(user.email, device)

    async def delete_account(self, user: User) -> Deletion:
        """Erase the user and the account that they opened, with its keys; the ledger stays."""
        now_ms, user_id = self._clock.now_ms(), user.user_id

        def change(connection: Connection) -> Deletion:
            is_owner = members.role_of(connection, user_id, user_id) == "owner"
            if is_owner and len(members.members_of(connection, user_id)) > 1:
                return "has_members"
            try:
                return "done" if erase_personal_data(connection, user_id, now_ms) else "busy"
            except InvalidRequest:
                return "last_owner"

        result: Deletion = await self._writer.run(change)
        return result

    async def hash_password(self, password: str) -> str:
        """Return the hash of a new password."""
        return await self._passwords.hash(password)

    # ── background tasks ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_mail_configured(self) -> bool:
        """Return False if e-mails only reach the operator, through the log."""
        return self._mailer.is_configured

    async def accepts_mail(self, email: str) -> bool:
        """Return False if no e-mail can be sent to this address now, whether it has an account or not."""
        return await self._mailer.accepts(email)

    def send(self, letter: Letter) -> None:
        """Send an e-mail in the background."""
        self._run_in_background(self._mailer.send(letter))

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run this in the background.

        The caller's response time must not depend on whether the address is known.
        """
        task = asyncio.create_task(work)
        self._background_tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._background_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background task for a user failed: %s", error, exc_info=error)

    async def close(self) -> None:
        """Wait up to five seconds for background tasks, and stop the threads."""
        if self._background_tasks:
            await asyncio.wait(self._background_tasks, timeout=5.0)
        self._passwords.close()
