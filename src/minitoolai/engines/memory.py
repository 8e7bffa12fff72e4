"""Read how much memory this machine, or the control group of this process, has and how much of it is free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Memory of the machine that a model leaves to the server and the system.
OTHER_BYTES = 1_000_000_000
_FREE_IN_GROUP = ("inactive_file", "total_inactive_file")


class Memory(NamedTuple):
    """Memory in bytes. `available` can be used without swapping; it includes caches that the kernel gives up."""

    total: int
    available: int


def read_memory(limit_mb: int = 0, root: Path = Path("/")) -> Memory:
    """Return the memory of the machine or, if that is less, of the control group or of `limit_mb` (0: no limit)."""
    total = available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fields = _fields(root / "proc/meminfo")
    if "MemTotal:" in fields and "MemAvailable:" in fields:
        total, available = fields["MemTotal:"] * 1024, fields["MemAvailable:"] * 1024
    for limit, used in _group_limits(root):
        total, available = min(total, limit), min(available, max(0, limit - used))
    if limit_mb:
        total, available = min(total, limit_mb * 1_000_000), min(available, limit_mb * 1_000_000)
    return Memory(total, available)


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use of the control groups of this process and of those that contain them, versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = base / path.lstrip("/")
        # In a container, the path may be that of the host, and the files of its own group are at the base.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(base):
                break
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and used is not None:
                stat = _fields(folder / "memory.stat")
                cache = next((stat[name] for name in reversed(_FREE_IN_GROUP) if name in stat), 0)
                yield limit, max(0, used - cache)


def _number(path: Path) -> int | None:
    """Return the number in a file. None without the file, or if it says `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _fields(path: Path) -> dict[str, int]:
    """Return the fields of a file with a name and a number per line."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
