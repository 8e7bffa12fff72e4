"""Trace a server's memory from a test. Python imports this module at startup.

At the first SIGUSR2 it remembers what is allocated; at the next it writes what has been allocated since then, by line
of code and by type of object, to the file that TEST_TRACE names.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import tracemalloc
from collections import Counter
from typing import ClassVar

_path = os.environ.get("TEST_TRACE")
_FRAMES = 3
_TOP = 40


def _types() -> Counter[str]:
    return Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())


class _Trace:
    """The state at the first signal."""

    snapshot: tracemalloc.Snapshot | None = None
    types: ClassVar[Counter[str]] = Counter()


def _on_signal(_: int, __: object) -> None:
    gc.collect()
    snapshot, types = tracemalloc.take_snapshot(), _types()
    if _Trace.snapshot is None:
        _Trace.snapshot, _Trace.types = snapshot, types
        return
    assert _path
    with open(_path, "a") as out:
        current, peak = tracemalloc.get_traced_memory()
        out.write(
            f"=== traced {current / 2**20:.1f} MB, peak {peak / 2**20:.1f} MB, blocks {sys.getallocatedblocks()}\n"
        )
        for stat in snapshot.compare_to(_Trace.snapshot, "lineno")[:_TOP]:
            out.write(f"{stat}\n")
        for stat2 in snapshot.compare_to(_Trace.snapshot, "traceback")[:8]:
            out.write(
                f"--- {stat2.size_diff} B in {stat2.count_diff} blocks\n" + "\n".join(stat2.traceback.format()) + "\n"
            )
        grown = types - _Trace.types
        for name, count in grown.most_common(_TOP):
            out.write(f"{count:+d} {name}\n")
        out.write("=== end\n")


if _path and not hasattr(signal, "_traced"):
    tracemalloc.start(_FRAMES)
    signal.signal(signal.SIGUSR2, _on_signal)
