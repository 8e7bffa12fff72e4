"""Image jobs over HTTP, as customers send them; and the processes that draw, as an enemy sees them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import requests

from minitoolai.storage.audit import broken_invariants
from tests.support.server import Account, ServerProcess
from tests.support.waiting import children_of

PRICE = 1_500_000
PATH = "/api/texttoimage/"

#: `quick` is drawn by a fake at 20 ms a step, `sketchy` by the embedded model. Chats are answered at once.
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
    """The answer to a small job of `quick`, unless fields say otherwise."""
    body = {"model": "quick", "prompt": "a sun", "width": 256, "height": 256, **fields}
    answer = requests.post(account.server.url + PATH, json=body, headers=account.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def poll(server: ServerProcess, job: dict[str, Any]) -> dict[str, Any]:
    """The job as it stands."""
    body = {"jobid": job["jobid"], "signature": job["signature"]}
    return requests.post(server.url + PATH + "jobs/", json=body, timeout=30).json()  # type: ignore[no-any-return]


def drawing_processes(pid: int) -> list[int]:
    """The children of this process that draw."""
    return [child for child in children_of(pid) if "canvas_desk" in _command(child)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def hurt(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wrong_jobs(server: ServerProcess, acknowledged: set[int]) -> list[str]:
    """Whatever is not as promised once all jobs should have ended: lost, unended, charged twice, without a picture."""
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
            wrong.append(f"{number} is {state}, and its picture {result}")
    return wrong + [f"{name}: {found}" for name, found in server.read(broken_invariants).items()]
