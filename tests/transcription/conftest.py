"""One server for all quick tests of transcription: a fake, and a programmable upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import manners, recordings
from tests.support.server import Account, ServerProcess, eventually
from tests.support.upstream import Upstream


@pytest.fixture(scope="session")
def far_ear() -> Iterator[Upstream]:
    with Upstream(manners.answer()) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def transcription_server(far_ear: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("transcription")
    with ServerProcess(folder, catalog=recordings.catalog(far_ear.base_url)) as server:
        yield server


@pytest.fixture
def server(transcription_server: ServerProcess) -> Iterator[ServerProcess]:
    """After each test, check that nothing is held, all invariants hold, and no upload is left."""
    yield transcription_server
    transcription_server.check_settled()
    eventually(lambda: uploads_of(transcription_server) == [])


def uploads_of(server: ServerProcess) -> list[str]:
    """Return the names of the uploaded files on the disk."""
    files = (server.data_dir / "uploads").glob("*/*")
    return [path.name for path in files if path.name != "lock"]


@pytest.fixture
def account(server: ServerProcess) -> Account:
    """Return a customer with $5."""
    return server.account()


@pytest.fixture
def upstream(far_ear: Upstream) -> Upstream:
    """Return the stand-in upstream with its recorded requests cleared."""
    far_ear.seen.clear()
    return far_ear
