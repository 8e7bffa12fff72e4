"""Provide fixtures for the whole suite. Servers are slow to start, so tests with the same configuration share one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import catalogs, manners
from tests.support.books import books, database_url, postgres_books, sqlite_books
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Upstream

__all__ = ["books", "database_url", "postgres_books", "sqlite_books"]


@pytest.fixture(scope="session")
def standin() -> Iterator[Upstream]:
    with Upstream(manners.answer()) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def shared_server(standin: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    catalog = catalogs.with_upstream(standin.base_url) + catalogs.SELLING
    with ServerProcess(tmp_path_factory.mktemp("server"), catalog=catalog) as server:
        yield server


@pytest.fixture
def server(shared_server: ServerProcess) -> Iterator[ServerProcess]:
    """Fake engines and the stand-in; after each test the books add up and nothing stays held."""
    yield shared_server
    shared_server.check_settled()


@pytest.fixture
def upstream(standin: Upstream) -> Upstream:
    """The stand-in with good manners and no memory."""
    standin.behave = manners.answer()
    standin.seen.clear()
    return standin


@pytest.fixture
def account(server: ServerProcess) -> Account:
    """A customer with $5."""
    return server.account()


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The shipped catalog and no key: the embedded model, with room for two answers and two waiting."""
    # One thread: two would wait for each other whenever a machine with two cores has something else to do.
    env = {"MINITOOLAI_LLAMA_SLOTS": "2", "MINITOOLAI_LLAMA_QUEUE": "2", "MINITOOLAI_LLAMA_THREADS": "1"}
    with ServerProcess(tmp_path_factory.mktemp("llama"), env=env) as server:
        yield server
