"""Passwords: hashed with argon2id in threads, a few at a time, and never faster for nobody than for somebody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from minitoolai.core.errors import InvalidRequest, Overloaded

if TYPE_CHECKING:
    from argon2 import PasswordHasher

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
