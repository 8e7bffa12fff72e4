"""The proofs of tests/chaos, a few rounds of each."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.burst import run_burst
from tests.chaos.processes import run_process_burst
from tests.support.cluster import Cluster
from tests.support.kills import run_kills


def test_after_every_kill_the_books_add_up_and_what_was_acknowledged_is_charged_once(tmp_path: Path) -> None:
    tally = run_kills(tmp_path, 10, seed=10)
    assert tally.violations == []
    assert tally.kills == 10
    assert tally.acknowledged > 100
    assert tally.broken_off > 50


def test_an_account_for_exactly_100_requests_hit_by_500_at_once(tmp_path: Path) -> None:
    tally = run_burst(tmp_path, 1)
    assert tally.violations == []
    assert (tally.answers, tally.refusals) == (100, 400)
    assert tally.looks > 5


def test_eight_processes_on_an_account_for_1500_holds_get_exactly_1500(cluster: Cluster) -> None:
    tally = run_process_burst(cluster, 1)
    print(tally)
    assert tally.violations == []
    assert (tally.granted, tally.refused, tally.deadlocks) == (1500, 2500, 0)
    assert tally.commits_a_hold <= 0.2
