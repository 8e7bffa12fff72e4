"""People: sign up, sign in, forget, leave. Whether an address is known here shows in no answer and no delay."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from minitoolai.accounts.mail import Letter, Mailer
from minitoolai.core.clock import Clock, random_text
from minitoolai.core.errors import InvalidRequest, Overloaded
from minitoolai.core.inference import decode_image_job_request
from minitoolai.core.models import MailLink, User
from minitoolai.storage import accounts, users
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.writer import Writer

if TYPE_CHECKING:
    from argon2 import PasswordHasher

# (merged from persons) A customer leaves: the person goes, the books stay. The same for the portal and the command line.


def forget(connection: Connection, account_id: int, now_ms: int) -> bool:
    """Inside a transaction. False, and nothing done, while work of this account is under way."""
    if accounts.balance_of(connection, account_id).held:
        return False
    asks = [(_without_words(request), job) for job, request in users.image_requests_of(connection, account_id)]
    users.erase_personal_data(connection, account_id, asks, now_ms)
    return True


def _without_words(request: str) -> str:
    ask = msgspec.structs.replace(decode_image_job_request(request), prompt="", negative_prompt="")
    return msgspec.json.encode(ask).decode()


# (merged from passwords) Passwords: hashed with argon2id in threads, a few at a time, and never faster for nobody than for somebody.

T = TypeVar("T")
SHORTEST, LONGEST = 8, 200
#: One hash takes 64 MiB and most of a core for some 50 ms.
AT_ONCE, WAITING = 2, 32


def check_password(password: str) -> None:
    """InvalidRequest for one that is too short or too long."""
    if len(password) < SHORTEST:
        raise InvalidRequest(f"a password needs at least {SHORTEST} characters", param="password")
    if len(password) > LONGEST:
        raise InvalidRequest(f"a password has at most {LONGEST} characters", param="password")


def hash_password(password: str) -> str:
    """argon2id with the library's parameters; InvalidRequest for a short one."""
    check_password(password)
    return _hasher().hash(password)


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # 30 ms that only a sign-in pays

    return PasswordHasher()


