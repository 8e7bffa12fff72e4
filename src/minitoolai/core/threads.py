"""Pools of threads by purpose, so that work of one kind never waits behind another kind.

asyncio's default pool is one for everything: a mail server that hangs would fill it, and every other use would wait.
A test forbids `asyncio.to_thread` and the default executor.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class ThreadPool:
    """A named pool with a fixed number of threads, started at the first use and again after `close`."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        """Run `function(*arguments, **named)` in a thread of this pool and return its result."""
        work = partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._running(), work)

    def close(self) -> None:
        """Drop what has not begun, and let the threads end. Does not wait for them."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def _running(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.size, thread_name_prefix=self.name)
            return self._executor


# One pool for each kind of work. A kind that waits for another machine has a pool of its own, because that machine may
# hang. CPU work has small pools: more threads than processors would only take turns.

#: Encode the lines of files to download.
EXPORTS = ThreadPool("exports", 1)
#: Hash large requests, compress and decompress stored responses (`Idempotency-Key`).
RESPONSES = ThreadPool("responses", 2)
#: Convert images for engines, and their images to PNG.
PICTURES = ThreadPool("pictures", 2)
#: Make invoices and statements as PDF.
DOCUMENTS = ThreadPool("documents", 1)
#: Encode the speech of upstreams.
AUDIO = ThreadPool("audio", 2)
#: Read and write images in the local folder.
FILES = ThreadPool("files", 4)
#: Write and read uploaded files, and check their marks.
UPLOADS = ThreadPool("uploads", 2)
#: Compress, decompress and compare archived days.
ARCHIVE = ThreadPool("archive", 1)
#: Send e-mails. Each may wait for the mail server until its timeout.
MAIL = ThreadPool("mail", 4)
#: Encrypt and decrypt the secrets of second factors.
CIPHERS = ThreadPool("ciphers", 1)
#: Prepare, encrypt and decrypt stored requests and responses.
BODIES = ThreadPool("bodies", 1)
#: Resolve the names of upstreams and of the moderation server.
NAMES = ThreadPool("upstream-names", 16)
#: Start and stop what this process registered: the writer, tracing, the registration at the database.
CONTROL = ThreadPool("control", 2)
#: Call Ray, which waits for the head of its cluster.
PLACEMENT = ThreadPool("placement", 8)

POOLS = (
    EXPORTS,
    RESPONSES,
    PICTURES,
    DOCUMENTS,
    AUDIO,
    FILES,
    UPLOADS,
    ARCHIVE,
    MAIL,
    CIPHERS,
    BODIES,
    NAMES,
    CONTROL,
    PLACEMENT,
)


#: glibc's M_ARENA_MAX, and its value here.
_ARENA_MAX, _ARENAS = -8, 2
#: glibc returns the free end of a heap once it is more than twice as large as the largest block freed so far.
_LARGE_BLOCK = 4 * 1024 * 1024


def prepare_heaps() -> None:
    """Let all threads share two heaps that keep up to 8 MB of free memory each, before the first thread starts.

    By default glibc gives nearly each thread a heap of its own (8 for each processor). Each keeps the most that its
    thread ever used, so the memory of a process with many threads would grow for an hour, by about 30 MB. Python
    allocates small objects itself, so threads rarely wait for a heap. And with prompts of half a megabyte, a heap would
    return its end to the system after each request, and touch new pages in the next: a tenth of the request's CPU.
    Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, _ARENAS)
        # Freed again, and never touched. A limit that is set with mallopt would no longer grow with larger blocks.
        bytes(_LARGE_BLOCK)


def close_pools() -> None:
    """Close every pool, when the process stops. Running work ends by itself; Python waits for it at its exit."""
    for pool in POOLS:
        pool.close()
