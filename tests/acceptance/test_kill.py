"""The proofs of tests/chaos hold, with a few rounds of each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.burst import run_burst
from tests.chaos.processes import run_process_burst
from tests.chaos.proofs import SHORT
from tests.support.cluster import Cluster

# Loads all cores, on both databases at once.
pytestmark = pytest.mark.timing


def test_the_short_proofs_hold_on_both_databases(capfd: pytest.CaptureFixture[str]) -> None:
    # Burst and jobs have tests of their own, below and in test_jobs.py.
    only = [f"--only={name}" for name in ("walks", "simulation", "power", "kills", "lost_commits", "storm", "streams")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", *only],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    with capfd.disabled():
        print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " kills=" in line)
    assert set(lines) == {"sqlite", "postgres"}
    for line in lines.values():
        numbers = {name: int(number) for name, _, number in (part.partition("=") for part in line.split())}
        assert numbers["violations"] == 0
        assert numbers["kills"] == SHORT.kills
        assert numbers["acknowledged"] > 50
        assert numbers["seeds"] > SHORT.walks
        assert numbers["mutants"] > 7
    assert done.stdout.count("| 3 kill -9 | ") == 2


def test_an_account_with_money_for_100_requests_serves_100_of_500_at_once(tmp_path: Path) -> None:
    tally = run_burst(tmp_path, 1)
    assert tally.violations == []
    assert (tally.answers, tally.refusals) == (100, 400)
    assert tally.looks > 5


def test_eight_processes_get_exactly_the_1500_holds_that_an_account_can_pay(cluster: Cluster) -> None:
    tally = run_process_burst(cluster, 1)
    print(tally)
    assert tally.violations == []
    assert (tally.granted, tally.refused, tally.deadlocks) == (1500, 2500, 0)
    assert tally.commits_a_hold <= 0.2