class Passwords:
    """Hashes and verifies beside the event loop; Overloaded when too many wait."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._waiting = 0
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """The hash to keep. InvalidRequest for a password that is too short."""
        check_password(password)
        return await self._run(hash_password, password)

    async def verify(self, kept: str | None, password: str) -> bool:
        """Whether this is the password. Without a kept hash the answer is no, after the same work."""
        return await self._run(self._verify, kept, password[:LONGEST])

    def _verify(self, kept: str | None, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        if self._nobodys is None:
            self._nobodys = _hasher().hash("the password of nobody")
        try:
            return _hasher().verify(kept or self._nobodys, password) and kept is not None
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        if self._waiting >= WAITING:
            raise Overloaded("too many people sign in at once; try again in a moment", retry_after_s=2)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


log = logging.getLogger(__name__)
MS = 1000
SESSION_MS = 30 * 86_400 * MS
IDLE_MS = 14 * 86_400 * MS
#: How old `seen_ms` may be before it is written again: not every page is a write.
TOUCH_MS = 600 * MS
SIGNUP_LINK_MS = 48 * 3600 * MS
RESET_LINK_MS = 3600 * MS

#: What a letter is about, and the secret of its link: the portal finds the words.
Purpose = Literal["signup", "known", "reset", "changed"]
Compose = Callable[[Purpose, str], Letter]


class Visitor(msgspec.Struct, frozen=True):
    """Somebody signed in, and the secret that the browser keeps."""

    user: User
    secret: str


def digest(secret: str) -> bytes:
    """What is stored instead of a secret. It has 190 bits of chance, so a plain hash is enough."""
    return hashlib.sha256(secret.encode()).digest()


class Users:
    """Everything about people and their sessions."""

    def __init__(self, database: Database, writer: Writer, passwords: Passwords, mailer: Mailer, clock: Clock) -> None:
        self._database = database
        self._writer = writer
        self._passwords = passwords
        self._mailer = mailer
        self._clock = clock
        self._errands: set[asyncio.Task[None]] = set()

    # ── signing up ────────────────────────────────────────────────────────────────────────────────────────

    async def sign_up(self, email: str, password: str, browser: str, compose: Compose) -> None:
        """Send a link that makes the account; an address that has one gets a letter that says so instead."""
        hashed = await self._passwords.hash(password)
        self._soon(self._invite(email, hashed, browser, compose))

    async def _invite(self, email: str, hashed: str, browser: str, compose: Compose) -> None:
        if await self._database.read_async(accounts.find_account, email) is not None:
            await self._mailer.send(compose("known", ""))
            return
        secret, now_ms = random_text(32), self._clock.now_ms()
        link = MailLink("signup", email, hashed, digest(browser), now_ms + SIGNUP_LINK_MS)
        await self._writer.run(lambda connection: users.insert_link(connection, digest(secret), link, now_ms))
        await self._mailer.send(compose("signup", secret))

    async def link(self, secret: str) -> MailLink | None:
        """What a link stands for, while it is good. Looking changes nothing: mail programs look, too."""
        return await self._database.read_async(users.find_link, digest(secret), self._clock.now_ms())

    def asked_here(self, link: MailLink, browser: str) -> bool:
        """Whether this browser is the one that signed up; another one must know the password."""
        return hmac.compare_digest(link.browser_hash or b"", digest(browser))

    async def confirm(self, secret: str, browser: str, password: str, language: str) -> Visitor | None:
        """Make the account of a sign-up link and sign in. None where the link is no good, or the password wrong."""
        link = await self.link(secret)
        if link is None or link.purpose != "signup":
            return None
        if not self.asked_here(link, browser) and not await self._passwords.verify(link.password_hash, password):
            return None
        now_ms = self._clock.now_ms()

        def change(connection: Connection) -> bool:
            if users.find_link(connection, digest(secret), now_ms) is None:
                return False
            users.consume_links(connection, link.email)
            if accounts.find_account(connection, link.email) is not None:
                return False
            account_id = accounts.create_account(connection, link.email, link.password_hash, now_ms)
            users.set_language(connection, account_id, language)
            return True

        return await self._begin(link.email) if await self._writer.run(change) else None

    # ── sessions ──────────────────────────────────────────────────────────────────────────────────────────

    async def sign_in(self, email: str, password: str) -> Visitor | None:
        """A new session, or None: unknown address and wrong password look the same and take as long."""
        found = await self._database.read_async(users.find_user, email)
        if not await self._passwords.verify(found[1] if found else None, password):
            return None
        return await self._begin(email)

    async def _begin(self, email: str) -> Visitor | None:
        secret, now_ms = random_text(32), self._clock.now_ms()

        def change(connection: Connection) -> User | None:
            found = users.find_user(connection, email)
            if found is None:
                return None
            expires_ms = now_ms + SESSION_MS
            users.insert_session(connection, digest(secret), found[0].account_id, now_ms, expires_ms)
            return found[0]

        user = await self._writer.run(change)
        return Visitor(user, secret) if user else None

    async def who(self, secret: str) -> User | None:
        """Who is signed in by this secret."""
        now_ms = self._clock.now_ms()
        found = await self._database.read_async(users.find_session, digest(secret), now_ms, IDLE_MS)
        if found is None:
            return None
        if found[1] < now_ms - TOUCH_MS:
            self._soon(self._writer.run(lambda connection: users.touch_session(connection, digest(secret), now_ms)))
        return found[0]

    async def sign_out(self, secret: str) -> None:
        """End this session."""
        await self._writer.run(lambda connection: users.end_session(connection, digest(secret)))

    # ── passwords ─────────────────────────────────────────────────────────────────────────────────────────

    def ask_reset(self, email: str, compose: Compose) -> None:
        """Send a link for a new password, if the address is known here; the caller learns nothing either way."""
        self._soon(self._send_reset(email, compose))

    async def _send_reset(self, email: str, compose: Compose) -> None:
        if await self._database.read_async(users.find_user, email) is None:
            return
        secret, now_ms = random_text(32), self._clock.now_ms()
        link = MailLink("reset", email, None, None, now_ms + RESET_LINK_MS)
        await self._writer.run(lambda connection: users.insert_link(connection, digest(secret), link, now_ms))
        await self._mailer.send(compose("reset", secret))

    async def reset(self, secret: str, password: str) -> Visitor | None:
        """Set a new password by a link, end every session, and sign in. None where the link is no good."""
        hashed, now_ms = await self._passwords.hash(password), self._clock.now_ms()

        def change(connection: Connection) -> str | None:
            link = users.find_link(connection, digest(secret), now_ms)
            found = users.find_user(connection, link.email) if link and link.purpose == "reset" else None
            if link is None or found is None:
                return None
            users.consume_links(connection, link.email)
            users.set_password(connection, found[0].account_id, hashed)
            users.end_sessions(connection, found[0].account_id)
            return link.email

        email = await self._writer.run(change)
        return await self._begin(email) if email else None

    async def knows_password(self, user: User, password: str) -> bool:
        """Whether this is the user's password."""
        kept = await self._database.read_async(users.password_hash_of, user.account_id)
        return await self._passwords.verify(kept, password)

    async def change_password(self, user: User, password: str, compose: Compose) -> Visitor | None:
        """A new password and a new session; every other session ends, and a letter says so."""
        hashed = await self._passwords.hash(password)

        def change(connection: Connection) -> None:
            users.set_password(connection, user.account_id, hashed)
            users.consume_links(connection, user.email)
            users.end_sessions(connection, user.account_id)

        await self._writer.run(change)
        self._soon(self._mailer.send(compose("changed", "")))
        return await self._begin(user.email)

    async def leave(self, user: User) -> bool:
        """Delete the user: name and password go, keys are revoked, the books stay. False while work runs."""
        now_ms = self._clock.now_ms()

        def change(connection: Connection) -> bool:
            return forget(connection, user.account_id, now_ms)

        return bool(await self._writer.run(change))

    # ── errands ───────────────────────────────────────────────────────────────────────────────────────────

    def _soon(self, errand: Coroutine[Any, Any, None]) -> None:
        """Go on without waiting: what follows depends on whether the address is known, and must not show."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._is_back)

    def _is_back(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an errand for a user failed: %s", error, exc_info=error)

    async def close(self) -> None:
        """Let errands come home."""
        if self._errands:
            await asyncio.wait(self._errands, timeout=5.0)
        self._passwords.close()
