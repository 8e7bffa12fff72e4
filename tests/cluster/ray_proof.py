"""The long proof of engines on Ray: three machines, 500 jobs, ten minutes of chaos, and eight figures as a table.

    python -m tests.cluster.ray_proof [--minutes 10] [--jobs 500]

Machines of the cluster, its head, the worker and PostgreSQL are killed or stopped in turn. A machine that is stopped
(SIGSTOP) answers nobody and closes no connection, as one that is cut off. Exit status 1 if a job is lost, charged twice
or without an image, or if the books do not add up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster, running_cluster
from tests.support.gallery import CATALOG, WorkerProcess, job_counts, settle_jobs, submit, wrong_jobs
from tests.support.ray_cluster import SOURCES, RayCluster, RayNode
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

NODES, ROWS = 3, 4
#: A step of `quick` takes a second. `late` has no copy before its first job.
PLACED = (
    CATALOG.replace("delay_ms = 20\n", f'delay_ms = 1000\nplacement = "ray"\nmin = {NODES}\nmax = {NODES}\n')
    + """
[engines.late]
kind = "fake"
model = "fake-image-1"
delay_ms = 100
placement = "ray"
max = 2
idle_s = 1

[image.late]
price = "0.0015"
engines = ["late"]
"""
)
LIMITS = {
    "node killed → drawn elsewhere": "≤ 3 s",
    "node cut off → drawn elsewhere": "≤ 12 s",
    "head killed → back": "≤ 30 s",
    "more per picture, median": "≤ 5 ms",
    "CPU more per picture": "≤ 1.5 ms",
    "queued → engine draws, warm machine": "≤ 2 s",
    "jobs lost": "0",
    "jobs charged twice": "0",
}


@dataclass
class Figures:
    """What was measured, and what went wrong."""

    rows: dict[str, str] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def table(self) -> str:
        """Return the figures as a table of docs/performance-history.md."""
        lines = ["| engines on Ray | measured | aim |", "|---|---|---|"]
        return "\n".join(lines + [f"| {name} | {value} | {LIMITS[name]} |" for name, value in self.rows.items()])


class Site:
    """A shop whose images are drawn on a Ray cluster."""

    def __init__(
        self, folder: Path, cluster: Cluster, ray: RayCluster, env: dict[str, str], catalog: str, cpus: int
    ) -> None:
        #: `cpus`: of each machine.
        self.ray, self.database, self.cpus = ray, cluster, cpus
        own = {"MINITOOLAI_IMAGE_ROWS": str(ROWS), "MINITOOLAI_IMAGE_QUEUE_WITHOUT_WORKERS": "1"}
        own |= {"MINITOOLAI_DATABASE_URL": cluster.url(cluster.create()), "MINITOOLAI_IMAGE_QUEUE": "1000"}
        self.server = ServerProcess(folder, catalog=catalog, env=own).start()
        self.worker = WorkerProcess(self.server, ray=ray.address, **ray.env, **env)
        self.worker.start()
        self.acknowledged: set[int] = set()

    def ask(self, account: Account, **fields: Any) -> int:
        """Submit a job and return its number."""
        number = int(submit(account, **fields)["jobid"])
        self.acknowledged.add(number)
        return number

    def rows(self, question: str) -> list[Any]:
        """Return rows of the database."""
        return list(self.server.read(lambda c: c.execute(question)))

    def running(self, *, model: str = "quick", attempt: int = 1) -> int:
        """Return how many jobs run in this attempt or a later one."""
        question = f"SELECT count(*) FROM generations WHERE state = 'running' AND model = '{model}'"
        return int(self.rows(f"{question} AND attempt >= {attempt}")[0][0])

    def close(self) -> None:
        """Stop the worker and the server."""
        self.worker.kill()
        self.server.kill()


@contextmanager
def site(nodes: int = NODES, catalog: str = PLACED, cpus: int = 2, **env: str) -> Iterator[Site]:
    """Start PostgreSQL, a Ray cluster, a server and a worker."""
    with tempfile.TemporaryDirectory() as folder, running_cluster() as cluster:
        ray = RayCluster()
        try:
            ray.add_nodes(nodes, cpus)
            opened = Site(Path(folder), cluster, ray, env, catalog, cpus)
            try:
                yield opened
            finally:
                opened.close()
        finally:
            ray.stop()


def redrawn_after(shop: Site, account: Account, lose: Callable[[RayNode], None]) -> str:
    """Lose the first machine while jobs run on all. Tell when the first and when all of its jobs run again."""
    jobs = (NODES - 1) * ROWS + 1
    for n in range(jobs):
        shop.ask(account, prompt=f"{n}", steps=8)
    eventually(lambda: shop.running() == jobs, within_s=60)
    time.sleep(1.0)
    began_s = time.monotonic()
    lose(shop.ray.nodes[0])
    eventually(lambda: shop.running(attempt=2) > 0, within_s=60, every_s=0.05)
    first_s = time.monotonic() - began_s
    eventually(lambda: "queued" not in job_counts(shop.server), within_s=60, every_s=0.05)
    all_s = time.monotonic() - began_s
    settle_jobs(shop.server, within_s=120)
    return f"{first_s:.1f} s, all {all_s:.1f} s"


def replace_node(shop: Site) -> None:
    """Start a machine as large instead of the first one, which was lost."""
    shop.ray.nodes.pop(0).kill()
    shop.ray.add_node(shop.cpus)


def wait_for_copies(shop: Site) -> None:
    """Wait until jobs of all copies are drawn at once."""
    account = shop.server.account("10")
    for n in range(NODES * ROWS):
        shop.ask(account, prompt=f"w{n}", steps=8)
    eventually(lambda: shop.running() == NODES * ROWS, within_s=120, every_s=0.1)
    settle_jobs(shop.server, within_s=60)


def measure(shop: Site, figures: Figures) -> None:
    """Measure each loss once, on its own."""
    account = shop.server.account("10")
    wait_for_copies(shop)
    print("three copies draw", flush=True)
    figures.rows["node killed → drawn elsewhere"] = redrawn_after(shop, account, RayNode.kill)
    print(figures.table(), flush=True)
    replace_node(shop)
    wait_for_copies(shop)

    def cut_off(node: RayNode) -> None:
        node.signal(signal.SIGSTOP)

    figures.rows["node cut off → drawn elsewhere"] = redrawn_after(shop, account, cut_off)
    print(figures.table(), flush=True)
    replace_node(shop)
    wait_for_copies(shop)
    began_s = time.monotonic()
    shop.ray.head.kill()
    shop.ray.restart_head()
    eventually(lambda: _probe(shop.ray, "nodes")["nodes"] == NODES + 2, within_s=120, every_s=0.2)
    figures.rows["head killed → back"] = f"{time.monotonic() - began_s:.1f} s"
    print(figures.table(), flush=True)
    _keep_alive(shop)
    figures.rows |= _costs(_probe(shop.ray, "costs"))
    waits: list[float] = []
    for n in range(4):
        began_s = time.monotonic()
        shop.ask(account, model="late", prompt=f"{n}", steps=8)
        eventually(lambda: shop.running(model="late") == 1, within_s=60, every_s=0.01)
        waits.append(time.monotonic() - began_s)
        settle_jobs(shop.server, within_s=60)
        # Until it is stopped again.
        time.sleep(4)
    figures.rows["queued → engine draws, warm machine"] = f"{statistics.median(waits[1:]):.1f} s"


def disturb(shop: Site, figures: Figures, *, seconds: float, jobs: int, seed: int = 1, once: bool = False) -> None:
    """Submit jobs evenly, and meanwhile kill and stop everything in turn, or each thing only once."""
    draw, accounts = random.Random(seed), [shop.server.account("10") for _ in range(5)]
    over_s = time.monotonic() + seconds

    def ask() -> None:
        for number in range(jobs):
            for _ in range(60):
                try:
                    shop.ask(accounts[number % 5], prompt=f"a star {number}", steps=draw.choice((1, 2, 4)))
                    break
                except (AssertionError, OSError):
                    # PostgreSQL is restarting: the answer was a 503.
                    time.sleep(1.0)
            time.sleep(seconds / jobs * 0.8)

    def node_killed() -> None:
        shop.ray.nodes[0].kill()
        replace_node(shop)

    def node_cut_off() -> None:
        shop.ray.nodes[0].signal(signal.SIGSTOP)
        time.sleep(draw.uniform(2, 3 if once else 14))
        if draw.random() < 0.5:
            shop.ray.nodes[0].signal(signal.SIGCONT)
            time.sleep(3)
        replace_node(shop)

    def head_killed() -> None:
        shop.ray.head.kill()
        shop.ray.restart_head()

    def worker_killed() -> None:
        shop.worker.kill()
        shop.worker.start()

    def database_restarted() -> None:
        shop.database.stop(signal.SIGQUIT)
        time.sleep(draw.uniform(1, 4))
        shop.database.start()

    customer = threading.Thread(target=ask)
    customer.start()
    actions = [node_killed, worker_killed, node_cut_off, database_restarted, head_killed]
    turn = 0
    while turn < len(actions) if once else time.monotonic() < over_s:
        time.sleep(draw.uniform(0.5, 1) if once else draw.uniform(1, 6))
        _keep_alive(shop)
        action = actions[turn % len(actions)]
        turn += 1
        print(f"{over_s - time.monotonic():.0f} s left: {action.__name__}, {job_counts(shop.server)}", flush=True)
        action()
        figures.events[action.__name__] = figures.events.get(action.__name__, 0) + 1
    customer.join()
    _keep_alive(shop)


def examine(shop: Site, figures: Figures) -> None:
    """Wait for all jobs, and compare what was promised with what is there."""
    settle_jobs(shop.server, within_s=300)
    figures.counts = job_counts(shop.server)
    figures.violations += wrong_jobs(shop.server, shop.acknowledged)
    if figures.counts != {"succeeded": len(shop.acknowledged)}:
        failed = shop.rows("SELECT id, attempt, failures, error FROM generations WHERE state <> 'succeeded'")
        figures.violations.append(f"{len(shop.acknowledged)} jobs were taken, {figures.counts}: {failed[:5]}")
    known = {row[0] for row in shop.rows("SELECT id FROM generations WHERE kind = 'image'")}
    twice = shop.rows("SELECT hold_id FROM transfers WHERE hold_id IS NOT NULL GROUP BY hold_id HAVING count(*) > 1")
    figures.rows["jobs lost"] = str(len(shop.acknowledged - known))
    figures.rows["jobs charged twice"] = str(len(twice))


def _keep_alive(shop: Site) -> None:
    """Start a worker that Ray has ended, as systemd does."""
    if not shop.worker.is_running:
        print("the worker had ended and is started again", flush=True)
        shop.worker.start()


# ── in a process of its own, which joins the cluster ──────────────────────────────────────────────────────────


def _probe(ray: RayCluster, what: str) -> dict[str, float]:
    env = {**os.environ, "PYTHONPATH": f"{SOURCES}:{SOURCES.parent}", **ray.env}
    command = [sys.executable, "-m", "tests.cluster.ray_proof", "--probe", what, "--address", ray.address]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and what == "nodes":
        return {"nodes": 0}
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _costs(found: dict[str, float]) -> dict[str, str]:
    return {
        "more per picture, median": f"{found['ray_ms'] - found['child_ms']:.1f} ms ({found['child_ms']:.1f} without)",
        "CPU more per picture": f"{found['ray_cpu_ms'] - found['child_cpu_ms']:.1f} ms "
        f"({found['child_cpu_ms']:.1f} without)",
    }


def _answer(what: str, address: str) -> dict[str, float]:
    from minitoolai.engines.ray import cluster

    cluster.connect(address)
    try:
        return {"nodes": cluster.facts().nodes} if what == "nodes" else asyncio.run(_compare())
    finally:
        cluster.disconnect()


async def _compare() -> dict[str, float]:
    """Draw the same images in a child here and beside an actor, in turn, and return the median of each."""
    from minitoolai.engines.host import ChildHost, MakeHost
    from minitoolai.engines.images.process import EngineProcess
    from minitoolai.engines.protocols import ImageRequest
    from minitoolai.engines.ray.host import RayHost

    hosts: dict[str, MakeHost] = {"child": ChildHost, "ray": RayHost}
    engines = {
        name: EngineProcess(
            name, "minitoolai.engines.images.fake", {"model": "f", "delay_ms": 0}, max_concurrency=1, make_host=make
        )
        for name, make in hosts.items()
    }
    took: dict[str, list[float]] = {name: [] for name in engines}
    cpu: dict[str, list[float]] = {name: [] for name in engines}
    for engine in engines.values():
        await engine.start()
    for turn in range(600):
        for name, engine in engines.items():
            assert engine.pid is not None
            pids = [os.getpid(), engine.pid, *([_parent(engine.pid)] if name == "ray" else [])]
            before_s, began_s = sum(map(_cpu_s, pids)), time.perf_counter()
            await engine.generate("any", ImageRequest(prompt="a", seed=turn, width=256, height=256), lambda *_: None)
            took[name].append(time.perf_counter() - began_s)
            cpu[name].append(sum(map(_cpu_s, pids)) - before_s)
    for engine in engines.values():
        await engine.stop()
    found = {f"{name}_ms": statistics.median(values) * 1000 for name, values in took.items()}
    return found | {f"{name}_cpu_ms": statistics.median(values) * 1000 for name, values in cpu.items()}


def _cpu_s(pid: int) -> float:
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def main() -> int:
    """Run the proof, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.ray_proof")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--only", choices=["figures", "chaos"])
    parser.add_argument("--probe", choices=["nodes", "costs"], help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(_answer(options.probe, options.address)))
        return 0
    figures = Figures()
    with site() as shop:
        if options.only != "chaos":
            measure(shop, figures)
            print(figures.table(), flush=True)
        if options.only != "figures":
            disturb(shop, figures, seconds=options.minutes * 60, jobs=options.jobs)
        examine(shop, figures)
    print(f"\n{figures.table()}\n\n{figures.counts} after {figures.events}")
    for violation in figures.violations:
        print(violation, file=sys.stderr)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
