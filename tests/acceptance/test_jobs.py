"""Image jobs survive engine processes that are killed and frozen, and a server that is restarted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.jobs import run_jobs
from tests.chaos.worker_jobs import run_worker_jobs
from tests.support.cluster import running_cluster
from tests.support.gallery import CATALOG, WorkerProcess, settle_jobs, submit, wrong_jobs
from tests.support.length import length
from tests.support.server import ServerProcess
from tests.support.wall_clock import WallClock

# Hundreds of jobs on all cores, with leases that expire.
pytestmark = pytest.mark.timing


def test_jobs_survive_killed_and_frozen_engine_processes(tmp_path: Path) -> None:
    jobs = length(200, 500)
    tally = run_jobs(tmp_path, jobs=jobs, chaos_s=length(9, 12), sketches=jobs // 20, seed=7)
    assert tally.violations == []
    assert tally.jobs == jobs
    assert tally.succeeded >= 0.9 * jobs
    assert tally.kills + tally.freezes >= 4
    assert tally.restarts == 2


def test_jobs_survive_killed_and_frozen_workers_and_a_database_outage(tmp_path: Path) -> None:
    jobs = length(150, 300)
    with running_cluster() as cluster:
        tally = run_worker_jobs(tmp_path, cluster, jobs=jobs, chaos_s=length(6, 8), nap_s=3, outage_s=3)
    assert tally.violations == []
    assert tally.jobs == jobs
    assert tally.succeeded >= 0.9 * jobs
    assert min(tally.kills, tally.naps) >= 2


def test_two_workers_with_wrong_clocks_share_many_jobs_and_run_each_once(tmp_path: Path) -> None:
    clocks, count = [], length(300, 1000)
    for shift_s in (60.0, -60.0):
        (tmp_path / f"{shift_s:g}").mkdir()
        clocks.append(WallClock(tmp_path / f"{shift_s:g}"))
        clocks[-1].shift(shift_s)
    with running_cluster() as cluster:
        env = {"MINITOOLAI_DATABASE_URL": cluster.url(cluster.create()), "MINITOOLAI_IMAGE_QUEUE": "1000"}
        env |= {"MINITOOLAI_IMAGE_ROWS": "0", "MINITOOLAI_IMAGE_QUEUE_WITHOUT_WORKERS": "1"}
        with ServerProcess(tmp_path, catalog=CATALOG, env=env).start() as server:
            accounts = [server.account("10") for _ in range(5)]
            jobs = {submit(accounts[n % 5], prompt=f"{n}", steps=1)["jobid"] for n in range(count)}
            workers = [WorkerProcess(server, MINITOOLAI_IMAGE_ROWS="8", **clock.env) for clock in clocks]
            try:
                for worker in workers:
                    worker.start()
                settle_jobs(server, within_s=240)
                for worker in workers:
                    worker.stop()
            finally:
                for worker in workers:
                    worker.kill()
            assert wrong_jobs(server, jobs) == []
            question = "SELECT worker, count(*), min(attempt), max(attempt) FROM generations GROUP BY worker"
            rows = server.read(lambda c: c.execute(question))
    assert sum(row[1] for row in rows) == count
    assert all(row[2:] == (1, 1) for row in rows)
    # Both did a fair share.
    assert min(row[1] for row in rows) > count / 10
    assert len(rows) == 2
