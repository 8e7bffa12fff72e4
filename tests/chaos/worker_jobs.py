"""500 image jobs drawn by three workers on PostgreSQL that are killed, frozen and woken, and a server restarted."""

from __future__ import annotations

import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.gallery import CATALOG, WorkerProcess, hurt, job_counts, settle_jobs, submit, submit_edit, wrong_jobs
from tests.support.server import ServerProcess

ACCOUNTS, WORKERS = 5, 3


@dataclass
class WorkerTally:
    """What the chaos came to."""

    jobs: int = 0
    succeeded: int = 0
    failed: int = 0
    kills: int = 0
    naps: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"postgres jobs={self.jobs} succeeded={self.succeeded} failed={self.failed} workers={WORKERS} "
            f"kills={self.kills} naps={self.naps} violations={len(self.violations)}"
        )


def run_worker_jobs(
    folder: Path,
    cluster: Cluster,
    *,
    jobs: int = 500,
    chaos_s: float = 180.0,
    nap_s: float = 30.0,
    outage_s: float = 30.0,
    seed: int = 1,
) -> WorkerTally:
    """Submit, disturb for so long, take the database away for a while, wait for the end, examine.

    A nap longer than a lease gives the job to another.
    """
    tally, draw = WorkerTally(), random.Random(seed)
    environment = {"MINITOOLAI_DATABASE_URL": cluster.url(cluster.create()), "MINITOOLAI_IMAGE_QUEUE": "1000"}
    # The server itself draws nothing: what is drawn is drawn by the workers.
    own = {"MINITOOLAI_IMAGE_ROWS": "0", "MINITOOLAI_IMAGE_QUEUE_WITHOUT_WORKERS": "1"}
    server = ServerProcess(folder, catalog=CATALOG, env=environment | own).start()
    workers = [WorkerProcess(server, MINITOOLAI_IMAGE_ROWS="4") for _ in range(WORKERS)]
    try:
        for worker in workers:
            worker.start()
        accounts = [server.account("10") for _ in range(ACCOUNTS)]
        acknowledged: set[int] = set()

        def ask() -> None:
            for number in range(jobs):
                send = submit_edit if number % 3 == 0 else submit
                acknowledged.add(send(accounts[number % ACCOUNTS], prompt=f"a star {number}")["jobid"])

        customer = threading.Thread(target=ask)
        customer.start()
        _disturb(workers, draw, tally, chaos_s, nap_s)
        customer.join()
        if outage_s:
            cluster.stop(signal.SIGQUIT)
            time.sleep(outage_s)
            cluster.start()
        settle_jobs(server, within_s=240)
        tally.violations += wrong_jobs(server, acknowledged)
        if len(acknowledged) != jobs:
            tally.violations.append(f"only {len(acknowledged)} of {jobs} jobs were taken")
        counts = job_counts(server)
        tally.jobs, tally.succeeded = sum(counts.values()), counts.get("succeeded", 0)
        tally.failed = counts.get("failed", 0)
        for worker in workers:
            worker.stop()
        server.stop()
    finally:
        for worker in workers:
            worker.kill()
        server.kill()
    return tally


def _disturb(
    workers: list[WorkerProcess], draw: random.Random, tally: WorkerTally, chaos_s: float, nap_s: float
) -> None:
    over_s = time.monotonic() + chaos_s
    while time.monotonic() < over_s or tally.kills + tally.naps < 4:
        time.sleep(draw.uniform(0.3, 2.0))
        worker = draw.choice(workers)
        # Turn about, so that a short run has both.
        if tally.kills <= tally.naps:
            tally.kills += 1
            worker.kill()
            worker.start()
        else:
            tally.naps += 1
            hurt(worker.pid, signal.SIGSTOP)
            threading.Timer(draw.uniform(0.2, nap_s), hurt, (worker.pid, signal.SIGCONT)).start()
