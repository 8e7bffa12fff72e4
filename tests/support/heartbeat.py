"""A process that asks /healthz all the time, over one connection: python -m tests.support.heartbeat PORT [PID]

For each line that it reads, it prints what it saw since the last: [how often it asked, median, worst], in milliseconds.
With the PID of the server, the time that threads of the two were ready to run but had no processor is subtracted, so
that other work on the machine does not count.
"""

from __future__ import annotations

import contextlib
import json
import select
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from tests.support.uploads import connect, head, read_reply

PAUSE_S = 0.004


def waited_s(pids: list[str]) -> dict[str, float]:
    """How long each thread of these processes has waited for a processor: the kernel's run queue delay."""
    found: dict[str, float] = {}
    for pid in pids:
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            # A thread may have ended meanwhile.
            with contextlib.suppress(OSError):
                found[str(stat)] = int(stat.read_text().split()[1]) / 1e9
    return found


def main() -> None:
    """Ask until there are no more lines."""
    seen: list[float] = []
    pids = [*sys.argv[2:3], "self"] if len(sys.argv) > 2 else []
    with closing(connect(int(sys.argv[1]))) as connection:
        while True:
            if select.select([sys.stdin], [], [], PAUSE_S)[0]:
                if not sys.stdin.readline():
                    return
                print(json.dumps([len(seen), median(seen or [0.0]), max(seen or [0.0])]), flush=True)
                seen.clear()
            before_s = waited_s(pids)
            started_s = time.perf_counter()
            connection.sendall(head("GET", "/healthz", {}, 0))
            assert read_reply(connection).status == 200
            took_s = time.perf_counter() - started_s
            after_s = waited_s(pids)
            took_s -= sum(after_s[thread] - before_s.get(thread, after_s[thread]) for thread in after_s)
            seen.append(max(took_s, 0.0) * 1000)


if __name__ == "__main__":
    main()
