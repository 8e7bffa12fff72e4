"""Pools of threads by purpose, so that work of one kind never waits behind another kind.

asyncio's default pool is one for everything: a mail server that hangs would fill it, and every other use would wait.
A test forbids `asyncio.to_thread` and the default executor.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class ThreadPool:
    """A named pool with a fixed number of threads, started at the first use and again after `close`."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run `function(*arguments)` in a thread of this pool and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._running(), lambda: function(*arguments))

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


#: CPU work on the bytes of files to download: lines of CSV.
EXPORTS = ThreadPool("exports", 1)
