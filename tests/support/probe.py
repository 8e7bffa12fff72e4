"""Request first tokens at fixed moments, from a separate process.

A separate process measures the server without the delays of the process that drives the load. Usage: python -m
tests.support.probe PORT SECONDS, with the key on standard input. It prints the milliseconds to each first token as a
JSON list.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE

from tests.support.load import Caller

BODY = {"model": "quick", "messages": [{"role": "user", "content": "now"}], "max_completion_tokens": 4}
#: A first token is requested this often, however long the last one takes, so that no pause of the server is missed.
EVERY_S = 0.1


async def probe(port: int, key: str, seconds: float) -> list[float]:
    """Return the milliseconds to the first token, measured by a process that does nothing else."""
    command = [sys.executable, "-m", "tests.support.probe", str(port), str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    said, _ = await process.communicate(key.encode())
    assert process.returncode == 0, f"the probe ended with status {process.returncode}"
    times_ms: list[float] = json.loads(said)
    return times_ms


async def ask_over_and_over(port: int, key: str, seconds: float) -> list[float]:
    """Measure the same in this process."""
    loop, times_ms, idle = asyncio.get_running_loop(), [], [Caller(port, key)]

    async def ask() -> None:
        caller = idle.pop() if idle else Caller(port, key)
        seen = await caller.ask(BODY)
        assert seen.done, (seen.status, seen.body[:300])
        times_ms.append(seen.first_byte_s * 1000)
        idle.append(caller)

    started_s = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(max(1, round(seconds / EVERY_S))):
            await asyncio.sleep(started_s + number * EVERY_S - loop.time())
            group.create_task(ask())
    for caller in idle:
        await caller.close()
    return times_ms


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask_over_and_over(int(sys.argv[1]), sys.stdin.read(), float(sys.argv[2])))))
