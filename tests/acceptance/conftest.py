"""Provide fixtures for long tests against real servers; every test here is marked `acceptance`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import catalogs, manners
from tests.support.server import ServerProcess
from tests.support.upstream import Upstream

Serve = Callable[..., ServerProcess]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.acceptance)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts servers; each is stopped and checked at the end."""
    with ExitStack() as stack:

        def start(catalog: str | None = catalogs.FAKE, **env: str) -> ServerProcess:
            return stack.enter_context(ServerProcess(tmp_path, catalog=catalog, env=env))

        yield start


@pytest.fixture
def fake_server(serve: Serve) -> ServerProcess:
    return serve()


@pytest.fixture
def llama_server(serve: Serve) -> ServerProcess:
    """Serve the shipped catalog, with one thread, so that figures are comparable on a busy machine."""
    return serve(None, MINITOOLAI_LLAMA_THREADS="1")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(manners.answer()) as standin:
        yield standin


@pytest.fixture
def proxy_server(serve: Serve, upstream: Upstream) -> ServerProcess:
    """Serve models whose engine is the upstream `upstream`."""
    return serve(catalogs.with_upstream(upstream.base_url))
