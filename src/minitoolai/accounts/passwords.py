"""Hash and verify passwords with argon2id, a few at a time; those who wait take turns so that an attack delays itself.

A hash takes most of a core for 50 ms, so hundreds of wrong guesses would keep all users from signing in. Waiting
sign-ins are served in the order of their arrival plus a delay that grows with recent failures (`rate_limits.Failures`).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from minitoolai.accounts.addresses import normalize_password, password_forms
from minitoolai.core.errors import InvalidRequest, Overloaded

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")
MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 8, 200
#: One hash takes 64 MiB and most of a core for about 50 ms.
HASHING_THREADS, MAX_WAITING = 2, 64
#: Goes before every guess: a session, a link from a letter, or a browser that has signed in to this account before.
TRUSTED_S = -60.0


def check_password(password: str) -> None:
    """Raise InvalidRequest if the password is too short or too long."""
    if len(password) < MIN_PASSWORD_LENGTH:
        raise InvalidRequest(f"A password needs at least {MIN_PASSWORD_LENGTH} characters.", param="password")
    if len(password) > MAX_PASSWORD_LENGTH:
        raise InvalidRequest(f"A password may have at most {MAX_PASSWORD_LENGTH} characters.", param="password")


def hash_password(password: str, hasher: PasswordHasher | None = None) -> str:
    """Hash with argon2id, by default with the library's parameters. Raises InvalidRequest for a bad password."""
    check_password(password)
    return (hasher or _hasher()).hash(normalize_password(password))


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # 30 ms that only a sign-in pays

    return PasswordHasher()


class Passwords:
    """Hash and verify passwords in threads. Raises Overloaded for those that come last if too many are waiting."""

    def __init__(self, steady_s: Callable[[], float] = time.monotonic, hasher: PasswordHasher | None = None) -> None:
        #: None for the library's parameters.
        self._hasher = hasher
        self._pool = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="argon2")
        self._steady_s = steady_s
        self._running = 0
        #: Waiting callers by turn: the time of arrival plus the delay, a number, and what wakes them.
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._dummy_hash: str | None = None

    async def hash(self, password: str, delay_s: float = TRUSTED_S) -> str:
        """Return the hash to store. Raises InvalidRequest for a bad password."""
        check_password(password)
        return await self._run(hash_password, password, self._hasher, delay_s=delay_s)

    async def verify(self, kept: str | None, password: str, delay_s: float = TRUSTED_S) -> bool:
        """Return True if the password matches. Without a stored hash it takes the same time and returns False."""
        return await self._run(self._verify, kept, password[:MAX_PASSWORD_LENGTH], delay_s=delay_s)

    def _verify(self, kept: str | None, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        hasher = self._hasher or _hasher()
        if self._dummy_hash is None:
            self._dummy_hash = hasher.hash("no user has this password")
        for form in password_forms(password):
            try:
                if hasher.verify(kept or self._dummy_hash, form) and kept is not None:
                    return True
            except (VerificationError, InvalidHashError):
                continue
        return False

    async def _run(self, work: Callable[..., T], *arguments: object, delay_s: float) -> T:
        await self._take_turn(delay_s)
        try:
            running = asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        except BaseException:
            self._release()
            raise
        # Released when the thread is free, also if the caller is cancelled before.
        running.add_done_callback(lambda _: self._release())
        return await asyncio.shield(running)

    async def _take_turn(self, delay_s: float) -> None:
        """Wait for a free thread. Raise Overloaded if too many are waiting and this one, or then another, is last."""
        if self._running < HASHING_THREADS:
            self._running += 1
            return
        woken = asyncio.get_running_loop().create_future()
        turn = (self._steady_s() + delay_s, next(self._numbers), woken)
        if len(self._waiting) >= MAX_WAITING:
            last = max(self._waiting)
            if turn > last:
                raise _overloaded()
            self._remove(last)
            last[2].set_exception(_overloaded())
        heapq.heappush(self._waiting, turn)
        try:
            await woken
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._remove(turn)
            elif woken.done() and not woken.cancelled() and woken.exception() is None:
                self._release()
            raise

    def _remove(self, turn: tuple[float, int, asyncio.Future[None]]) -> None:
        self._waiting.remove(turn)
        heapq.heapify(self._waiting)

    def _release(self) -> None:
        """Free a thread, and wake the caller that is next."""
        self._running -= 1
        while self._waiting:
            woken = heapq.heappop(self._waiting)[2]
            if not woken.done():
                self._running += 1
                woken.set_result(None)
                return

    def close(self) -> None:
        """Shut down the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _overloaded() -> Overloaded:
    return Overloaded("Too many sign-ins at the moment. Try again in a few seconds.", retry_after_s=2)
