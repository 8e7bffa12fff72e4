"""A Ray cluster on this machine: a head and nodes, each killed with everything that it started."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support import programs
from tests.support.identity_provider import free_port
from tests.support.waiting import children_of

SOURCES = Path(__file__).parents[2] / "src"
RAY = Path(sys.executable).with_name("ray")


class RayNode:
    """One machine of the cluster: `ray start`, and all processes below it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    @property
    def pids(self) -> list[int]:
        """Return its processes, the first one first."""
        found = [self.process.pid]
        for pid in found:
            found += children_of(pid)
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes: SIGKILL is a loss of power, SIGSTOP one of the network."""
        for pid in self.pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def kill(self) -> None:
        """Kill the machine."""
        self.signal(signal.SIGKILL)
        self.process.wait(30)


class RayCluster:
    """A head without processors, and nodes that are added one after the other. Joining it needs its token."""

    def __init__(self) -> None:
        programs.ray()
        # The paths of sockets must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        #: What a program needs to join it.
        self.env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.nodes: list[RayNode] = []
        self._number = 0
        self.head = self._start_head()
        #: The node through which a worker joins.
        self.gate = self._begin_node(0)
        self._wait(self.gate)

    def _start_head(self) -> RayNode:
        return self._start("--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false",
                           f"--temp-dir={self.folder}/s")  # fmt: skip

    def restart_head(self) -> None:
        """Start a killed head again, at the same address and with what it remembers."""
        # On this machine Ray would take the processes of the nodes for a head that runs.
        (self.folder / "s" / "ray_current_cluster").unlink(missing_ok=True)
        self.head = self._start_head()

    def add_node(self, cpus: int = 1) -> RayNode:
        """Add a machine, and wait until it has joined."""
        return self.add_nodes(1, cpus)[0]

    def add_nodes(self, count: int, cpus: int) -> list[RayNode]:
        """Add machines at the same time, and wait until all have joined."""
        added = [self._begin_node(cpus) for _ in range(count)]
        self.nodes += added
        for node in added:
            self._wait(node)
        return added

    def _begin_node(self, cpus: int) -> RayNode:
        # In a folder of its own, because nodes that start at the same time would take the same names for sockets.
        self._number += 1
        return self._begin(
            f"--address={self.address}", f"--num-cpus={cpus}", f"--temp-dir={self.folder}/{self._number}"
        )

    def _start(self, *options: str) -> RayNode:
        node = self._begin(*options)
        self._wait(node)
        return node

    def _begin(self, *options: str) -> RayNode:
        log = self.folder / f"start{time.monotonic_ns()}.log"
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(SOURCES),
            # A lost machine is noticed in seconds, and a head remembers.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(self.folder / "head"),
            **self.env,
        }
        command = [str(RAY), "start", *options, "--block", "--disable-usage-stats", "--object-store-memory=80000000"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        return RayNode(process, log)

    def _wait(self, node: RayNode) -> None:
        give_up_s = time.monotonic() + 90
        while "Ray runtime started" not in node.log.read_text():
            if node.process.poll() is not None or time.monotonic() > give_up_s:
                node.kill()
                raise AssertionError(node.log.read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill everything."""
        for node in [*self.nodes, self.gate, self.head]:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
