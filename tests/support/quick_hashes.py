"""Hash passwords with little work, in tests that are not about the hashes: each would take 50 ms of a core."""

from __future__ import annotations

from argon2 import PasswordHasher

from minitoolai.accounts.passwords import Passwords

#: The same function and format, with the least memory.
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def quick_passwords() -> Passwords:
    """Return `Passwords` that hash quickly."""
    return Passwords(hasher=QUICK)
