"""A process that asks /healthz all the time, over one connection: python -m tests.support.heartbeat PORT

For each line that it reads, it prints what it saw since the last: [how often it asked, median, worst], in milliseconds.
"""

from __future__ import annotations

import json
import select
import sys
import time
from contextlib import closing
from statistics import median

from tests.support.uploads import connect, head, read_reply

PAUSE_S = 0.004


def main() -> None:
    """Ask until there are no more lines."""
    seen: list[float] = []
    with closing(connect(int(sys.argv[1]))) as connection:
        while True:
            if select.select([sys.stdin], [], [], PAUSE_S)[0]:
                if not sys.stdin.readline():
                    return
                print(json.dumps([len(seen), median(seen or [0.0]), max(seen or [0.0])]), flush=True)
                seen.clear()
            started_s = time.perf_counter()
            connection.sendall(head("GET", "/healthz", {}, 0))
            assert read_reply(connection).status == 200
            seen.append((time.perf_counter() - started_s) * 1000)


if __name__ == "__main__":
    main()
