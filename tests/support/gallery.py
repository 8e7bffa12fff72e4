"""Image jobs over HTTP, and access to the image processes, for tests that disturb them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import requests

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.pictures import data_url, encoded, mask, picture
from tests.support.server import PROGRAM, Account, ServerProcess
from tests.support.waiting import children_of, eventually

PRICE = 1_500_000
PATH = "/api/texttoimage/"

#: `quick` uses a fake engine with 20 ms per step, `sketchy` the embedded model. Chats have no delay.
CATALOG = """
[engines.quick]
kind = "fake"
model = "fake-image-1"
tokens = 16
delay_ms = 20

[engines.talk]
kind = "fake"
model = "fake-quick-1"
tokens = 16

[engines.sketch]
kind = "sketch"

[chat.quick]
input = "0.15"
output = "0.60"
context = 8192
max_output = 4096
engines = ["talk"]

[image.quick]
price = "0.0015"
engines = ["quick"]

[image.sketchy]
price = "0.0015"
engines = ["sketch"]
"""


def submit(account: Account, **fields: Any) -> dict[str, Any]:
    """Submit a small job, for `quick` by default, and return the response."""
    body = {"model": "quick", "prompt": "a sun", "width": 256, "height": 256, **fields}
    answer = requests.post(account.server.url + PATH, json=body, headers=account.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def submit_edit(account: Account, **fields: Any) -> dict[str, Any]:
    """Submit a job that changes a small uploaded image, half of it if the prompt is of even length."""
    body = {"model": "quick", "prompt": "a sun", "image": data_url(encoded(picture(256, 256))), **fields}
    if len(body["prompt"]) % 2 == 0:
        body["mask"] = data_url(encoded(mask(256, 256, (0, 0, 128, 256))))
    url = account.server.url + "/api/imagetoimage/"
    answer = requests.post(url, json=body, headers=account.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def poll(server: ServerProcess, job: dict[str, Any]) -> dict[str, Any]:
    """Return the current state of a job."""
    body = {"jobid": job["jobid"], "signature": job["signature"]}
    return requests.post(server.url + PATH + "jobs/", json=body, timeout=30).json()  # type: ignore[no-any-return]


class WorkerProcess:
    """A `minitoolai worker` on the database and data folder of a server."""

    def __init__(self, server: ServerProcess, *, ray: str = "", **env: str) -> None:
        """`ray`: the address of the Ray cluster on which it draws."""
        self._server = server
        self._options = ["--ray", ray] if ray else []
        self._env = server.env | env
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> WorkerProcess:
        """Start, and wait until it is ready."""
        with (self._server.folder / "worker.log").open("a") as log:
            self._process = subprocess.Popen(
                [*PROGRAM, "worker", "--data-dir", str(self._server.data_dir), *self._options],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._env,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("MiniToolAI draws for"), (self._server.folder / "worker.log").read_text()[-3000:]
        return self

    def kill(self) -> None:
        """Kill the worker with SIGKILL, unless it has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def stop(self, within_s: float = 40.0) -> None:
        """Stop the worker with SIGTERM. It finishes or returns its jobs, and exits with status 0."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        self._process.communicate(timeout=within_s)
        assert self._process.returncode == 0


def job_counts(server: ServerProcess) -> dict[str, int]:
    """Return the number of jobs by state."""
    question = "SELECT state, count(*) FROM generations WHERE kind = 'image' GROUP BY state"
    return dict(server.read(lambda c: c.execute(question)))


def settle_jobs(server: ServerProcess, *, within_s: float) -> None:
    """Wait until no job is queued or running."""
    eventually(lambda: not {"queued", "running"} & set(job_counts(server)), within_s=within_s, every_s=0.3)


def drawing_processes(pid: int) -> list[int]:
    """Return the image processes among the children of a process."""
    return [child for child in children_of(pid) if "engines.images.child" in _command(child)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def hurt(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have exited."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wrong_jobs(server: ServerProcess, acknowledged: set[int]) -> list[str]:
    """Return the violations once all jobs should have ended: lost, unfinished, charged twice, without an image."""
    rows = server.read(
        lambda c: c.execute(
            "SELECT g.id, g.state, g.result, h.state, h.settled, count(t.hold_id), coalesce(sum(t.amount), 0)"
            " FROM generations g JOIN holds h ON h.id = g.id LEFT JOIN transfers t ON t.hold_id = g.id"
            " WHERE g.kind = 'image' GROUP BY g.id, g.state, g.result, h.state, h.settled"
        )
    )
    wrong = [f"lost: {sorted(lost)[:5]}"] if (lost := acknowledged - {row[0] for row in rows}) else []
    kept = {path.stem for path in (server.data_dir / "objects").rglob("*.png")}
    for number, state, result, *money in rows:
        expected = ["posted", PRICE, 1, PRICE] if state == "succeeded" else ["voided", 0, 0, 0]
        if state not in ("succeeded", "failed", "cancelled"):
            wrong.append(f"{number} has not ended: {state}")
        elif list(money) != expected:
            wrong.append(f"{number} is {state}, and its money {money}")
        elif (result is not None) != (state == "succeeded") or (result is not None and result not in kept):
            wrong.append(f"{number} is {state}, and its image {result}")
    question = "SELECT count(*) FROM job_inputs"
    # The sweep runs every minute. What it deletes are uploads of jobs that ended while their process was killed.
    try:
        eventually(lambda: server.read(lambda c: c.execute(question)) == [(0,)], within_s=90, every_s=0.5)
    except AssertionError:
        wrong.append("uploads outlive their jobs")
    stored = {path.stem for path in (server.data_dir / "objects").rglob("*.png")}
    if uploads := stored - {row[2] for row in rows}:
        # Results of attempts that were superseded are left to the sweep for orphans.
        small = [path for path in (server.data_dir / "objects").rglob("*.png") if path.stem in uploads]
        wrong += [f"an upload is left: {path.name}" for path in small if b"parameters" not in path.read_bytes()]
    return wrong + [f"{name}: {found}" for name, found in server.read(broken_invariants).items()]
