"""Manage child processes of the bench: start them on a core, measure them through /proc, stop them by their PIDs."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class StartFailed(Exception):
    """A child did not start; the message carries the end of its output."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def tree_of(pid: int) -> list[int]:
    """Return the PIDs of the process and its living descendants."""
    pids = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                pids += tree_of(int(child))
    except FileNotFoundError:
        pass
    return pids


def cpu_s_of(pid: int) -> float:
    """Return user and system time of the whole tree, including children already reaped."""
    ticks = 0
    for each in tree_of(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS


def wakeups_of(pid: int) -> int:
    """Return how often threads of the tree have waited: their voluntary context switches."""
    count = 0
    for each in tree_of(pid):
        for status in Path(f"/proc/{each}/task").glob("*/status"):
            try:
                lines = status.read_text().splitlines()
            except FileNotFoundError:
                continue
            count += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return count


def rss_mb_of(pid: int) -> float:
    """Return the resident memory of the whole tree, in MB."""
    pages = 0
    for each in tree_of(pid):
        try:
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except FileNotFoundError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Child:
    """A process and its descendants; its output goes to a file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        cores: set[int] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        pin = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if cores else []
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*pin, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
            )
        self.pid = self.process.pid

    def wait_ready(self, url: str, *, within_s: float) -> None:
        """Wait for any HTTP response from the URL. StartFailed if the process ends or the time is up."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise StartFailed(f"exit status {self.process.returncode}: {self.last_output()}")
            try:
                urllib.request.urlopen(url, timeout=2).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        raise StartFailed(f"no response within {within_s:.0f} s: {self.last_output()}")

    def wait_for_file(self, path: Path, *, within_s: float) -> str:
        """Return the content of a file that the process writes once it is ready. StartFailed as above."""
        end = time.monotonic() + within_s
        while not path.exists():
            if self.process.poll() is not None:
                raise StartFailed(f"exit status {self.process.returncode}: {self.last_output()}")
            if time.monotonic() > end:
                raise StartFailed(f"not ready within {within_s:.0f} s: {self.last_output()}")
            time.sleep(0.05)
        return path.read_text()

    def last_output(self) -> str:
        return self.log.read_text(errors="replace")[-600:].strip().replace("\n", " | ")

    def stop(self) -> None:
        """Send SIGTERM, wait five seconds, then SIGKILL the remaining tree."""
        pids = tree_of(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in pids[1:]:
            if _started_by_us(pid, pids):
                os.kill(pid, signal.SIGKILL)


def _started_by_us(pid: int, pids: list[int]) -> bool:
    """Return True if the PID still belongs to the stopped tree (the parent of an orphan is 1) and was not reused."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return False
    return parent == 1 or parent in pids
