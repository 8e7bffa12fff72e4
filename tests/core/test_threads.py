"""Pools of threads: each has its own threads, as many as it says, and can be closed and used again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest

from minitoolai.core.threads import POOLS, ThreadPool


def test_a_pool_that_is_full_delays_no_other_pool() -> None:
    slow, quick = ThreadPool("slow", 2), ThreadPool("quick", 1)
    release = threading.Event()

    async def run() -> None:
        waiting = [asyncio.ensure_future(slow.run(release.wait, 30)) for _ in range(24)]
        await asyncio.sleep(0.05)
        began_s = time.monotonic()
        assert await asyncio.wait_for(quick.run(lambda a, b: a + b, 1, 2), 5) == 3
        assert time.monotonic() - began_s < 1
        assert not any(future.done() for future in waiting)
        assert len([t for t in threading.enumerate() if t.name.startswith("slow")]) == 2
        release.set()
        assert all(await asyncio.gather(*waiting))

    try:
        asyncio.run(run())
    finally:
        slow.close()
        quick.close()


def test_closing_drops_what_has_not_begun_and_waits_for_nothing() -> None:
    pool = ThreadPool("closing", 1)
    release = threading.Event()

    async def run() -> None:
        first, second = (asyncio.ensure_future(pool.run(release.wait, 30)) for _ in range(2))
        await asyncio.sleep(0.05)
        began_s = time.monotonic()
        pool.close()
        assert time.monotonic() - began_s < 1
        with pytest.raises(asyncio.CancelledError):
            await second
        release.set()
        assert await first
        # The next use starts it again.
        assert await pool.run(threading.current_thread) is not threading.main_thread()

    asyncio.run(run())
    pool.close()
    pool.close()


def test_an_error_in_a_thread_is_raised_where_it_is_awaited() -> None:
    pool = ThreadPool("failing", 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(pool.run(lambda: 1 // 0))
    assert asyncio.run(pool.run(sorted, [1, 2], reverse=True)) == [2, 1]
    pool.close()


def test_pools_have_names_of_their_own() -> None:
    assert len({pool.name for pool in POOLS}) == len(POOLS)
    assert all(1 <= pool.size <= 16 for pool in POOLS)


#: Eight threads allocate and free 4 MB each, in pieces that Python leaves to malloc. Prints the heaps of glibc.
ARENAS = """
import ctypes, sys, threading
from minitoolai.core.threads import prepare_heaps
if sys.argv[1] == "limited":
    prepare_heaps()
libc = ctypes.CDLL(None)
barrier = threading.Barrier(8)
def work():
    barrier.wait()
    kept = [bytes(1000 + n % 7) for n in range(4000)]
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.malloc_stats()
"""


def test_threads_share_two_heaps() -> None:
    def arenas(how: str) -> int:
        command = [sys.executable, "-c", ARENAS, how]
        clean = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60, check=True)
        return done.stderr.count("Arena ")

    assert arenas("limited") == 2
    # Otherwise each thread would have its own.
    assert arenas("free") > 4


#: Three prompts of half a megabyte come and go a hundred times. Prints how many pages were touched for the first time.
PAGES = """
import resource, sys
from minitoolai.core.threads import prepare_heaps
if sys.argv[1] == "prepared":
    prepare_heaps()
def come_and_go():
    for _ in range(100):
        kept = [b"word " * 100_000 for _ in range(3)]
        del kept
come_and_go()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
come_and_go()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_long_prompts_reuse_the_memory_of_earlier_ones() -> None:
    def pages(how: str) -> int:
        command = [sys.executable, "-c", PAGES, how]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        return int(subprocess.run(command, env=clean, capture_output=True, timeout=60, check=True).stdout)

    assert pages("prepared") < 100
    assert pages("free") > 10_000
