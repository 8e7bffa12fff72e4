"""Servers that all quick tests of images over HTTP share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CATALOG, SKETCH


@pytest.fixture(scope="session")
def image_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    env = {"MINITOOLAI_WEBHOOK_INSECURE": "1", "MINITOOLAI_IMAGE_QUEUE": "20"}
    with ServerProcess(tmp_path_factory.mktemp("images"), catalog=CATALOG, env=env) as server:
        yield server


@pytest.fixture
def server(image_server: ServerProcess) -> Iterator[ServerProcess]:
    """Check after each test that no hold is pending and no ledger invariant is broken."""
    yield image_server
    image_server.check_settled(within_s=20)


@pytest.fixture
def account(server: ServerProcess) -> Account:
    """Create a customer with $5."""
    return server.account()


@pytest.fixture(scope="session")
def sketch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Start a server with two shipped image models on the embedded engine, without chat and speech to save time."""
    with ServerProcess(tmp_path_factory.mktemp("sketch"), catalog=SKETCH) as server:
        yield server
