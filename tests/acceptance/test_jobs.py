"""Image jobs whose drawing processes are killed and frozen, beside a server that is restarted."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.jobs import run_jobs


def test_500_jobs_survive_what_is_done_to_those_who_draw_them(tmp_path: Path) -> None:
    tally = run_jobs(tmp_path, jobs=500, chaos_s=12, sketches=25, seed=7)
    assert tally.violations == []
    assert tally.jobs == 500
    assert tally.succeeded >= 450
    assert tally.kills + tally.freezes >= 4
    assert tally.restarts == 2
