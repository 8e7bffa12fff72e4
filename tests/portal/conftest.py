"""One server for all tests of the portal. Each test has users of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.browse import Visitor, new_user
from tests.support.catalogs import SELLING as _SELLING
from tests.support.chromium import chromium
from tests.support.cli import CATALOG
from tests.support.server import ServerProcess
from tests.support.stripe import Stripe

_numbers = itertools.count(1)


#: The models of the commands' catalog have no exceptions in the group.
SELLING = _SELLING.replace("models = { exact = 0.5 }\n", "")


@pytest.fixture(scope="session")
def portal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # All tests come from one address, so the rate limits are raised. test_security.py tests them on another server.
    # Tests move requests into days that are over, which must not be closed meanwhile.
    env = {"MINITOOLAI_TRIES_FACTOR": "1000", "MINITOOLAI_AUDIT_EVERY_S": "86400"}
    with ServerProcess(tmp_path_factory.mktemp("portal"), catalog=CATALOG + SELLING, env=env) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for all tests of a module."""
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stripe() -> Iterator[Stripe]:
    """A stand-in of Stripe, for all tests of a module."""
    with Stripe() as stripe:
        yield stripe


@pytest.fixture
def server(portal_server: ServerProcess) -> Iterator[ServerProcess]:
    """The server. After each test the ledger is consistent."""
    yield portal_server
    assert portal_server.read(broken_invariants) == {}


@pytest.fixture
def visitor(server: ServerProcess) -> Visitor:
    """A browser without cookies."""
    return Visitor(server)


@pytest.fixture
def email() -> str:
    """An e-mail address that is new in this session."""
    return f"person{next(_numbers)}@example.com"


@pytest.fixture
def member(server: ServerProcess, email: str) -> Visitor:
    """The browser of a new user who is signed in."""
    return new_user(server, email)
