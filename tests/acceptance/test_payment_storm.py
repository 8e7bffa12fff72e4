"""A storm of notifications from both payment providers on both databases: exact balances, invoices without a gap."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.storm import run_storms

pytestmark = pytest.mark.acceptance


def test_a_storm_on_sqlite_credits_and_invoices_exactly(tmp_path: Path) -> None:
    done = run_storms(tmp_path, 3)
    assert done.violations == []
    assert (done.storms, done.events, done.forged) == (3, 3 * 180, 3 * 54)


def test_a_storm_on_postgresql_credits_and_invoices_exactly(tmp_path: Path, cluster: Cluster) -> None:
    done = run_storms(tmp_path, 3, seed=2, url=cluster.books())
    assert done.violations == []
    assert (done.storms, done.events, done.forged) == (3, 3 * 180, 3 * 54)
