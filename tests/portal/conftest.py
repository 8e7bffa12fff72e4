"""One server for all tests of the portal; each test brings its own people."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from minitoolai.storage.ledger import broken_invariants
from tests.support.browse import Visitor
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def portal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # Each test comes from the same address: what a stranger would be refused for is measured in its own test.
    with ServerProcess(
        tmp_path_factory.mktemp("portal"), catalog=CATALOG, env={"MINITOOLAI_TRIES_FACTOR": "1000"}
    ) as server:
        yield server


@pytest.fixture
def server(portal_server: ServerProcess) -> Iterator[ServerProcess]:
    """The server; after each test the books add up."""
    yield portal_server
    assert portal_server.read(broken_invariants) == {}


@pytest.fixture
def visitor(server: ServerProcess) -> Visitor:
    """A browser that was never here."""
    return Visitor(server)


@pytest.fixture
def email() -> str:
    """An address that nobody has used."""
    return f"person{next(_numbers)}@example.com"


@pytest.fixture
def member(visitor: Visitor, email: str) -> Visitor:
    """Somebody who signed up through the pages."""
    return visitor.sign_up(email)
