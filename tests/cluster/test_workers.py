"""Rows 1, 8, 9 and 10: workers that are killed, without a bucket or with a wrong clock, and jobs nobody can draw."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.buckets import REGION, S3Server
from tests.support.cluster import Cluster
from tests.support.gallery import CATALOG, PATH, WorkerProcess, poll, settle_jobs, submit
from tests.support.pace import TimeLimit
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually
from tests.support.wall_clock import WallClock

#: Eight steps take eight seconds.
SLOW = CATALOG.replace("delay_ms = 20", "delay_ms = 1000")
#: `make cluster` takes the bucket away for ten minutes.
OUTAGE_S = 600 if os.environ.get("CLUSTER_LONG") else 3
ROWS = "SELECT id, state, attempt, failures, worker, error FROM generations ORDER BY id"


@contextmanager
def server_without_engines(
    folder: Path, cluster: Cluster, *, catalog: str = CATALOG, **env: str
) -> Iterator[ServerProcess]:
    """A server that leaves images to workers."""
    given = {"MINITOOLAI_DATABASE_URL": cluster.books(), "MINITOOLAI_IMAGE_ROWS": "0", **env}
    with ServerProcess(folder, catalog=catalog, env=given).start() as server:
        yield server


@contextmanager
def workers(server: ServerProcess, *envs: dict[str, str]) -> Iterator[list[WorkerProcess]]:
    """Workers with room for eight images each; killed at the end."""
    started = [WorkerProcess(server, MINITOOLAI_IMAGE_ROWS="8", **env) for env in envs]
    try:
        for worker in started:
            worker.start()
        yield started
    finally:
        for worker in started:
            worker.kill()


def test_jobs_of_a_killed_worker_are_queued_again_within_3_s(tmp_path: Path, cluster: Cluster) -> None:
    with server_without_engines(tmp_path, cluster, catalog=SLOW, MINITOOLAI_IMAGE_QUEUE_WITHOUT_WORKERS="1") as server:
        account = server.account("10")
        with workers(server, {}) as (first,):
            # A watcher trusts the sessions of others once its own is ten seconds old.
            time.sleep(11)
            jobs = [submit(account, steps=8, prompt=str(n)) for n in range(8)]
            eventually(lambda: all(poll(server, job)["status"] == "processing" for job in jobs), within_s=20)
            limit = TimeLimit(3.0, "s")
            first.kill()
            killed_s = time.monotonic()
            queued = "SELECT count(*) FROM generations WHERE state = 'queued'"
            eventually(lambda: server.read(lambda c: c.execute(queued)) == [(8,)], within_s=10, every_s=0.05)
            took_s = time.monotonic() - killed_s
            print(f"8 jobs of a killed worker were queued again after {took_s:.1f} s")
            assert limit.permits(took_s), limit
        with workers(server, {}):
            settle_jobs(server, within_s=60)
        rows = server.read(lambda c: c.execute(ROWS))
        assert [row[1:4] for row in rows] == [("succeeded", 2, 0)] * 8
        assert account.settled() == 10_000_000_000 - 8 * 1_500_000


def test_a_bucket_that_is_away_fails_no_job_and_no_image_is_drawn_twice(tmp_path: Path, cluster: Cluster) -> None:
    with S3Server() as s3:
        s3.make_bucket("pictures")
        store = {
            "MINITOOLAI_OBJECT_STORE": "s3://pictures/ours",
            "MINITOOLAI_S3_ENDPOINT": s3.endpoint,
            "MINITOOLAI_S3_REGION": REGION,
            "MINITOOLAI_S3_ACCESS_KEY_ID": "test",
            "MINITOOLAI_S3_SECRET_ACCESS_KEY": "test",
            "MINITOOLAI_IMAGE_QUEUE_WITHOUT_WORKERS": "1",
            "MINITOOLAI_DRAIN_TIMEOUT_S": "2",
        }
        with server_without_engines(tmp_path, cluster, **store) as server, workers(server, {}) as (worker,):
            account = server.account("10")
            s3.stop()
            jobs = [submit(account, steps=2, prompt=str(n)) for n in range(12)]
            eventually(lambda: len(list((server.data_dir / "unstored").glob("*"))) == 8, within_s=30)
            # A worker that starts anew meanwhile draws none of them again.
            worker.stop()
            with workers(server, {}):
                time.sleep(OUTAGE_S)
                assert {poll(server, job)["status"] for job in jobs} <= {"processing", "queued"}
                s3.start()
                s3.make_bucket("pictures")
                settle_jobs(server, within_s=90)
            rows = server.read(lambda c: c.execute(ROWS))
            assert [(row[1], row[3], row[5]) for row in rows] == [("succeeded", 0, None)] * 12
            assert s3.count_objects("pictures") == 12
            assert list((server.data_dir / "unstored").glob("*")) == []
            assert account.settled() == 10_000_000_000 - 12 * 1_500_000
            log = (server.folder / "worker.log").read_text()
            assert "the object store is away; images wait on disk" in log


def test_a_job_that_nobody_can_draw_is_refused_and_no_model_is_offered(tmp_path: Path, cluster: Cluster) -> None:
    with server_without_engines(tmp_path, cluster) as server:
        account = server.account("10")
        said = requests.post(
            server.url + PATH, json={"model": "quick", "prompt": "a sun"}, headers=account.headers, timeout=30
        )
        assert said.status_code == 503, said.text
        assert int(said.headers["retry-after"]) > 0
        with workers(server, {}):
            eventually(lambda: _accepts(account), within_s=20, every_s=0.5)
            settle_jobs(server, within_s=30)
        assert account.settled() == 10_000_000_000 - 1_500_000


def _accepts(account: Account) -> bool:
    said = requests.post(
        account.server.url + PATH,
        json={"model": "quick", "prompt": "a sun", "steps": 1, "width": 256, "height": 256},
        headers=account.headers,
        timeout=30,
    )
    return said.status_code == 200


def test_where_workers_start_with_jobs_the_answer_says_that_none_is_running(tmp_path: Path, cluster: Cluster) -> None:
    with server_without_engines(tmp_path, cluster, MINITOOLAI_IMAGE_QUEUE_WITHOUT_WORKERS="1") as server:
        account = server.account("10")
        assert "no worker is running" in submit(account, steps=1)["message"]
        with workers(server, {}):
            settle_jobs(server, within_s=30)
        assert account.settled() == 10_000_000_000 - 1_500_000


@pytest.mark.parametrize("shift_s", [60.0, -60.0, 12.0])
def test_a_wrong_clock_on_one_of_three_machines_changes_no_charge(
    tmp_path: Path, cluster: Cluster, shift_s: float
) -> None:
    url, clock = cluster.books(), WallClock(tmp_path)
    servers: list[ServerProcess] = []
    try:
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            env = {"MINITOOLAI_DATABASE_URL": url}
            if servers:
                (folder / "data").mkdir(mode=0o700)
                shutil.copy(servers[0].data_dir / "secret.key", folder / "data")
            servers.append(ServerProcess(folder, catalog=CATALOG, env=env | (clock.env if number == 0 else {})).start())
        account = servers[1].account("10")
        clock.shift(shift_s)
        eventually(lambda: requests.get(servers[0].url + "/readyz", timeout=5).status_code == 503, within_s=6)
        reason = requests.get(servers[0].url + "/readyz", timeout=5).json()["reason"]
        assert f"{abs(shift_s):.1f} s {'ahead of' if shift_s > 0 else 'behind'} the database server's" in reason
        assert requests.get(servers[1].url + "/readyz", timeout=5).status_code == 200
        # Requests that reach it all the same are charged like all others.
        costs = [_chat(server, account) for server in servers for _ in range(3)]
        assert len(set(costs)) == 1, costs
        for server in servers:
            submit(Account(server, account.id, account.email, account.key), steps=8)
        settle_jobs(servers[1], within_s=60)
        # Long enough for the others to look for expired leases.
        time.sleep(6)
        states = servers[1].read(lambda c: c.execute("SELECT state, count(*) FROM generations GROUP BY state"))
        assert states == [("succeeded", 12)]
        assert account.settled() == 10_000_000_000 - sum(costs) - 3 * 1_500_000
        assert servers[1].read(broken_invariants) == {}
    finally:
        for server in servers:
            server.kill()


def _chat(server: ServerProcess, account: Account) -> Any:
    said = requests.post(
        server.url + "/v1/chat/completions",
        json={"model": "quick", "messages": [{"role": "user", "content": "word"}], "max_completion_tokens": 16},
        headers=account.headers,
        timeout=30,
    )
    assert said.status_code == 200, said.text
    usage = said.json()["usage"]
    return usage["prompt_tokens"] * 150 + usage["completion_tokens"] * 600


def test_a_worker_starts_again_on_sighup_answers_for_its_health_and_ignores_a_broken_catalog(
    tmp_path: Path, cluster: Cluster
) -> None:
    listens = {"MINITOOLAI_METRICS_LISTEN": "127.0.0.1:0"}
    with server_without_engines(tmp_path, cluster) as server, workers(server, listens) as (worker,):
        log = server.folder / "worker.log"
        first = health_url(log)
        assert [requests.get(first + path, timeout=5).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        pid = worker.pid
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: health_url(log) != first, within_s=30)
        second = health_url(log)
        eventually(lambda: requests.get(second + "/readyz", timeout=5).status_code == 200, within_s=10)
        catalog = tmp_path / "catalog.toml"
        catalog.write_text(catalog.read_text() + "\n[image.broken]\nengines = 7\n")
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: "not restarting on SIGHUP" in log.read_text(), within_s=10)
        assert requests.get(second + "/healthz", timeout=5).text == "ok\n"
        catalog.write_text(CATALOG)
        worker.stop()


def health_url(log: Path) -> str:
    """Return the address that the worker logged last."""
    return re.findall(r"metrics at (http://\S+)/metrics", log.read_text())[-1]
