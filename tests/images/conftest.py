"""One server with engines that draw flat colours, quickly and slowly, for all quick tests of pictures over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minitoolai.storage.ledger import broken_invariants
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CATALOG, SKETCH
from tests.support.waiting import eventually


@pytest.fixture(scope="session")
def image_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    env = {"MINITOOLAI_WEBHOOK_INSECURE": "1", "MINITOOLAI_IMAGE_QUEUE": "20"}
    with ServerProcess(tmp_path_factory.mktemp("images"), catalog=CATALOG, env=env) as server:
        yield server


@pytest.fixture
def server(image_server: ServerProcess) -> Iterator[ServerProcess]:
    """After each test the books add up and nothing stays held."""
    yield image_server
    eventually(
        lambda: image_server.read(lambda c: c.execute("SELECT count(*) FROM holds WHERE state = 'pending'")) == [(0,)],
        within_s=20,
    )
    assert image_server.read(broken_invariants) == {}


@pytest.fixture
def account(server: ServerProcess) -> Account:
    """A customer with $5."""
    return server.account()


@pytest.fixture(scope="session")
def sketch_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two of the shipped models, drawn by the embedded one; without chat and speech, which would only take time."""
    with ServerProcess(tmp_path_factory.mktemp("sketch"), catalog=SKETCH) as server:
        yield server
