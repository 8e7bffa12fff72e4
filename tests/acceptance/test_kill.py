"""The proofs of tests/chaos, a few rounds of each."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.burst import run_burst
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
