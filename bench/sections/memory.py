"""Memory idle, under load and after: resident memory of each gateway's process tree, in MB.

Idle is after a first second of each kind of request, under load the highest value during 400 slow streams, and after is
the value once the gateway has rested while the others were measured.
"""

import subprocess
import time
from dataclasses import replace
from typing import Any

from bench.gateways import Gateway
from bench.measure import Plan, Row, Say, lab_of, load_command, warm_up
from bench.procs import rss_mb_of
from bench.report import markdown, number

STREAMS = 400
#: The last gateway rests so long as well.
REST_S = 15.0
_EVERY_S = 0.25


def run(
    gateways: list[Gateway], plan: Plan, say: Say, streams: int = STREAMS, rest_s: float = REST_S
) -> list[dict[str, Any]]:
    """Load one gateway after the other, and read the memory of all of them afterwards."""
    with lab_of([gateway for gateway in gateways if gateway.name != "direct"], plan, say) as lab:
        found: list[dict[str, Any]] = []
        for _, row, running in lab.up:
            warm_up(row, running, replace(lab.plan, seconds=1.0))
        time.sleep(min(2.0, rest_s))
        for _, row, running in lab.up:
            assert running.child is not None
            say(f"memory: {row.title}")
            idle_mb = rss_mb_of(running.child.pid)
            options = ("--watch", "--tokens", "40", "--every-ms", "100")
            command = load_command(
                running, replace(lab.plan, seconds=max(1.0, plan.seconds)), *options, callers=streams
            )
            found.append({"name": row.name, "title": row.title, "idle_mb": idle_mb})
            found[-1]["load_mb"] = max(idle_mb, _peak_mb(command, running.child.pid, row))
        time.sleep(rest_s)
        for one, (_, _, running) in zip(found, lab.up, strict=True):
            assert running.child is not None
            one["after_mb"] = rss_mb_of(running.child.pid)
        return found


def _peak_mb(command: list[str], pid: int, row: Row) -> float:
    peak_mb = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak_mb = max(peak_mb, rss_mb_of(pid))
            time.sleep(_EVERY_S)
        _, complaints = process.communicate()
    if process.returncode:
        row.complaints.append(complaints.strip()[-300:])
    return peak_mb


def table(found: list[dict[str, Any]]) -> str:
    """Return the table of memory."""
    lines = [
        [one["title"], *(number(one[name], 0) for name in ("idle_mb", "load_mb", "after_mb")),
         number(100 * (one["after_mb"] / one["idle_mb"] - 1), 0) + " %"]
        for one in found
    ]  # fmt: skip
    return markdown(["memory, MB", "idle", f"with {STREAMS} streams", "after", "after/idle"], lines)
