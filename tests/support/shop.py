"""A server that takes payments, for the tests of the providers: what it credited, and that its books are exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from minitoolai.storage.tables import accounts, users
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.server import ServerProcess


def account_number(server: ServerProcess, email: str) -> int:
    """Return the account of a customer."""
    return int(server.read(lambda c: users.find_user(c, email)[0].account_id))


def money(server: ServerProcess, email: str) -> int:
    """Return the balance of a customer."""
    number = account_number(server, email)
    return int(server.read(lambda c: accounts.balance_of(c, number)).posted)


@contextmanager
def exact_books(server: ServerProcess) -> Iterator[ServerProcess]:
    """After a test, the ledger is consistent, and every payment has its invoices, without a gap."""
    yield server
    assert server.read(broken_invariants) == {}


def restart(server: ServerProcess) -> None:
    """Stop a server and start it again, on its data."""
    server.terminate()
    assert server.wait() == 0
    server.start()
