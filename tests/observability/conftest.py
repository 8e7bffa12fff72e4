"""Run one server with metrics, a JSON log at level DEBUG, and a stand-in upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import catalogs, manners
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CATALOG
from tests.support.upstream import Upstream

TOKEN = "a-token-for-those-who-watch"


@pytest.fixture(scope="session")
def standin() -> Iterator[Upstream]:
    with Upstream(manners.answer()) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def watched(standin: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    env = {
        "MINITOOLAI_METRICS_LISTEN": "127.0.0.1:0",
        "MINITOOLAI_METRICS_TOKEN": TOKEN,
        "MINITOOLAI_LOG_FORMAT": "json",
        "MINITOOLAI_LOG_LEVEL": "debug",
        "MINITOOLAI_ACCESS_LOG": "1",
    }
    catalog = catalogs.with_upstream(standin.base_url) + CATALOG
    with ServerProcess(tmp_path_factory.mktemp("watched"), catalog=catalog, env=env) as server:
        yield server


@pytest.fixture
def account(watched: ServerProcess, standin: Upstream) -> Account:
    """Return a customer with $5, and reset the upstream."""
    standin.behave = manners.answer()
    return watched.account()
