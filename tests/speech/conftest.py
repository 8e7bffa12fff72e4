"""One server for all quick tests of speech: the embedded voice, a tone, and a programmable upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import manners, speech
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Upstream


@pytest.fixture(scope="session")
def far_voice() -> Iterator[Upstream]:
    with Upstream(manners.answer()) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def speech_server(far_voice: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("speech")
    # An address where nothing listens, so that downloading a voice would fail.
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    with ServerProcess(folder, catalog=speech.catalog(far_voice.base_url), env=env) as server:
        yield server


@pytest.fixture
def server(speech_server: ServerProcess) -> Iterator[ServerProcess]:
    """After each test, check that nothing is held and all invariants hold."""
    yield speech_server
    speech_server.check_settled()


@pytest.fixture
def account(server: ServerProcess) -> Account:
    """Return a customer with $5."""
    return server.account()


@pytest.fixture
def upstream(far_voice: Upstream) -> Upstream:
    """Return the stand-in upstream with its recorded requests cleared."""
    far_voice.seen.clear()
    return far_voice
