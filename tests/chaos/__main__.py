"""`make chaos`: the proofs of docs/ledger.md at length. A line for each database; exit status 1 if any is bad."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.burst import run_burst
from tests.chaos.jobs import run_jobs
from tests.chaos.processes import run_process_burst
from tests.chaos.worker_jobs import run_worker_jobs
from tests.support.cluster import running_cluster
from tests.support.kills import run_kills
from tests.support.lost_commits import run_lost_commits


def main() -> int:
    """Print the lines, and what was violated on standard error."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="how often the server is killed (50)")
    parser.add_argument("--bursts", type=int, default=5, help="how often 500 callers hit an account for 100 (5)")
    parser.add_argument("--lost", type=int, default=40, help="how often connections to PostgreSQL break at COMMIT (40)")
    parser.add_argument("--jobs-s", type=float, default=180, help="seconds of chaos around 500 image jobs (180)")
    parser.add_argument("--seed", type=int, default=1, help="draws the same moments and requests again (1)")
    options = parser.parse_args()
    violations: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("kills", "burst", "jobs"):
            (Path(folder) / name).mkdir()
        kills = run_kills(Path(folder) / "kills", options.kills, seed=options.seed)
        print(kills, flush=True)
        burst = run_burst(Path(folder) / "burst", options.bursts)
        print(burst, flush=True)
        with running_cluster() as cluster:
            processes = run_process_burst(cluster, options.bursts)
            print(processes, flush=True)
            lost = run_lost_commits(cluster, range(options.seed, options.seed + options.lost))
            print(lost, flush=True)
        jobs = run_jobs(Path(folder) / "jobs", chaos_s=options.jobs_s, seed=options.seed)
        print(jobs, flush=True)
        (Path(folder) / "workers").mkdir()
        with running_cluster() as cluster:
            workers = run_worker_jobs(Path(folder) / "workers", cluster, chaos_s=options.jobs_s, seed=options.seed)
        print(workers, flush=True)
        for tally in (kills, burst, processes, lost, jobs, workers):
            violations += tally.violations
    for violation in violations:
        print(violation, file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
