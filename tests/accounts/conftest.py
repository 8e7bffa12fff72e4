"""Share the monitored server of tests/observability, and hash passwords with little work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from minitoolai.accounts import passwords
from tests.observability.conftest import account, standin, watched

__all__ = ["account", "standin", "watched"]
#: The same function and format with the least memory: each of some hundred hashes would take 50 ms of a core.
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture(autouse=True, scope="module")
def quick_hashes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hash quickly, but not in the tests of the hashes themselves."""
    with pytest.MonkeyPatch.context() as patch:
        if Path(request.node.path).name not in ("test_passwords.py", "test_keys.py"):
            patch.setattr(passwords, "_hasher", lambda: QUICK)
        yield
