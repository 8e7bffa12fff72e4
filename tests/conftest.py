"""Rewrite assertions of the support modules like those of tests, and fail in CI if a test was skipped."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.cluster import Cluster

#: The exit status if a test was skipped in CI: `make` does not repeat the tests then.
SKIPPED = 6

pytest_plugins = ["tests.support.fixtures"]
pytest.register_assert_rewrite("tests.support")
# If this is set, each of some hundred processes that the tests start would compile the whole program again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Else pytest would rewrite the assertions of every file again in each process.
sys.dont_write_bytecode = False
# Threads of OpenBLAS spin while they wait for each other, and tests run beside each other already.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Nothing that is made while tests are collected becomes garbage: searching for some would take 40 % of the time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", ())) if reporter else 0
    if os.environ.get("CI") and skipped:
        reporter.write_line(f"{skipped} tests were skipped, which is not allowed in CI", red=True)
        session.exitstatus = SKIPPED


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start a PostgreSQL server for the whole run when the first test needs it."""
    from tests.support.cluster import running_cluster

    with running_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def postgres_url(cluster: Cluster) -> Iterator[str]:
    """Return the URL of a migrated database that tests share; each test empties it before it begins."""
    from tests.support.books import kept_open

    with kept_open(cluster.books()) as url:
        yield url
