"""Wait for conditions, and inspect processes from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: A timeout proves nothing if the machine was suspended meanwhile.
LEAST_ASKED = 20


def eventually(question: Callable[[], Any], *, within_s: float = 15.0, every_s: float = 0.02) -> Any:
    """Return the first truthy result; AssertionError with the last one if there is none in time."""
    give_up_s, asked = time.monotonic() + within_s, 0
    while not (answer := question()):
        asked += 1
        assert asked < LEAST_ASKED or time.monotonic() < give_up_s, f"still {answer!r} after {within_s:g} s"
        time.sleep(every_s)
    return answer


def children_of(pid: int) -> set[int]:
    """Return the PIDs of its direct children, from /proc."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                found.add(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    """Return True if a process with this PID runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
